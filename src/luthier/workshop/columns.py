"""Which column of a table is the text, which its label: by name first, then by what stands in it.

Enters: the columns of a profile and some rows. Leaves: names of columns, or None. Nothing is decided for good here: a report
says what was taken for what and why, and a recipe can name others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from luthier.data.profile import Column, number
from luthier.data.rows import Row

TEXTS = (
    "text", "sentence", "content", "review", "tweet", "comment", "message", "utterance", "query", "question", "source", "src",
    "document", "article", "passage", "description", "body", "abstract", "post", "prompt", "input", "quote",
    "transcript", "headline", "title", "answer",
)  # fmt: skip
"""Names of columns with what is read, likeliest first."""
LABELS = (
    "label", "labels", "category", "class", "target", "sentiment", "intent", "topic", "emotion", "emotions", "score", "rating",
    "stars", "diagnosis", "gold_label", "duplicate", "is_duplicate", "similarity", "toxic", "grade", "priority", "department",
    "genre", "tag", "tags", "coarse", "y",
)  # fmt: skip
"""Names of columns with what is to be said of a text, likeliest first."""
WRITTEN = ("target", "tgt", "summary", "translation", "highlights", "abstract", "headline", "output", "answer", "response", "tldr", "label")
"""Names of columns with what is written for a text."""
PAIRS = (
    ("question1", "question2"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("text1", "text2"), ("text_a", "text_b"),
    ("sentence_a", "sentence_b"), ("premise", "hypothesis"), ("text", "text_pair"), ("query", "document"), ("query", "passage"),
    ("question", "passage"), ("question", "context"), ("claim", "evidence"),
)  # fmt: skip
"""Names of two columns that are read together."""
FOUND = (
    ("anchor", "positive"),
    ("query", "positive"),
    ("query", "pos"),
    ("query", "passage"),
    ("query", "document"),
    ("question", "positive"),
)
"""Names of two columns of which one is to be found for the other."""
GROUPS = (
    "group", "passage", "passage_id", "document_id", "doc_id", "patient", "patient_id", "user_id", "author_id", "conversation_id",
    "session_id", "context_id", "dialogue_id", "thread_id",
)  # fmt: skip
"""Names of columns whose equal values belong together."""
KEY = re.compile(r"(^|[_\s])(id|ids|index|idx|uuid|guid|key|no|nr)$|ID$", re.IGNORECASE)
SHORT = 60
"""Characters up to which a cell may be a label."""
MOST_LABELS = 1000
SEPARATORS = (",", ";", "|")
YES_NO = {"0", "1", "true", "false", "yes", "no"}


def is_key(column: Column, rows: int) -> bool:
    """Whether a column only says which row it is."""
    if column.name.lower() in TEXTS or column.name.lower() in LABELS:
        return False
    named = KEY.search(column.name) is not None or column.name.lower() == "unnamed: 0" or not column.name
    single = column.words <= 1 and column.distinct is not None and column.distinct == rows > 1
    return named or (single and column.type in ("text", "whole number"))


def is_text(column: Column, rows: int) -> bool:
    """Whether a column holds texts to be read, rather than names of something."""
    if column.type not in ("text", "list") or column.characters is None or is_key(column, rows):
        return False
    if column.name.lower() in TEXTS[:9] and column.type == "text" and column.words >= 1.5:
        return True
    few = column.distinct is not None and column.distinct <= max(2, 0.1 * rows)
    return column.words >= 2.5 and (not few or column.characters.median > SHORT)


def by_name(names: Sequence[str], among: Mapping[str, Column]) -> str | None:
    """The column with the likeliest of some names, case aside."""
    lower = {n.lower(): n for n in reversed(list(among))}
    return next((lower[n] for n in names if n in lower), None)


def texts_of(columns: Mapping[str, Column], rows: int) -> list[str]:
    """Columns of texts, the one that is most likely meant first: by name, then the longest."""
    found = {n: c for n, c in columns.items() if is_text(c, rows)}

    def rank(name: str) -> tuple[int, float]:
        lower, told = name.lower(), found[name].characters
        return (TEXTS.index(lower) if lower in TEXTS else len(TEXTS), -(told.median if told else 0))

    return sorted(found, key=rank)


def pair_of(columns: Mapping[str, Column], texts: Sequence[str]) -> tuple[str, str] | None:
    """Two columns of texts that are read together, by their names."""
    lower = {n.lower(): n for n in texts}
    return next(((lower[a], lower[b]) for a, b in PAIRS if a in lower and b in lower), None)


def label_of(columns: Mapping[str, Column], rows: int, *, texts: Sequence[str]) -> str | None:
    """The column of labels or figures: by name, else the one with the fewest different values that repeat."""
    left = {n: c for n, c in columns.items() if n not in texts and not is_key(c, rows) and _may_be_label(c, rows)}
    named = by_name(LABELS, left)
    if named is not None:
        return named
    several = next((n for n, c in left.items() if separator_of(c)), None)
    if several is not None:
        return several
    few = {n: c.distinct for n, c in left.items() if c.distinct is not None and c.distinct <= max(2, min(0.2 * rows, MOST_LABELS))}
    return min(few, key=lambda n: few[n]) if few else None


def _may_be_label(column: Column, rows: int) -> bool:
    if column.type in ("empty", "nested", "other"):
        return False
    if column.distinct is not None and column.distinct < 2:
        return False
    if column.type == "text":
        return column.characters is not None and column.characters.most_of <= SHORT and (column.distinct or rows) < max(rows, 3)
    return True


def flags_of(columns: Mapping[str, Column]) -> list[str]:
    """Columns of 0 and 1 (or yes and no), where there are several: a label each."""
    found = [n for n, c in columns.items() if c.counts and len(c.counts) <= 2 and {v.strip().lower() for v in c.counts} <= YES_NO]
    return found if len(found) >= 2 else []


def separator_of(column: Column) -> str | None:
    """What stands between several labels in a cell; None where a cell is one label."""
    counts = column.counts
    if not counts or column.type != "text":
        return None
    for mark in SEPARATORS:
        several = [c for c in counts if mark in c]
        if not several or any(len(p.strip()) > SHORT // 2 or not p.strip() for c in several for p in c.split(mark)):
            continue
        alone = {c.strip() for c in counts if mark not in c}
        parts = [p.strip() for c in several for p in c.split(mark)]
        known = sum(p in alone or parts.count(p) > 1 for p in parts)
        if known >= 0.7 * len(parts) and len({*alone, *parts}) < 0.9 * len(counts) + len(several):
            return mark
    return None


def is_measure(column: Column) -> bool:
    """Whether numbers measure something: they have fractions, or are many."""
    return column.type == "number" or (column.type == "whole number" and (column.distinct is None or column.distinct > 50))


def negatives_of(columns: Mapping[str, Column]) -> list[str]:
    """Columns of texts that do not belong to the first, as the embedding task names them."""
    return [n for n in columns if re.fullmatch(r"negative(_\d+)?", n)]


def cut_out(rows: Sequence[Row], part: str, whole: str) -> bool:
    """Whether one column's texts are taken out of another's."""
    pairs = [(str(r.values.get(part) or ""), str(r.values.get(whole) or "")) for r in rows]
    return sum(bool(a) and a in b for a, b in pairs) > 0.8 * max(len(pairs), 1)


def looks_like_data(names: Sequence[str]) -> bool:
    """Whether what should be a header line is a row: a number, an empty cell or a sentence is no name."""
    return any(number(n) is not None or len(n.split()) > 5 or (len(n.split()) > 2 and n.rstrip()[-1:] in ".!?") for n in names)
