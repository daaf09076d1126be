"""Full fine-tuning: every weight moves."""

from __future__ import annotations

from luthier.models.adapters.method import Method


class Full(Method):
    """The method."""
