"""Label Studio's tasks: `data`, and `annotations` with a `result` for each control tag.

Enters: a task as it is exported, or opinions. Leaves: answers, or a task that can be imported. The controls Choices, Labels and
TextArea become classes, spans and texts; Pairwise a choice between two answers. The format is that of the guide's "Label Studio JSON
format of annotated tasks". What it has no place for (the annotator's name, the form of an empty answer) stands in a key of our
own, `luthier`, which Label Studio passes over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from luthier.feedback.store import Entry, Said, judged
from luthier.workshop.labelling.opinions import Opinions, value_of
from luthier.workshop.labelling.question import Form, Question, Span, text_of

if TYPE_CHECKING:
    from luthier.workshop.labelling.exchange import Brought

CONTROLS: dict[str, Form] = {"choices": "classes", "labels": "spans", "hypertextlabels": "spans", "textarea": "text", "pairwise": "pairs"}
"""Types of results -> what they say."""


def read(task: Mapping[str, Any], found: Brought, *, annotator: str, column: str | None, text: bool) -> None:
    """Add the answers of a task. A cancelled annotation is a row passed over; one of the ground truth a decision."""
    annotations = task.get("annotations", task.get("completions"))
    for annotation in annotations if isinstance(annotations, list) else []:
        if not isinstance(annotation, dict):
            found.left_out["no annotation: not an object"] += 1
            continue
        told = annotation.get("luthier")
        own: dict[str, Any] = told if isinstance(told, dict) else {}
        who = str(own.get("annotator") or _who(annotation.get("completed_by")) or annotator)
        results = [r for r in _listed(annotation.get("result")) if isinstance(r, dict) and isinstance(r.get("value"), dict)]
        by_control: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for result in results:
            by_control.setdefault((str(result.get("from_name")), str(result.get("type"))), []).append(result)
        kind = next((k for k, v in CONTROLS.items() if v == own.get("form") and v != "pairs"), None)
        if not by_control and kind is not None:
            by_control[str(own.get("question") or ""), kind] = []
        if not by_control:
            found.left_out["an annotation without a result"] += 1
        more = {
            "seconds": _seconds(annotation.get("lead_time")),
            "adjudicated": bool(annotation.get("ground_truth")),
            "skipped": bool(annotation.get("was_cancelled")),
        }
        for (name, kind), held in by_control.items():
            _add(task, found, CONTROLS.get(kind), kind, held, who=who, name=name or None, column=column, more=more)


def _add(
    task: Mapping[str, Any],
    found: Brought,
    form: Form | None,
    kind: str,
    results: list[dict[str, Any]],
    *,
    who: str,
    name: str | None,
    column: str | None,
    more: dict[str, Any],
) -> None:
    from luthier.workshop.labelling.exchange import spans_of, text_content

    if form is None:
        found.left_out[f"results of type {kind}, which the store has no form for"] += 1
        return
    if form == "pairs":
        _pair(task, found, results[0]["value"], who=who, more=more)
        return
    content = text_content(task.get("data"), column)
    if isinstance(content, str):
        found.left_out[f"a task with {content}"] += 1
        return
    values = [r["value"] for r in results]
    value: Any
    if form == "spans":
        value = spans_of(
            [{**v, "label": next(iter(_listed(v.get(kind)) or _listed(v.get("labels"))), None)} for v in values], content["text"]
        )
        if isinstance(value, str):
            found.left_out[value] += 1
            return
    elif form == "classes":
        value = [str(c) for v in values for c in _listed(v.get("choices"))]
    else:
        value = "\n".join(str(t) for v in values for t in (v["text"] if isinstance(v.get("text"), list) else [v.get("text", "")]))
    found.add(content, form, value, annotator=who, name=name, **more)


def _pair(task: Mapping[str, Any], found: Brought, value: Mapping[str, Any], *, who: str, more: dict[str, Any]) -> None:
    given = task.get("data")
    data: dict[str, Any] = given if isinstance(given, dict) else {}
    texts = [v for k, v in data.items() if isinstance(v, str) and k != "prompt"]
    if len(texts) != 2 or value.get("selected") not in ("left", "right"):
        found.left_out["a pairwise result without two texts and a selected one"] += 1
        return
    content = judged(str(data.get("prompt", "")), *texts)
    better = texts[0] if value["selected"] == "left" else texts[1]
    timed = {} if more["seconds"] is None else {"seconds": more["seconds"]}
    found.say(Said("choice", content, who, {"picked": content["answers"].index(better), **timed}))


def _listed(given: Any) -> list[Any]:
    """A list as a tool writes it; nothing for what is none."""
    return given if isinstance(given, list) else []


def _who(completed_by: Any) -> str | None:
    """The annotator: an e-mail address where there is one, else the user's number."""
    if isinstance(completed_by, dict):
        return str(completed_by.get("email") or completed_by.get("id") or "") or None
    return None if completed_by is None else str(completed_by)


