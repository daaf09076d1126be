"""SQuAD's nested JSON as rows: titles hold paragraphs, paragraphs hold questions (Rajpurkar et al. 2016, 2018).

Enters: a parsed file. Leaves: one row a question, with the columns `id`, `title`, `context`, `question`, `answers`
and, where the file has it, `is_impossible`. What is no question of a passage is quarantined with its place.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Flat(NamedTuple):
    """A question as a row, or the reason why it is none; `number` counts the questions of the file from 1."""

    number: int
    values: dict[str, Any] | None
    reason: str
    text: str


def is_squad(value: Any) -> bool:
    """Whether parsed JSON has SQuAD's shape: {"data": [{"paragraphs": [...]}]}."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        return False
    return any(isinstance(a, dict) and isinstance(a.get("paragraphs"), list) for a in value["data"])


def flatten(value: dict[str, Any]) -> list[Flat]:
    """The questions of a file, in its order; a broken article or paragraph counts as one."""
    found: list[Flat] = []

    def refuse(what: Any, reason: str) -> None:
        found.append(Flat(len(found) + 1, None, reason, json.dumps(what, ensure_ascii=False)[:200]))

    for article in value["data"]:
        if not isinstance(article, dict) or not isinstance(article.get("paragraphs"), list):
            refuse(article, "an article without paragraphs")
            continue
        for paragraph in article["paragraphs"]:
            if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list) or "context" not in paragraph:
                refuse(paragraph, "a paragraph without a context or questions")
                continue
            for asked in paragraph["qas"]:
                if not isinstance(asked, dict) or "question" not in asked:
                    refuse(asked, "no question")
                    continue
                row = {"id": asked.get("id"), "title": article.get("title"), "context": paragraph["context"], "question": asked["question"]}
                row |= {name: asked[name] for name in ("answers", "is_impossible") if name in asked}
                found.append(Flat(len(found) + 1, row, "", ""))
    return found
