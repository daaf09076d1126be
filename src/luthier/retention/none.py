"""No protection: weights go where the loss sends them."""

from __future__ import annotations

from luthier.retention.retention import Retention


class Nothing(Retention):
    """The way that does nothing."""
