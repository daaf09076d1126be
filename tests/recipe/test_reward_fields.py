"""Every field of every reward takes effect: the schemas are walked, none may be missing."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.alignment.rewards.reward import Asked
from luthier.alignment.scoring import Scorer
from luthier.errors import LuthierError
from luthier.recipe.rewards.options import RewardOptions
from luthier.registry import REWARD_OPTIONS, REWARDS
from tests.alignment.world import RULE, judge, options, said

TEXTS = ["The answer: 12 <b>9</b>", "a\n12.4", '{"a": 1}', '```json\n{"b": 2}\n```', "12", "THE  cat", "x X x"]
ROW = {
    "answer": "12", "other": "the cat", "words": ["cat", "x"], "schema": {"required": ["b"]},
    "tests": "assert f(1) == 1\nassert f(2) == 1", "strict": "assert f(2) == 2",
}  # fmt: skip
SQUARE = "def f(x): return x\n"
BASES: dict[str, dict[str, Any]] = {
    "regex": {"pattern": "x"}, "contains": {"words": ["cat"]}, "json_schema": {"file": "{folder}/a.json"}, "length": {},
    "function": {"function": "tests.alignment.world:rule"}, "model": {"run": "judge-1"}, "http": {"url": "{url}/score", "backoff": 0.0},
}  # fmt: skip
CHAT = {"model": "m"}
CASES: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {
    ("exact", "column"): ("other", {"normalize": ["case", "space"]}),
    ("exact", "extract"): ("<b>(.*)</b>", {}),
    ("exact", "normalize"): (["case", "space"], {"column": "other"}),
    ("number", "column"): ("tests", {}),
    ("number", "extract"): ("<b>.*</b>", {"column": "answer", "tolerance": 3.5}),
    ("number", "tolerance"): (0.5, {}),
    ("number", "relative"): (0.1, {}),
    ("regex", "pattern"): ("a", {}),
    ("regex", "how"): ("count", {}),
    ("regex", "most"): (1, {"how": "count"}),
    ("regex", "flags"): (["ignorecase"], {"how": "count"}),
    ("contains", "words"): (["answer"], {}),
    ("contains", "column"): ("words", {}),
    ("contains", "case"): (True, {"words": ["the"]}),
    ("json_schema", "file"): ("{folder}/b.json", {}),
    ("json_schema", "column"): ("schema", {"file": None}),
    ("json_schema", "parsed"): (0.1, {}),
    ("json_schema", "fence"): (False, {}),
    ("length", "unit"): ("characters", {}),
    ("length", "target"): (2, {}),
    ("length", "at_least"): (3, {}),
    ("length", "at_most"): (1, {}),
    ("length", "per"): (2.0, {}),
    ("unit_test", "column"): ("strict", {}),
    ("unit_test", "grade"): ("all", {}),
    ("unit_test", "timeout"): (0.2, {}),
    ("unit_test", "memory"): (64, {}),
    ("unit_test", "disk"): (1, {}),
    ("unit_test", "processes"): (1, {}),
    ("unit_test", "workers"): (3, {"workers": 1}),
    ("model", "run"): ("judge-2", {}),
    ("model", "timeout"): (0.01, {}),
    ("http", "url"): ("{url}/other", {}),
    ("http", "model"): ("m", {}),
    ("http", "instruction"): ("grade {completion}", CHAT),
    ("http", "lowest"): (-10.0, CHAT),
    ("http", "highest"): (20.0, CHAT),
    ("http", "token_env"): ("JUDGE_TOKEN", {}),
    ("http", "timeout"): (0.1, {}),
    ("http", "retries"): (0, {}),
    ("http", "backoff"): (0.25, {}),
    ("http", "concurrency"): (1, {}),
    ("function", "function"): ("json:dumps", {}),
    ("length", "name"): ("long", {}),
    ("length", "weight"): (-2.0, {}),
    ("function", "timeout"): (0.01, {}),
    ("function", "max_fault_share"): (0.01, {}),
}
SHARED = set(RewardOptions.model_fields) - {"type"}
PROGRAMS = {
    "timeout": "import time\ntime.sleep(0.5)\n", "memory": "x = bytearray(150 << 20)\n", "disk": "open('x', 'wb').write(bytes(3 << 20))\n",
    "processes": "import os\nif os.fork() == 0: os._exit(0)\n",
}  # fmt: skip


class Reader:
    """Stands in for reward models: the second likes texts twice as much. It takes a moment."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        self.factor = 2 if "judge-2" in str(folder) else 1

    def refusals(self, rows: list[Any]) -> list[None]:
        return [None] * len(rows)

    def predict(self, rows: list[Any]) -> list[dict[str, float]]:
        time.sleep(0.06)
        return [{"reward": float(self.factor)} for _ in rows]


