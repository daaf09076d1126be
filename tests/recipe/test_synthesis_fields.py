"""Every field of every kind of synthesis takes effect: the schemas are walked, none may be missing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import LuthierError
from luthier.recipe.address import Endpoint
from luthier.recipe.synthesis.options import SynthesisOptions
from luthier.registry import SYNTHESIS, SYNTHESIS_OPTIONS
from luthier.workshop.asking.voice import Voice
from luthier.workshop.synthesis.synthesize import synthesize
from tests.alignment.world import judge, said

SHARED = set(SynthesisOptions.model_fields)
ROWS = [
    {"instruction": f"do thing {i}", "task": f"undertake {i}", "input": "with care", "about": "quickly", "output": f"done {i}", "result": f"result {i}",
     "text": f"The {w} stands by the water and waits. It eats {w} soup.", "body": f"Old {w}.", "label": "a" if i else "b", "kind": "x" if i < 3 else "y",
     "prompt": f"say {w}", "ask": f"tell {w}"}
    for i, w in enumerate(("heron", "crane", "stork", "egret"))
]  # fmt: skip
BASE: dict[str, Any] = {"rows": 6, "max_tokens": 50, "patience": 2}
CASES: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {
    ("instruct", "model"): ("./nowhere", {}),
    ("instruct", "endpoint"): ({"model": "other"}, {}),
    ("instruct", "rows"): (3, {}),
    ("instruct", "seed"): (1, {}),
    ("instruct", "temperature"): (0.1, {}),
    ("instruct", "max_tokens"): (60, {}),
    ("instruct", "max_requests"): (3, {}),
    ("instruct", "max_total_tokens"): (1500, {}),
    ("instruct", "patience"): (1, {"max_words": 2}),
    ("instruct", "min_words"): (8, {}),
    ("instruct", "max_words"): (5, {}),
    ("instruct", "near"): (0.3, {}),
    ("instruct", "languages"): (["de"], {}),
    ("instruct", "min_grade"): (6.0, {}),
    ("instruct", "instruction"): ("task", {}),
    ("instruct", "input"): ("about", {}),
    ("instruct", "output"): ("result", {}),
    ("instruct", "examples"): (2, {}),
    ("instruct", "per_request"): (2, {}),
    ("questions", "text"): ("body", {}),
    ("questions", "passage_words"): (8, {}),
    ("questions", "answers"): ("quoted", {}),
    ("questions", "per_request"): (1, {}),
    ("rare", "text"): ("body", {}),
    ("rare", "label"): ("kind", {}),
    ("rare", "classes"): (["a"], {}),
    ("rare", "examples"): (1, {"classes": ["a"]}),
    ("rare", "per_request"): (1, {}),
    ("rare", "classifier"): ("nowhere", {}),
    ("pairs", "prompt"): ("ask", {}),
}
ADDRESS: dict[str, tuple[Any, dict[str, Any]]] = {
    "url": ("{url}/other", {}), "model": ("other", {}), "token_env": ("WRITER_TOKEN", {}), "timeout": (0.05, {"retries": 0}), "retries": (0, {}),
    "backoff": (0.25, {}), "concurrency": (1, {}),
}  # fmt: skip
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "kayak", "lagoon")


class Writer:
    """Says rows that hang on what it is asked. The first request fails in a way that may pass; then each takes a moment."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, body: Any, handler: Any) -> Any:
        if number == 0:
            return 503, b""
        time.sleep(0.1 if number < 4 else 0)
        prompt = body["messages"][0]["content"]
        if "Reply with the number" in prompt:
            return said(str(1 + sum(map(ord, prompt)) % 10))
        if "Reply with 1 or 2" in prompt:
            first, second = (prompt.split(f"<answer_{i}>\n")[1].split("\n</answer")[0] for i in (1, 2))
            return said("1" if first < second else "2")
        own = [WORDS[(body["seed"] >> k) % 12] for k in (0, 3, 6, 9, 12, 15)]
        text = " ".join(own)
        rows = [dict.fromkeys(("instruction", "task", "text", "question"), v) | {"output": "o", "result": "r", "input": "", "answer": a, "about": "z"}
                for v, a in ((text, "The heron"), (f"{text} indeed", "nothing"))]  # fmt: skip
        return said("\n".join(map(json.dumps, rows)))


def observe(
    kind: str, fields: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, *, endpoint: dict[str, Any] | None = None
) -> Any:
    """All that a run shows: what was asked, as whom, how patiently, and what was made of it."""
    from luthier.cli.data.synthesize import kind_of

    folder.mkdir()
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    pauses: list[float] = []
    real = Voice.__init__

    def watched(self: Any, *a: Any, **k: Any) -> None:
        real(self, *a, **k)
        self._over.wait = lambda pause=None: pauses.append(pause)

    monkeypatch.setattr(Voice, "__init__", watched)
    with judge(Writer()) as server:
        place = {"url": server.url, "model": "m", "concurrency": 4, **(endpoint or {})}
        place["url"] = place["url"].replace("{url}", server.url)
        try:
            given = {**BASE, **({} if "model" in fields else {"endpoint": place}), **fields}
            found = synthesize(file, kind_of(kind, given), out=folder / "out").figures()
            rows = (folder / "out" / "rows.jsonl").read_text()
            options = {k: v for k, v in found.items() if k not in ("spent", "failed_tries")}
        except LuthierError as error:
            return str(error).replace(str(folder), "").replace(server.url, "")
        asked = sorted({json.dumps((path, body, headers.get("Authorization"))) for headers, body, path in server.requests})
        return rows, options, sorted(found["failed_tries"]), asked, min(server.most_at_once, 2), sorted(pauses)


def test_no_field_is_missing():
    assert SYNTHESIS_OPTIONS.names() == SYNTHESIS.names()
    own = {(kind, f) for kind in SYNTHESIS_OPTIONS.names() for f in set(SYNTHESIS_OPTIONS.load(kind).model_fields) - SHARED}
    assert own | {("instruct", f) for f in SHARED - {"type"}} == set(CASES)
    assert set(ADDRESS) == set(Endpoint.model_fields)


@pytest.mark.parametrize(("kind", "field"), CASES)
def test_every_field_takes_effect(kind, field, tmp_path, monkeypatch):
    value, others = CASES[kind, field]
    before = observe(kind, others, tmp_path / "a", monkeypatch)
    if field == "endpoint":
        after = observe(kind, others, tmp_path / "b", monkeypatch, endpoint=value)
    else:
        after = observe(kind, {**others, field: value}, tmp_path / "b", monkeypatch)
    assert not isinstance(before, str), before
    assert before[:4] != after[:4]


@pytest.mark.parametrize("field", ADDRESS)
def test_every_field_of_an_endpoint_takes_effect(field, tmp_path, monkeypatch):
    monkeypatch.setenv("WRITER_TOKEN", "hunter2")
    value, others = ADDRESS[field]
    before, after = [
        observe("instruct", {}, tmp_path / name, monkeypatch, endpoint={**others, **own})
        for name, own in (("a", {}), ("b", {field: value}))
    ]
    assert before != after


@pytest.mark.parametrize("kind", SYNTHESIS_OPTIONS.names())
def test_nothing_changes_by_itself(kind, tmp_path, monkeypatch):
    """Else the tests above could not fail."""
    once, again = [observe(kind, {}, tmp_path / name, monkeypatch) for name in "ab"]
    assert once == again
