"""The page of a data report: one HTML file, no network, no script.

Enters: the figures of `report`. Leaves: HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from luthier.evaluation import charts
from luthier.evaluation.report import pages, style
from luthier.workshop.report import MOST_CLASSES

HERE = Path(__file__).parent
MOST_SHOWN = 8
"""Columns of the rows that are shown; those that are read and learned first."""
LONGEST = 400
"""Characters of a cell."""
UNEVEN = 10
"""How much larger the largest class is than the smallest, where it is worth a word."""


def page(facts: Mapping[str, Any]) -> str:
    """The whole page."""
    names = list(dict.fromkeys(f["name"].split("/")[-1] for f in facts["files"]))
    lengths = facts["lengths"]
    chart = charts.bars(lengths["histogram"], x_label="tokens", y_label="rows", limit=lengths["reads"])
    ranked = sorted(facts["columns"], key=lambda c: ("text", "optional", "target", "").index(c["role"]))
    return pages(HERE).get_template("report.html.j2").render(
        {
            **facts,
            "css": style(),
            "title": ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
            "chart": Markup(chart),  # noqa: S704  (charts escape their labels)
            "warnings": warnings(facts),
            "shown_classes": list(facts["classes"].items())[:MOST_CLASSES],
            "top": max(facts["classes"].values(), default=1),
            "shown_columns": [c["name"] for c in ranked][:MOST_SHOWN],
            "n": _number,
            "cell": _cell,
        }
    )  # fmt: skip


def warnings(facts: Mapping[str, Any]) -> list[str]:
    """What should be looked at first, the gravest first."""
    found: list[str] = []
    rows, repeats, lengths, classes = facts["rows"], facts["repeats"], facts["lengths"], facts["classes"]
    for o in repeats["overlaps"]:
        if o["same"] or o["nearly"]:
            found.append(
                f"{_number(o['same'])} of {_number(o['rows'])} rows of {o['second']} stand in {o['first']} too, and {_number(o['nearly'])} "
                "nearly do: scores on them are flattered"
            )
    if rows["quarantined"]:
        found.append(f"{_number(rows['quarantined'])} of {_number(rows['read'])} rows could not be read")
    if repeats["conflicting"]:
        found.append(f"{_number(repeats['conflicting'])} rows share a text with another and differ in what is to be learned")
    if lengths["longer"]:
        share = lengths["longer"] / lengths["rows"]
        found.append(f"{share:.1%} of the rows are longer than the {_number(lengths['reads'])} tokens that {lengths['model']} reads")
    if facts["personal"]["rows"]:
        found.append(f"{_number(facts['personal']['rows'])} rows hold personal data or secrets")
    if len(classes) > 1 and max(classes.values()) > UNEVEN * min(classes.values()):
        found.append(f"the largest class has {max(classes.values()) / min(classes.values()):.0f} times the rows of the smallest")
    empty = [c for c in facts["columns"] if c["role"] in ("text", "target") and c["missing"]]
    found += [f"column {c['name']!r}, which is needed, is empty in {_number(c['missing'])} rows" for c in empty]
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _cell(value: Any) -> str:
    """A cell as text, cut."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