@pytest.fixture
def world(tmp_path, monkeypatch):
    from luthier.inference import model

    (tmp_path / "a.json").write_text('{"required": ["a"]}')
    (tmp_path / "b.json").write_text('{"required": ["b"]}')
    for name in ("judge-1", "judge-2"):
        (tmp_path / name).mkdir()
        card = dict.fromkeys(["state", "max_length", "text", "text_pair", "head"]) | {"task": {"type": "reward"}}
        (tmp_path / name / "luthier.json").write_text(json.dumps(card))
    monkeypatch.setattr(model, "Predictor", Reader)
    monkeypatch.setenv("JUDGE_TOKEN", "hunter2")
    return tmp_path


def answer(number: int, body: Any, handler: Any) -> Any:
    """The first request fails in a way that may pass; then each takes a moment."""
    if number == 0:
        return 503, b""
    time.sleep(0.15)
    return said("5") if "model" in body else [0.5] * len(body["completions"])


def moody(prompt: Any, completions: list[str], row: dict[str, Any]) -> list[float | None]:
    """Gives no score to one in seven, and takes a moment."""
    time.sleep(0.06)
    return [None if i == 3 else 1.0 for i in range(len(completions))]


def observe(section: dict[str, Any], world: Path, monkeypatch: pytest.MonkeyPatch, *, texts: list[str]) -> Any:
    """All that a reward shows: names, scores, faults, what a judge was asked, how many programs ran at once, how long it paused."""
    from luthier.alignment.rewards import unit_test

    RULE[:] = [moody]
    seen: dict[str, Any] = {"at once": 0, "most": 0, "pauses": []}
    real, lock = unit_test.examine, threading.Lock()

    def examine(*a: Any, **k: Any) -> Any:
        with lock:
            seen["at once"] += 1
            seen["most"] = max(seen["most"], seen["at once"])
        try:
            return real(*a, **k)
        finally:
            with lock:
                seen["at once"] -= 1

    monkeypatch.setattr(unit_test, "examine", examine)
    with judge(answer) as server:
        url = server.url.removesuffix("/score")
        filled = {
            k: v.format(folder=world, url=url) if isinstance(v, str) and v.startswith(("{folder}", "{url}")) else v
            for k, v in section.items()
        }
        try:
            with Scorer(options(filled), folder=world) as scorer:
                for reward in scorer._rewards:
                    if hasattr(reward, "_closed"):
                        monkeypatch.setattr(reward._closed, "wait", lambda pause: seen["pauses"].append(pause))
                found = scorer.score([Asked([{"role": "user", "content": "say it"}], texts, ROW)] * 2)
                result = (scorer.names, found.total.tolist(), dict(found.faults), {n: p.tolist() for n, p in found.parts.items()})
        except LuthierError as error:
            result = (str(error),)
        shown = {json.dumps((path, body.get("messages"), headers.get("Authorization"))) for headers, body, path in server.requests}
        return (
            re.sub(r"127.0.0.1:\d+", "there", repr(result)),
            shown,
            seen["most"] if "workers" in section else 0,
            seen["pauses"],
            min(server.most_at_once, 2),
        )


def test_no_field_is_missing():
    assert REWARD_OPTIONS.names() == REWARDS.names()
    own = {(kind, f) for kind in REWARD_OPTIONS.names() for f in set(REWARD_OPTIONS.load(kind).model_fields) - SHARED - {"type"}}
    again = {(kind, "timeout") for kind in ("unit_test", "model", "http")}  # keep to it themselves
    assert own | again | {key for key in CASES if key[1] in SHARED} == set(CASES)
    assert {field for _, field in CASES} >= SHARED


@pytest.mark.parametrize(("kind", "field"), CASES)
def test_every_field_takes_effect(kind, field, world, monkeypatch):
    value, others = CASES[kind, field]
    texts = [PROGRAMS.get(field, "") + SQUARE] * (2 if field == "workers" else 1) if kind == "unit_test" else TEXTS
    base = {"type": kind, **BASES.get(kind, {}), **others}
    before = observe(base, world, monkeypatch, texts=texts)
    after = observe(
        {**base, **({"words": []} if (kind, field) == ("contains", "column") else {}), field: value}, world, monkeypatch, texts=texts
    )
    assert before != after


@pytest.mark.parametrize(
    "base", [{"type": kind, **BASES.get(kind, {})} for kind in REWARD_OPTIONS.names()] + [{"type": "http", **BASES["http"], **CHAT}]
)
def test_nothing_changes_by_itself(base, world, monkeypatch):
    """Else the test above could not fail."""
    texts = [SQUARE] if base["type"] == "unit_test" else TEXTS
    once, again = [observe(base, world, monkeypatch, texts=texts) for _ in range(2)]
    assert once == again


@pytest.mark.parametrize("kind", REWARD_OPTIONS.names())
def test_columns_are_those_that_are_read(kind):
    """What a check of the data can ask for beforehand."""
    base = {"type": kind, **{k: v.format(url="http://x", folder="") if isinstance(v, str) else v for k, v in BASES.get(kind, {}).items()}}
    columns = {"exact": ("answer",), "number": ("answer",), "unit_test": ("tests",)}.get(kind, ())
    assert options(base)[0].columns == columns


def test_columns_that_an_option_names():
    assert options({"type": "contains", "column": "w"})[0].columns == ("w",)
    assert options({"type": "json_schema", "column": "s"})[0].columns == ("s",)
