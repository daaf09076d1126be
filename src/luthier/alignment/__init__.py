"""What people want, as numbers that a model can be trained on.

Enters: prompts, what a model wrote for them, and the rows they came from. Leaves: scores, each named and counted.
"""
