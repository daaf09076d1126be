"""What protects the skills that a model had before: one way a file.

Enters: the `retention` section, and a model in training shape whose weights are still the starting ones. Leaves:
what is added to the loss, or a mix of starting and trained weights. How much was forgotten is measured by probes
(`workflow/probes.py`), whether it is protected or not.
"""
