"""The rewards, one file each: what is asked of completions, and how it is found out."""
