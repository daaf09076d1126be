"""Asking a model for texts, many times, with nothing paid for twice and nothing lost when the process dies."""