def _seconds(given: Any) -> float | None:
    return round(float(given), 2) if isinstance(given, int | float) and not isinstance(given, bool) else None


def task(found: Opinions, question: Question, number: int) -> dict[str, Any]:
    """A task with everybody's annotations. Its labelling configuration is `configuration`."""
    return {"id": number, "data": found.content, "annotations": [_annotation(e, found, question) for e in found.entries], "predictions": []}


def _annotation(entry: Entry, found: Opinions, question: Question) -> dict[str, Any]:
    payload = entry.payload
    results = [] if payload.get("skipped") else _results(payload, found, question)
    own = {"annotator": entry.annotator, "form": question.form, "question": question.name}
    made = {
        "id": entry.id,
        "result": results,
        "was_cancelled": bool(payload.get("skipped")),
        "ground_truth": bool(payload.get("adjudicated")),
        "created_at": datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "result_count": len(results),
        "luthier": own,
    }
    if isinstance(payload.get("seconds"), int | float):
        made["lead_time"] = payload["seconds"]
    if entry.annotator.isdecimal():
        made["completed_by"] = int(entry.annotator)
    elif "@" in entry.annotator:
        made["completed_by"] = {"email": entry.annotator}
    return made


def _results(payload: Mapping[str, Any], found: Opinions, question: Question) -> list[dict[str, Any]]:
    value, text = value_of(payload), text_of(found.content)

    def result(kind: str, body: dict[str, Any]) -> dict[str, Any]:
        name = hashlib.sha256(repr((found.item, kind, body)).encode()).hexdigest()[:10]
        return {"id": name, "from_name": question.name, "to_name": "text", "type": kind, "origin": "manual", "value": body}

    if isinstance(value, str):
        return [result("textarea", {"text": [value]})]
    if question.form == "spans":
        spans = [s for s in value if isinstance(s, Span)]
        return [result("labels", {"start": s.start, "end": s.end, "text": text[s.start : s.end], "labels": [s.label]}) for s in spans]
    return [result("choices", {"choices": list(value)})] if value else []


def configuration(question: Question, *, pair: bool) -> str:
    """The labelling configuration of the project into which such tasks go."""
    from xml.sax.saxutils import quoteattr

    texts = ['  <Text name="text" value="$text"/>', *(['  <Text name="text_pair" value="$text_pair"/>'] if pair else [])]
    tag, item = {"classes": ("Choices", "Choice"), "spans": ("Labels", "Label"), "text": ("TextArea", "")}[question.form]
    more = ' choice="multiple"' if question.form == "classes" and question.several else ""
    body = [f"    <{item} value={quoteattr(label)}/>" for label in question.labels] if item else []
    control = [f'  <{tag} name={quoteattr(question.name)} toName="text"{more}>', *body, f"  </{tag}>"]
    return "\n".join(["<View>", *texts, *control, "</View>"])
