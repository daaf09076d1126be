"""From what people said to rows that train: pairs, ranked lists, good and bad answers, conversations.

Enters: a store, and whose word counts. Leaves: rows in the formats that the tasks `preference` and `chat` read, and how many
judgements became none, by reason. Several people's choices become one by majority; where there is none, none is made.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from luthier.errors import DataError
from luthier.feedback.store import Entry, Store

Form = Literal["pairs", "ranked", "unpaired", "conversations"]
FORMS: dict[Form, str] = {
    "pairs": "prompt, chosen, rejected",
    "ranked": "prompt, completions, ratings",
    "unpaired": "prompt, completion, label",
    "conversations": "messages",
}
"""form -> the columns of its rows."""
Prompt = str | list[dict[str, Any]]
Ids = tuple[int, ...]
"""The entries that a fact or a row rests on."""
Reasons = dict[int, str]
"""entry -> why it became no row."""


class Exported(NamedTuple):
    """Rows, and what became of all that was said: `used` and `left_out` (by reason) add up to `judgements`."""

    rows: list[dict[str, Any]]
    judgements: int
    used: int
    left_out: dict[str, int]


class Better(NamedTuple):
    """One answer beats another."""

    prompt: Prompt
    better: str
    worse: str
    ids: Ids


class Rated(NamedTuple):
    """An answer has a rating: whether it is good, or a number."""

    prompt: Prompt
    answer: str
    rating: bool | float
    ids: Ids


class Row(NamedTuple):
    """A row for training."""

    values: dict[str, Any]
    ids: Ids


def training_rows(
    store: Store, form: Form, *, annotator: str | None = None, threshold: float | None = None, items: Collection[str] | None = None
) -> Exported:
    """The rows of a form, by majority or by the word of one annotator.

    `threshold` is the rating from which on an answer is good, where ratings are numbers and the form wants good and bad. Of `items`
    alone, where they are given. Raises DataError for a threshold that the form does not read, or that is no number.
    """
    if threshold is not None and form in ("pairs", "ranked"):
        raise DataError(f"is not read by the form {form}", where="--threshold", remedy="take it out, or set --as unpaired")
    if threshold is not None and not math.isfinite(threshold):
        raise DataError(f"is {threshold}, no rating", where="--threshold", remedy="give a number, such as 4")
    entries = [e for e in store.entries(annotator=annotator) if e.kind != "label" and (items is None or e.item in items)]
    reasons: Reasons = {}
    facts = list(_facts(entries, store.contents(), reasons))
    if form == "pairs":
        rows = _pairs(facts, reasons)
    elif form == "ranked":
        rows = _ranked(facts, reasons)
    else:
        rows = _unpaired(facts, reasons, threshold)
        rows = rows if form == "unpaired" else _conversations(rows, reasons)
    used = {i for row in rows for i in row.ids}
    left_out = Counter(reasons[e.id] for e in entries if e.id not in used)
    return Exported([row.values for row in rows], len(entries), len(used), dict(left_out.most_common()))


# ── entries to facts ───────────────────────────────────────────────────────────────────────────


def _facts(entries: Iterable[Entry], contents: Mapping[str, Mapping[str, Any]], reasons: Reasons) -> Iterator[Better | Rated]:
    by_item: dict[str, list[Entry]] = {}
    for entry in entries:
        by_item.setdefault(entry.item, []).append(entry)
    for item, said in by_item.items():
        prompt, answers = contents[item].get("prompt"), contents[item].get("answers")
        if not isinstance(prompt, str | list) or not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
            reasons |= dict.fromkeys((e.id for e in said), "judges no answers to a prompt")
            continue
        yield from _choices([e for e in said if e.kind == "choice"], prompt, answers, reasons)
        yield from _edits([e for e in said if e.kind == "edit"], prompt, answers, reasons)
        yield from _ratings([e for e in said if e.kind == "rating"], prompt, answers, reasons)


def _choices(said: list[Entry], prompt: Prompt, answers: list[str], reasons: Reasons) -> Iterator[Better]:
    reasons |= {e.id: "skipped" for e in said if e.payload["picked"] == "skip"}
    votes = {e.id: e.payload["picked"] for e in said if e.payload["picked"] != "skip"}
    won = _majority(votes, reasons)
    ids = tuple(i for i, vote in votes.items() if vote == won)
    if won == "tie":
        reasons |= dict.fromkeys(ids, "a tie")
    elif ids and len(answers) != 2:
        reasons |= dict.fromkeys(ids, "judges no answers to a prompt")
    elif ids:
        yield Better(prompt, answers[won], answers[1 - won], ids)


def _majority(votes: Mapping[int, Any], reasons: Reasons) -> Any:
    """What most say, with reasons for the others; None where nothing is said by most."""
    first, *others = Counter(votes.values()).most_common(2) or [(None, 0)]
    if others and others[0][1] == first[1]:
        reasons |= dict.fromkeys(votes, "a conflict: no majority")
        return None
    reasons |= {i: "outvoted" for i, vote in votes.items() if vote != first[0]}
    return first[0]


def _edits(said: list[Entry], prompt: Prompt, answers: list[str], reasons: Reasons) -> Iterator[Better]:
    for entry in said:
        of = entry.payload["of"]
        if of >= len(answers) or entry.payload["text"].strip() == answers[of].strip():
            reasons[entry.id] = "an edit that changes nothing"
        else:
            yield Better(prompt, entry.payload["text"], answers[of], (entry.id,))


def _ratings(said: list[Entry], prompt: Prompt, answers: list[str], reasons: Reasons) -> Iterator[Rated]:
    if said and len(answers) != 1:
        reasons |= dict.fromkeys((e.id for e in said), "judges no answers to a prompt")
        return
    thumbs = {e.id: e.payload["rating"] for e in said if isinstance(e.payload["rating"], bool)}
    good = _majority(thumbs, reasons)
    if good is not None:
        yield Rated(prompt, answers[0], good, tuple(i for i, thumb in thumbs.items() if thumb == good))
    numbers = {e.id: float(e.payload["rating"]) for e in said if e.id not in thumbs}
    if numbers:
        yield Rated(prompt, answers[0], sum(numbers.values()) / len(numbers), tuple(numbers))


# ── facts to rows ──────────────────────────────────────────────────────────────────────────────


def _pairs(facts: Iterable[Better | Rated], reasons: Reasons) -> list[Row]:
    """Each pair once; one that goes both ways is none."""
    found: dict[tuple[str, frozenset[str]], dict[str, Better]] = {}
    for fact in facts:
        if isinstance(fact, Rated):
            reasons |= dict.fromkeys(fact.ids, "a rating of one answer: see unpaired and ranked")
            continue
        ways = found.setdefault((_key(fact.prompt), frozenset((fact.better, fact.worse))), {})
        before = ways.get(fact.better)
        ways[fact.better] = fact if before is None else before._replace(ids=before.ids + fact.ids)
    rows = []
    for ways in found.values():
        if len(ways) > 1:
            reasons |= {i: "a conflict: the pair goes both ways" for way in ways.values() for i in way.ids}
            continue
        (fact,) = ways.values()
        rows.append(Row({"prompt": fact.prompt, "chosen": fact.better, "rejected": fact.worse}, fact.ids))
    return rows


def _ranked(facts: list[Better | Rated], reasons: Reasons) -> list[Row]:
    """Pairs as lists of two, and the rated answers of a prompt together."""
    pairs = _pairs([f for f in facts if isinstance(f, Better)], reasons)
    rows = [
        Row({"prompt": r.values["prompt"], "completions": [r.values["chosen"], r.values["rejected"]], "ratings": [1.0, 0.0]}, r.ids)
        for r in pairs
    ]
    by_prompt: dict[tuple[str, bool], list[Rated]] = {}
    for fact in facts:
        if isinstance(fact, Rated):
            by_prompt.setdefault((_key(fact.prompt), isinstance(fact.rating, bool)), []).append(fact)
    for rated in by_prompt.values():
        ids = tuple(i for fact in rated for i in fact.ids)
        if len({fact.rating for fact in rated}) < 2:
            reasons |= dict.fromkeys(ids, "its prompt has no answer that is rated otherwise")
            continue
        rated.sort(key=lambda fact: -fact.rating)
        answers, ratings = [fact.answer for fact in rated], [float(fact.rating) for fact in rated]
        rows.append(Row({"prompt": rated[0].prompt, "completions": answers, "ratings": ratings}, ids))
    return rows


def _unpaired(facts: Iterable[Better | Rated], reasons: Reasons, threshold: float | None) -> list[Row]:
    """Good and bad answers; one that is called both is neither."""
    found: dict[tuple[str, str], dict[bool, Row]] = {}

    def note(prompt: Prompt, answer: str, good: bool, ids: Ids) -> None:
        ways = found.setdefault((_key(prompt), answer), {})
        before = ways[good].ids if good in ways else ()
        ways[good] = Row({"prompt": prompt, "completion": answer, "label": good}, before + ids)

    for fact in facts:
        if isinstance(fact, Better):
            note(fact.prompt, fact.better, True, fact.ids)
            note(fact.prompt, fact.worse, False, fact.ids)
        elif isinstance(fact.rating, bool):
            note(fact.prompt, fact.answer, fact.rating, fact.ids)
        elif threshold is None:
            reasons |= dict.fromkeys(fact.ids, "a number, and no threshold from which on it is good")
        else:
            note(fact.prompt, fact.answer, fact.rating >= threshold, fact.ids)
    both = [row for ways in found.values() if len(ways) > 1 for row in ways.values()]
    reasons |= {i: "a conflict: the answer is good and bad" for row in both for i in row.ids}
    return [row for ways in found.values() if len(ways) == 1 for row in ways.values()]


def _conversations(rows: Iterable[Row], reasons: Reasons) -> list[Row]:
    """Those that end with a good answer."""
    made = []
    for row in rows:
        prompt = row.values["prompt"]
        if row.values["label"]:
            messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            made.append(Row({"messages": [*messages, {"role": "assistant", "content": row.values["completion"]}]}, row.ids))
        else:
            reasons |= dict.fromkeys((i for i in row.ids if i not in reasons), "a bad answer")
    return made


def _key(prompt: Prompt) -> str:
    return json.dumps(prompt, sort_keys=True)
