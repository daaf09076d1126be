"""Argilla's records: `fields`, and `responses` by question.

Enters: a record as `dataset.records.to_json` writes it (version 2), or one of version 1's feedback data sets; or opinions. Leaves:
answers, or a record that `Record.from_dict` reads. Argilla names people by UUID: another name gets one that is made of it, and
stands with what else Argilla has no place for in a metadata text of our own, `luthier`. A decision is a suggestion.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.feedback.schema import asked
from luthier.workshop.labelling.opinions import Opinions, value_of
from luthier.workshop.labelling.question import KEPT_AS, Form, Question, Span

if TYPE_CHECKING:
    from luthier.workshop.labelling.exchange import Brought

PEOPLE = uuid.UUID("8a4f4c1e-6f0b-5d0e-9c55-6c1f2b7d9e10")
"""The namespace of UUIDs that are made of names."""
DECIDED = "decided by "
"""How the agent of a suggestion begins that is a decision."""


class Response(NamedTuple):
    """One person's answer to one question."""

    question: str
    value: Any
    user: str
    status: str


class Own(NamedTuple):
    """What Argilla has no place for: names by user, the form of each question, and who passed over it."""

    people: dict[str, str]
    forms: dict[str, Form]
    skipped: dict[str, list[str]]


def read(record: Mapping[str, Any], found: Brought, *, annotator: str, column: str | None, text: bool) -> None:
    """Add the answers of a record. Drafts are left out; what was discarded is a row passed over."""
    from luthier.workshop.labelling.exchange import text_content

    content = text_content(record.get("fields"), column)
    if isinstance(content, str):
        found.left_out[f"a record with {content}"] += 1
        return
    people, forms, skips = _own(record.get("metadata"))
    for response in _responses(record.get("responses")):
        who = people.get(response.user, response.user) or annotator
        if response.status == "draft":
            found.left_out["a draft"] += 1
        else:
            _add(found, content, response, who, form="text" if text else forms.get(response.question), more={})
    suggestions = record.get("suggestions")
    for name, one in suggestions.items() if isinstance(suggestions, dict) else []:
        agent = str(one.get("agent") or "") if isinstance(one, dict) else ""
        if agent.startswith(DECIDED):
            response = Response(name, one.get("value"), "", "submitted")
            who, more = agent.removeprefix(DECIDED), {"adjudicated": True}
            _add(found, content, response, who, form="text" if text else forms.get(name), more=more)
    for name, skipped in skips.items():
        for who in skipped:
            found.add(content, forms[name], (), annotator=who, name=name, skipped=True)


def _add(found: Brought, content: Mapping[str, Any], response: Response, who: str, *, form: Form | None, more: dict[str, Any]) -> None:
    """Add a response. Its `form` is what we wrote ourselves; of others' it is told from the value."""
    from luthier.workshop.labelling.exchange import spans_of

    value, name = response.value, response.question
    if isinstance(value, list) and value and all(isinstance(v, dict) and "start" in v for v in value):
        spans = spans_of(value, content["text"])
        if isinstance(spans, str):
            found.left_out[spans] += 1
        else:
            found.add(content, "spans", spans, annotator=who, name=name, **more)
    elif form == "text" and isinstance(value, str):
        found.add(content, "text", value, annotator=who, name=name, **more)
    elif isinstance(value, str) and value:
        found.add(content, "classes", [value], annotator=who, name=name, **more)
    elif isinstance(value, list) and all(isinstance(v, str) for v in value) and value:
        found.add(content, "classes", value, annotator=who, name=name, **more)
    elif value == [] or response.status == "discarded":
        found.add(content, form or "classes", [], annotator=who, name=name, skipped=response.status == "discarded", **more)
    else:
        found.left_out[f"answers to {name}, which the store has no form for (ratings, rankings)"] += 1


def _responses(given: Any) -> Iterator[Response]:
    """By question, as in version 2; or by person, as in version 1."""
    for name, answers in given.items() if isinstance(given, dict) else []:
        for one in answers if isinstance(answers, list) else []:
            if isinstance(one, dict):
                yield Response(str(name), one.get("value"), str(one.get("user_id") or ""), _status(one))
    for one in given if isinstance(given, list) else []:
        values = one.get("values") if isinstance(one, dict) else None
        for name, answer in values.items() if isinstance(values, dict) else []:
            value = answer.get("value") if isinstance(answer, dict) else answer
            yield Response(str(name), value, str(one.get("user_id") or ""), _status(one))


def _status(given: Mapping[str, Any]) -> str:
    return str(given.get("status") or "submitted")


def _own(metadata: Any) -> Own:
    """What of the metadata is ours; of what somebody has changed, the parts that can still be read."""
    told = None
    with contextlib.suppress(ValueError, TypeError, KeyError):
        told = json.loads(metadata["luthier"])

    def part(name: str) -> dict[str, Any]:
        held = told.get(name) if isinstance(told, dict) else None
        return held if isinstance(held, dict) else {}

    forms: dict[str, Form] = {name: form for name, form in part("forms").items() if form in tuple(KEPT_AS)}
    skipped = {n: [w for w in who if isinstance(w, str)] for n, who in part("skipped").items() if n in forms and isinstance(who, list)}
    return Own({user: name for user, name in part("people").items() if isinstance(name, str)}, forms, skipped)


def record(found: Opinions, question: Question, number: int) -> dict[str, Any]:
    """A record with everybody's responses."""
    answers, decisions, people = [], {}, {}
    for entry in found.entries:
        if entry.payload.get("skipped"):
            continue
        value = _value(entry.payload, question)
        if asked(entry.payload)[1]:
            decisions[question.name] = {"value": value, "score": None, "agent": DECIDED + entry.annotator}
            continue
        user = _uuid(entry.annotator)
        people[user] = entry.annotator
        answers.append({"value": value, "user_id": user, "status": "submitted"})
    own: dict[str, Any] = {"people": people, "forms": {question.name: question.form}}
    if found.skipped:
        own["skipped"] = {question.name: found.skipped}
    return {
        "id": found.item,
        "fields": found.content,
        "metadata": {"luthier": json.dumps(own, ensure_ascii=False)},
        "suggestions": decisions,
        "responses": {question.name: answers} if answers else {},
        "vectors": {},
    }


def _value(payload: Mapping[str, Any], question: Question) -> Any:
    value = value_of(payload)
    if isinstance(value, str):
        return value
    if question.form == "spans":
        return [s._asdict() for s in value if isinstance(s, Span)]
    return list(value) if question.several else value[0]


def _uuid(name: str) -> str:
    try:
        return str(uuid.UUID(name))
    except ValueError:
        return str(uuid.uuid5(PEOPLE, name))
