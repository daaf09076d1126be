"""Where programs that a model wrote are run: what goes in, what comes out, and what they cannot reach."""
