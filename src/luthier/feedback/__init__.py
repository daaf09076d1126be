"""What people said of texts: one append-only store, and what can be read out of it. Needs no torch."""

from luthier.feedback.agreement import alpha, fleiss, kappa, table
from luthier.feedback.analytics import People, people
from luthier.feedback.rows import FORMS, Exported, training_rows
from luthier.feedback.schema import KINDS
from luthier.feedback.store import Entry, Said, Store, judged

__all__ = [
    "FORMS", "KINDS", "Entry", "Exported", "People", "Said", "Store",
    "alpha", "fleiss", "judged", "kappa", "people", "table", "training_rows",
]  # fmt: skip
