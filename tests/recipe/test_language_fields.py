"""Every field of the tasks that predict tokens takes effect: the schemas are walked, none may be missing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import luthier
from luthier.errors import LuthierError
from luthier.recipe.load import _put
from luthier.registry import TASK_OPTIONS
from luthier.workflow import written
from luthier.workflow.events import Note
from tests import tiny
from tests.recipe.language_cases import CASES

ARCHITECTURES = {
    "causal": "llama",
    "chat": "llama",
    "preference": "llama",
    "policy": "llama",
    "reward": "llama",
    "text2text": "t5",
    "masked": "bert",
    "span": "bert",
    "tagging": "bert",
    "parsing": "bert",
    "embedding": "bert",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Files that the cases refer to: the same sentences as text, as pairs and as conversations."""
    folder = tmp_path_factory.mktemp("language")
    texts = [t for t, _ in tiny.moods_rows(60)]
    (folder / "text.txt").write_text("\n---\n".join(texts))
    rows = [{"text": t, "label": " ".join(reversed(t.split())), "prompt": t, "completion": t.split()[0], "other": f"so {t}"} for t in texts]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    template = "{% for m in messages %}{{ m.role }}> {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    (folder / "template.jinja").write_text(template + "{% if add_generation_prompt %}assistant> {% endif %}")
    (folder / "scores.py").write_text("def shorter(text, gold):\n    return float(len(text) < len(gold))\n")
    asked = [
        {"context": f"{t} {t}", "question": "what", "label": t.split()[-1] if i % 4 else "", "answer_start": len(t) - len(t.split()[-1]), "other": 9, "part": str(i // 2)}
        for i, t in enumerate(texts)
    ]  # fmt: skip
    kinds = ["BAD" if i % 4 else "GOOD" for i in range(len(texts))]
    tagged = [
        {"words": t.split(), "tags": [f"{'I' if j else 'B'}-{k}" for j in range(len(t.split()))]} for t, k in zip(texts, kinds, strict=True)
    ]
    (folder / "tagged.jsonl").write_text("\n".join(map(json.dumps, tagged)))
    trees = [
        {"words": t.split(), "others": t.split()[::-1], "head": list(range(len(t.split()))), "deprel": [("nmod:poss", "nmod")[len(w) % 2] for w in t.split()]}
        for t in texts
    ]  # fmt: skip
    (folder / "trees.jsonl").write_text("\n".join(map(json.dumps, trees)))
    paired = [
        {"text": t, "other": " ".join(t.split()[1:]), "third": texts[i - 1], "mood": i % 3, "score": i % 2 / 2}
        for i, t in enumerate(texts)
    ]  # fmt: skip
    (folder / "paired.jsonl").write_text("\n".join(map(json.dumps, paired)))
    preferred = [
        {"prompt": t, "chosen": f"so {t.split()[0]}", "rejected": t.split()[-1], "better": f"very {t}", "completion": t.split()[0], "label": i % 2 == 0, "rating": i % 5, "gap": i % 3}
        for i, t in enumerate(texts)
    ]  # fmt: skip
    (folder / "preferred.jsonl").write_text("\n".join(map(json.dumps, preferred)))
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (folder / "more.txt").write_text("\n\n".join(texts))
    return folder


def base(task: str, world: Path) -> dict[str, Any]:
    data: dict[str, Any] = {"train": str(world / "rows.jsonl"), "max_bad_share": 0.2}
    if task == "causal":
        data = {"train": str(world / "text.txt"), "separator": "\n---\n"}
    if task == "tagging":
        data = {"train": str(world / "tagged.jsonl")}
    if task in ("preference", "reward"):
        data = {"train": str(world / "preferred.jsonl"), "max_bad_share": 0.2}
    if task == "parsing":
        data = {"train": str(world / "trees.jsonl")}
    if task == "embedding":
        data = {"train": str(world / "paired.jsonl"), "text_pair": "other"}
    if task == "span":
        data = {"train": str(world / "asked.jsonl"), "text": "context", "text_pair": "question", "max_bad_share": 0.9}
    return {
        "data": {**data, "validation_share": 0.2, "test_share": 0.2},
        "task": {
            "type": task,
            **({"rewards": [{"type": "length", "unit": "characters"}]} if task == "policy" else {}),
            **({"max_new_tokens": 6} if task not in ("masked", "span", "tagging", "parsing", "embedding", "reward") else {}),
        },
        "model": {
            "from_scratch": {
                "architecture": ARCHITECTURES[task],
                "vocabulary": 320,
                "hidden_size": 16,
                "layers": 1,
                "heads": 2,
                "context": 96,
            }
        },
        "training": {"epochs": 1, "batch_size": 16, "learning_rate": 3e-3, "threads": 1},
        "evaluation": {"bootstrap": 100, "written": 4},
        "output": {"folder": "runs", "name": "case"},
    }


def observe(recipe: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Train in `folder` and gather everything that a field could change."""
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    notes: list[str] = []
    beams: list[int] = []
    real = written.beams
    monkeypatch.setattr(written, "beams", lambda *a, **k: (beams.append(k["beams"]), real(*a, **k))[1])
    try:
        run = luthier.train(recipe, listener=lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    except LuthierError as error:
        return {"error": str(error)}
    finally:
        monkeypatch.setattr(written, "beams", real)
    facts = run.facts
    return {
        "error": "", "log": run.lines("log.jsonl"), "weights": facts["weights_digest"], "summary": facts["data"]["summary"], "beams": beams,
        "parameters": facts["parameters"], "tokens": facts["tokens"], "scores": run.scores["methods"]["model"], "notes": notes, "probes": run.scores["probes"],
        "samples": run.lines("predictions/samples.jsonl"), "predictions": run.lines("predictions/test.jsonl"), "files": sorted(p.name for p in run.model.iterdir()),
    }  # fmt: skip


UNCHANGED: dict[tuple[str, ...], dict[str, Any]] = {}
"""What is seen of a task with the other fields alone: many cases share it, so that it is trained once."""


def test_no_field_is_missing():
    walked = {(task, f"task.{name}") for task in ARCHITECTURES for name in TASK_OPTIONS.load(task).model_fields}
    assert walked == {case for case in CASES if case[1].startswith("task.")}
    others = {"classification", "few_shot", "multitask"}  # test_every_field_takes_effect.py, test_few_shot.py, test_curriculum_fields.py
    assert set(TASK_OPTIONS.names()) == {*others, *ARCHITECTURES}


@pytest.mark.parametrize(("task", "path"), sorted(CASES))
def test_changing_it_changes_something(task, path, world, tmp_path, monkeypatch):
    value, aspect, others = CASES[task, path]
    before = base(task, world)
    for text in others:
        key, _, raw = text.partition("=")
        _put(before, key, yaml.safe_load(raw))
    changed = copy.deepcopy(before)
    if isinstance(value, str) and value.startswith("{folder}"):
        value = value.format(folder=world)
    if isinstance(value, dict):
        value = {k: v.format(folder=world) for k, v in value.items()}
    _put(changed, path, value)
    if path == "task.type":
        changed["task"] = {"type": value}
    monkeypatch.syspath_prepend(str(world))
    key = (task, *others)
    if key not in UNCHANGED:
        UNCHANGED[key] = observe(before, tmp_path / "a", monkeypatch)
    found = [UNCHANGED[key], observe(changed, tmp_path / "b", monkeypatch)]
    if aspect != "error" and (found[0]["error"] or found[1]["error"]):
        pytest.fail(found[0]["error"] or found[1]["error"])
    assert found[0][aspect] != found[1][aspect]
