"""Which weights move: one method a file.

Enters: a loaded model and the `method` section. Leaves: the model with the right weights free to move, others
bit for bit as they were. The adapters themselves are PEFT's; here they are put in place, trained ragged like
everything else, and saved so that plain PEFT loads them.
"""
