"""What a data set is for: the task that its rows are meant for, and the recipe values that say so, each with its reason.

Enters: a profile. Leaves: a `Guess`. What the tasks themselves recognise (conversations, comparisons, tags, answers in passages)
goes first, and only where most rows can be used that way; then columns of texts and labels, by name and by what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from luthier.data.profile import Column, Profile
from luthier.data.rows import Row
from luthier.errors import DataError
from luthier.recipe.imports.draft import Told
from luthier.recipe.sections import Data
from luthier.registry import nearest
from luthier.tasks import comparisons, conversation
from luthier.tasks.labels import cells
from luthier.tasks.marked import columns_of, marked
from luthier.tasks.squad import answers_of
from luthier.workshop import columns as named

LOOKED_AT = 400
"""Rows that are tried."""
ENOUGH = 0.5
"""Share of them that must fit."""
FEW = 16
"""Rows a label up to which learning from few examples is worth a word."""
ASKED = ("prompt", "question", "instruction", "query", "input", "conversations", "messages")
"""Names of columns with what answers are compared for."""
ANSWERED = (
    ("question", "answer"), ("question", "response"), ("prompt", "response"), ("prompt", "answer"), ("query", "response"),
    ("instruction", "response"), ("user", "assistant"),
)  # fmt: skip
"""Names of columns with a question and its answer, beside those that the task knows."""
TAGGED = ("tags", "ner_tags", "pos_tags", "labels", "entities", "spans", "label")
"""Names of columns with tags or spans."""


@dataclass(frozen=True)
class Guess:
    """A task by its name, what kind of it, and why.

    `values` are recipe values, `texts` the columns that are read (those in `optional` may be empty) and `target` those that are
    learned; `others` says what else the rows would do for.
    """

    task: str
    kind: str
    because: str
    values: Mapping[str, Told]
    texts: tuple[str, ...]
    target: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def labels(self) -> bool:
        """Whether rows have labels that can be counted."""
        return self.kind in ("one label", "several labels")

    @property
    def writes(self) -> bool:
        """Whether a model that writes is needed."""
        return self.task in ("chat", "preference", "text2text", "causal")


@dataclass(frozen=True)
class Seen:
    """What is looked at: columns, some rows, how many there are, and the columns that a user named."""

    found: Profile
    columns: Mapping[str, Column]
    rows: Sequence[Row]
    count: int
    text: Sequence[str] = ()
    label: str | None = None
    texts: list[str] = field(default_factory=list)


def guess(found: Profile, *, text: Sequence[str] = (), label: str | None = None) -> Guess:
    """The likeliest task; `text` (one column, or the two of a pair) and `label` are what a user names.

    Raises DataError for a column that is not there, and for rows without texts.
    """
    if len(text) > 2:
        raise DataError("a row has one text, or two that are read together", where="--text", remedy="name one column or two")
    for name, option in (*((t, "--text") for t in text), (label, "--label")):
        if name is not None and name not in found.columns:
            near = nearest(name, found.columns)
            remedy = (f"did you mean {near!r}? " if near else "") + f"the columns are: {', '.join(map(repr, list(found.columns)[:20]))}"
            raise DataError(f"no column {name!r}", where=option, remedy=remedy)
    if label in text:
        raise DataError(
            f"{label!r} is the column of texts and of labels", where="--label", remedy="name two columns with --text and --label"
        )
    texts = named.texts_of(found.columns, found.rows)
    texts = [*text, *(t for t in texts if t not in text)]
    texts = [t for t in texts if t != label]
    seen = Seen(found, found.columns, found.drawn(LOOKED_AT), found.rows, text, label, texts)
    ways: tuple[Callable[[Seen], Guess | None], ...] = (_tagging, _labelled, _written, _plain)
    if not text and label is None:
        ways = (_parsing, _span, _preference, _chat, _found, *ways)
    for way in ways:
        taken = way(seen)
        if taken is not None:
            return taken
    what = ", ".join(f"{c.name} ({c.type})" for c in list(found.columns.values())[:12])
    raise DataError(
        f"holds no texts to learn from; its columns are {what}",
        where=found.by_source[0][0].name,
        remedy="name the column of texts with --text, and the labels with --label",
    )


def _fits(rows: Sequence[Row], use: Callable[[Mapping[str, Any]], Any]) -> bool:
    """Whether enough rows can be used: `use` gives the reason as a text where one cannot."""
    return sum(not isinstance(use(r.values), str) for r in rows) >= ENOUGH * max(len(rows), 1)


def _parsing(seen: Seen) -> Guess | None:
    if not all(n in seen.columns for n in ("words", "head", "deprel")):
        return None
    others = tuple(f"tagging, with data.label: {n}" for n in ("upos", "xpos") if n in seen.columns)
    why = "each word has a head and a relation to it (columns head and deprel), as treebanks have"
    return Guess("parsing", "dependency trees", why, {}, ("words",), ("head", "deprel"), others)


def _tagging(seen: Seen) -> Guess | None:
    for label in [seen.label] if seen.label else TAGGED:
        column = seen.columns.get(label)
        if column is None or column.type not in ("list", "nested"):
            continue
        text = next((n for n in (*seen.text, "words", "tokens", *seen.texts) if n in seen.columns), "text")
        try:
            place = columns_of(Data(train=["-"], text=text, label=label), seen.rows)
        except DataError:
            continue
        if not _fits(seen.rows, lambda values, place=place: marked(values, place)):  # type: ignore[misc]
            continue
        values = {"data.text": Told(place.source, "what is tagged"), "data.label": Told(label, "its tags" if place.tags else "its spans")}
        why = (
            f"{place.target!r} has a tag for each word of {place.source!r}"
            if place.tags
            else f"{place.target!r} has spans of {place.source!r}"
        )
        return Guess("tagging", "entities or tags", why, values, (place.source,), (place.target,))
    return None


def _span(seen: Seen) -> Guess | None:
    passage = named.by_name(("context", "passage", "paragraph"), seen.columns)
    if passage is None or "question" not in seen.columns or "answers" not in seen.columns:
        return None
    if not _fits(seen.rows, lambda v: answers_of(v, str(v.get(passage)), label="answers", start="answer_start", group="title")):
        return None
    values = {
        "data.text": Told(passage, "the passage"),
        "data.text_pair": Told("question", "what is asked of it"),
        "data.label": Told("answers", "where in it the answer stands"),
    }
    return Guess(
        "span",
        "answers in passages",
        f"answers are parts of {passage!r}, as in SQuAD's format",
        values,
        (passage, "question"),
        ("answers",),
    )


def _preference(seen: Seen) -> Guess | None:
    asked = named.by_name(ASKED, seen.columns)
    names = {} if asked in (None, "prompt") else {"prompt": str(asked)}
    try:
        form = comparisons.recognise(seen.rows, names)
    except DataError:
        return None
    if not _fits(seen.rows, lambda v: comparisons.comparison(v, form, names=names, system=None, threshold=None)):
        return None
    needed = comparisons.FORMATS[form]
    values = {"task.columns": Told(names, f"the question stands in {asked!r}")} if names and form != "openai" else {}
    why = f"the columns {', '.join(needed)} hold answers that were compared or judged ({form})"
    texts = [n for n in (asked, *needed) if n is not None and n in seen.columns]
    others = ("reward, to learn a judge from the same rows",)
    return Guess("preference", form, why, values, tuple(dict.fromkeys(texts)), (), others)


def _chat(seen: Seen) -> Guess | None:
    lower = {n.lower(): n for n in seen.columns}
    alias = next(((lower[a], lower[b]) for a, b in ANSWERED if a in lower and b in lower), None)
    tries: list[dict[str, str]] = [{}, {"prompt": alias[0], "completion": alias[1]}] if alias else [{}]
    for names in tries:
        try:
            form = conversation.recognise(seen.rows, names)
        except DataError:
            continue
        if not _fits(seen.rows, lambda v, f=form, n=names: conversation.conversation(v, f, names=n, system=None)):  # type: ignore[misc]
            continue
        held = [conversation.column_of(n, names) for n in conversation.FORMATS[form]]
        values = {"task.columns": Told(names, f"{held[0]!r} is asked, {held[1]!r} answered")} if names else {}
        extra = [n for n in ("system", "tools", "input") if n in seen.columns and (n != "input" or form == "alpaca")]
        why = f"the columns {', '.join(held)} are those of {form}: what is asked, and what is answered"
        others = ("text2text, for a model that reads one text and writes another",)
        return Guess("chat", form, why, values, (*held, *extra), (), others, tuple(extra))
    return None


def _found(seen: Seen) -> Guess | None:
    lower = {n.lower(): n for n in seen.columns}
    pair = next(((lower[a], lower[b]) for a, b in named.FOUND if a in lower and b in lower), None)
    if pair is None or named.by_name(named.LABELS, seen.columns) is not None:
        return None
    negatives = named.negatives_of(seen.columns)
    values = {"data.text": Told(pair[0], "what is looked for with"), "data.text_pair": Told(pair[1], "the text that belongs to it")}
    why = f"{pair[1]!r} is the text to be found for {pair[0]!r}" + (f", and {', '.join(negatives)} are not" if negatives else "")
    return Guess("embedding", "triplets" if negatives else "pairs", why, values, (*pair, *negatives))


def _labelled(seen: Seen) -> Guess | None:
    if not seen.texts or (seen.label in named.texts_of(seen.columns, seen.count)):
        return None
    pair = (seen.text[0], seen.text[1]) if len(seen.text) == 2 else None if seen.text else named.pair_of(seen.columns, seen.texts)
    read = pair or (seen.texts[0],)
    label = seen.label or named.label_of(seen.columns, seen.count, texts=seen.texts)
    flags = named.flags_of({n: c for n, c in seen.columns.items() if n not in seen.texts}) if seen.label is None else []
    values = {"data.text": Told(read[0], "its column of texts" if pair is None else "the first text of each pair")}
    if pair:
        values["data.text_pair"] = Told(pair[1], "the second text, read with the first")
    if len(flags) >= 2 and (label is None or label in flags):
        values["data.label"] = Told(flags, "columns of 0 and 1: a label each")
        return Guess("classification", "several labels", f"{len(flags)} columns hold 0 or 1 for each text", values, read, tuple(flags))
    if label is None:
        return None
    column = seen.columns[label]
    values["data.label"] = Told(label, "what is to be told of a text")
    if named.is_measure(column):
        values["task.kind"] = Told("regression", "its numbers measure something")
        near = ("embedding, of texts that are as near as the number says",) if pair else ()
        return Guess("classification", "a number", f"{label!r} holds a number for each text", values, read, (label,), near)
    mark = named.separator_of(column)
    if mark is not None or column.type == "list":
        if len(_parts(seen, label, mark)) > named.MOST_LABELS:
            return None
        if mark is not None:
            values["data.label_separator"] = Told(mark, "stands between the labels of a cell")
        return Guess("classification", "several labels", f"cells of {label!r} hold several labels", values, read, (label,))
    count = column.distinct or 0
    if count > named.MOST_LABELS:
        return None
    others: list[str] = []
    if count > 20 and not pair:
        others.append(f"embedding, where texts of one {label} should come near each other")
    if seen.count <= FEW * max(count, 1):
        others.append("few_shot, which learns from a few rows of each label")
    if column.type == "whole number" and count > 2:
        others.append("task.kind: regression, where the numbers are an order rather than names")
    why = f"{label!r} holds {count} different values, {seen.count / max(count, 1):.0f} rows each on average"
    return Guess("classification", "one label", why, values, read, (label,), tuple(others))


def _parts(seen: Seen, label: str, mark: str | None) -> set[str]:
    """The labels that stand in cells with several."""
    data = Data(train=["-"], label=label, label_separator=mark)
    return {part for row in seen.found.drawn() for part in cells(row, data)}


def _written(seen: Seen) -> Guess | None:
    if len(seen.texts) < 2 and seen.label is None:
        return None
    target = seen.label or named.by_name(named.WRITTEN, {n: seen.columns[n] for n in seen.texts})
    sources = [t for t in seen.texts if t != target]
    if target is None or not sources:
        ordered = [n for n in seen.columns if n in seen.texts]
        if seen.text or len(ordered) != 2 or named.cut_out(seen.rows, ordered[1], ordered[0]):
            return None
        sources, target = ordered[:1], ordered[1]
    source = sources[0]
    values = {"data.text": Told(source, "what is read"), "data.label": Told(target, "what is written for it")}
    return Guess("text2text", "texts for texts", f"{target!r} holds a text for each text of {source!r}", values, (source,), (target,))


def _plain(seen: Seen) -> Guess | None:
    if not seen.texts:
        single = [n for n, c in seen.columns.items() if c.type == "text" and not named.is_key(c, seen.count)]
        if len(seen.columns) > 1 or not single:
            return None
        seen = replace(seen, texts=single)
    text = seen.texts[0]
    values = {"data.text": Told(text, "its column of texts")}
    others = ("masked, to make an encoder at home in such texts",)
    return Guess("causal", "plain text", f"{text!r} holds texts, and no column says anything of them", values, (text,), (), others)
