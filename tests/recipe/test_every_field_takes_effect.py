"""Every field of the recipe changes what is planned, computed or written: the schema is walked, none may be missing."""

from __future__ import annotations

import copy
import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

import luthier
from luthier.errors import LuthierError
from luthier.recipe import load_recipe
from luthier.recipe.load import _put
from luthier.recipe.sections import Recipe
from luthier.recipe.tasks.classification import ClassificationOptions
from luthier.workflow.events import Note
from tests import tiny
from tests.recipe import language_cases as language


def leaf_paths(model: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """Dotted path of every field of the schema."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        if f"{prefix}{name}" in ("method", "retention", "curriculum", "rounds"):  # test_method_fields.py, test_retention_fields.py ...
            continue
        kind = ClassificationOptions if name == "task" else field.annotation
        inner = [a for a in get_args(kind) if isinstance(a, type) and issubclass(a, BaseModel)]
        if inner or (isinstance(kind, type) and issubclass(kind, BaseModel)):
            found += leaf_paths(inner[0] if inner else kind, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model):
    """Files that the cases refer to."""
    folder = tmp_path_factory.mktemp("world")
    rows = tiny.moods_rows(60)
    rows += [(rows[0][0], rows[0][1]), ("the film was great", "odd"), ("the room was cold", "odd"), ("we found it flat", "odd")]

    def write(path: Path, header: list[str] | None, lines: list[list[Any]], **options: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
            writer = csv.writer(file, **options)
            writer.writerows([header, *lines] if header else lines)

    table = [
        [t, label, " ".join(reversed(t.split())), i % 2, 1 - i % 2, label + "|" + ("plain" if i % 2 else "odd"), i / 7]
        for i, (t, label) in enumerate(rows)
    ]
    header = ["text", "label", "other", "x", "y", "several", "number"]
    write(folder / "all.csv", header, table)
    write(folder / "all.txt.csv", header, table)
    write(folder / "headless.csv", None, table)
    write(folder / "bad.csv", header, [*table, ["one field"], ["another"]])
    write(folder / "latin.csv", header, [[t + " é", *rest] for t, *rest in table], encoding="utf-8")
    write(folder / "held.csv", header, table[:20])
    write(folder / "public" / "tweet_sentiment_extraction" / "train.csv", ["text", "sentiment"], [[t, label] for t, label in rows[:60]])
    (folder / "heads.py").write_text(
        "import torch\n\ndef head(width, outputs):\n    return torch.nn.Linear(width, outputs)\n", encoding="utf-8"
    )
    return {"folder": folder, "model": tiny_model, "other_model": tiny.save("distilbert", folder / "distilbert")}


def base(world: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": {"train": str(world["folder"] / "all.csv"), "validation_share": 0.2, "test_share": 0.2, "max_bad_share": 0.1},
        "model": {"name": str(world["model"])},
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "threads": 1},
        "evaluation": {"bootstrap": 100, "baselines": ["majority"], "base_model": False},
        "output": {"folder": "runs", "name": "case"},
    }


def observe(recipe: dict[str, Any], overrides: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Train in `folder` and gather everything that a field could change."""
    from luthier.inference import predict
    from luthier.models import load
    from luthier.training import batches, checkpoint

    counts: Counter[str] = Counter()

    def counting(module: Any, name: str, label: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: (counts.update([label]), real(*a, **k))[1])

    counting(predict, "collate", "passes in evaluation")
    counting(batches, "collate", "passes in training")
    counting(checkpoint, "save", "checkpoints saved")
    counting(load, "_keep_inputs_alone", "models that compute their layers again")
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    notes: list[str] = []
    try:
        run = luthier.train(recipe, overrides=overrides, listener=lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    except LuthierError as error:
        return {"error": str(error)}
    facts = run.facts
    scores = run.scores
    return {
        "error": "",
        "log": run.lines("log.jsonl"), "evaluations": run.lines("evaluations.jsonl"), "weights": facts["weights_digest"],
        "summary": facts["data"]["summary"], "files": facts["data"]["files"], "plan": facts["plan"], "host": facts["host"],
        "layout": facts["layout"], "inferred": facts["inferred"], "parameters": facts["parameters"], "tokens": facts["tokens"],
        "task": facts["task"], "model": facts["model"], "scores": scores["methods"], "methods": list(scores["methods"]),
        "model card": (run.model / "README.md").read_text(encoding="utf-8"),
        "card": json.loads((run.model / "luthier.json").read_text()), "config": json.loads((run.model / "config.json").read_text()),
        "predictions": run.lines("predictions/test.jsonl"), "notes": notes, "counts": dict(counts), "progress": {k: v for k, v in facts["progress"].items() if k != "seconds"},
        "checkpoints": sorted(p.name for p in run.checkpoints.iterdir()), "place": str(run.folder.relative_to(folder)) if run.folder.is_relative_to(folder) else str(run.folder),
    }  # fmt: skip


# path -> (changed value, what must change, other overrides on both sides)
MENDING = ["data.mend.type=drop", "data.mend.model={folder}/distilbert"]
SEVERAL = ["data.label=several", "data.label_separator='|'"]
CASES: dict[str, tuple[Any, str, list[str]]] = {
    "data.train": ("{folder}/latin.csv", "files", []),
    "data.validation": ("{folder}/held.csv", "summary", []),
    "data.test": ("{folder}/held.csv", "summary", []),
    "data.format": ("tsv", "error", []),
    "data.encoding": ("cp1252", "notes", ["data.train={folder}/latin.csv"]),
    "data.text": ("other", "log", []),
    "data.text_pair": ("other", "tokens", []),
    "data.label": ("x", "inferred", []),
    "data.columns": (["text", "label", "a", "b", "c", "d", "e"], "error", ["data.train={folder}/headless.csv"]),
    "data.label_separator": ("|", "task", ["data.label=several"]),
    "data.exclude": ({"label": ["odd"]}, "summary", []),
    "data.only": ({"label": ["positive", "negative"]}, "summary", []),
    "data.group": ("number", "log", []),
    "data.clean": (["duplicates"], "summary", []),
    "data.mend.type": ("relabel", "summary", MENDING),
    "data.mend.at_least": (0.5, "summary", MENDING),
    "data.mend.model": ("nowhere", "error", MENDING),
    "data.augment": ([{"type": "noise"}], "summary", []),
    "data.duplicates": ("drop", "summary", []),
    "data.limit": (20, "summary", []),
    "data.max_bad_share": (0.01, "error", ["data.train={folder}/bad.csv"]),
    "data.validation_share": (0.3, "summary", []),
    "data.test_share": (0.3, "summary", []),
    "data.name": (None, "error", ["data.name=tweet_sentiment_extraction", "data.label=sentiment", "data.train=train.csv"]),
    "data.origin": ("github:nobody/nothing@" + "0" * 40, "error", ["data.name=nowhere", "data.train=train.csv"]),
    "data.license": ("CC-BY-4.0", "model card", []),
    "data.sample": (True, "files", ["data.name=tweet_sentiment_extraction", "data.label=sentiment", "data.train=train.csv"]),
    "task.type": ("clasification", "error", []),
    "task.kind": ("regression", "task", ["data.label=x"]),
    "task.labels": (["neutral", "odd", "positive", "negative"], "card", []),
    "task.class_weights": ("balanced", "log", []),
    "task.label_smoothing": (0.3, "log", []),
    "task.prompt": ("we found this: {text}", "tokens", []),
    "task.threshold": (0.9, "scores", SEVERAL),
    "model.name": ("{other_model}", "parameters", []),
    "model.layers": (1, "parameters", []),
    "model.dropout": (0.4, "log", []),
    "model.head": ("mlp", "parameters", []),
    "model.max_length": (6, "tokens", []),
    "model.quantization": ("4bit", "error", []),
    "training.epochs": (3, "log", []),
    "training.max_steps": (2, "log", []),
    "training.batch_size": (8, "log", []),
    "training.gradient_accumulation": (2, "log", []),
    "training.max_tokens": (40, "counts", []),
    "training.learning_rate": (1e-4, "log", []),
    "training.schedule": ("cosine", "log", []),
    "training.warmup": (0.5, "log", []),
    "training.weight_decay": (0.5, "weights", []),
    "training.betas": ([0.5, 0.9], "weights", []),
    "training.epsilon": (0.1, "weights", []),
    "training.max_grad_norm": (0.001, "weights", []),
    "training.early_stopping": (1, "progress", ["training.epochs=8", "training.learning_rate=1e-9"]),
    "training.plateau_factor": (0.1, "log", ["training.epochs=6", "training.schedule=plateau", "training.learning_rate=1e-9", "training.plateau_patience=1"]),
    "training.plateau_patience": (1, "log", ["training.epochs=6", "training.schedule=plateau", "training.learning_rate=0.2"]),
    "training.gap_warning": (1000.0, "notes", ["training.epochs=6", "training.learning_rate=0.05"]),
    "training.precision": ("bf16", "host", []),
    "training.layer_decay": (0.5, "weights", []),
    "training.optimizer": ("paged_adamw8bit", "error", []),
    "training.rounding": ("stochastic", "weights", ["training.precision=bf16"]),
    "training.attention": ("padded", "layout", []),
    "training.checkpointing": (True, "counts", []),
    "training.rehearsal": (False, "counts", []),
    "training.device": ("cuda", "error", []),
    "training.threads": (2, "host", []),
    "training.seed": (5, "weights", []),
    "evaluation.every": (2, "evaluations", []),
    "evaluation.metric": ("loss", "plan", []),
    "evaluation.restore_best": (False, "weights", ["training.epochs=6", "training.learning_rate=0.05"]),
    "evaluation.base_model": (True, "methods", []),
    "evaluation.baselines": (["majority", "tfidf", "frozen"], "methods", []),
    "evaluation.general_probe": (False, "notes", []),
    "evaluation.fail_if": ({"general": "drop > 1"}, "error", []),
    "evaluation.bootstrap": (150, "scores", []),
    "evaluation.max_tokens": (30, "counts", []),
    "checkpoints.every_steps": (1, "counts", []),
    "checkpoints.every_minutes": (1e-9, "counts", []),
    "checkpoints.keep": (3, "checkpoints", ["checkpoints.every_steps=1"]),
    "output.folder": ("elsewhere", "place", []),
    "output.name": ("another", "place", []),
}  # fmt: skip
ELSEWHERE = {"data.earlier", "model.revision", "model.double_quantization", "evaluation.earlier_probe"}
"""Proven by tests of their own: one below, for it needs a hub id; one in tests/models/test_quantize.py, for it needs wider layers;
those that need an earlier run in tests/workflow/test_probes.py and tests/workflow/test_continual.py."""


UNCHANGED: dict[tuple[str, ...], dict[str, Any]] = {}


def unchanged(world: dict[str, Any], overrides: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is seen with the overrides alone: most cases share it, so that it is trained once."""
    key = tuple(overrides)
    if key not in UNCHANGED:
        UNCHANGED[key] = observe(base(world), overrides, folder, monkeypatch)
    return UNCHANGED[key]


def test_no_field_is_missing():
    assert set(leaf_paths()) == set(CASES) | ELSEWHERE | {path for task, path in language.CASES if not path.startswith("task.")}


@pytest.mark.parametrize("path", sorted(CASES))
def test_changing_it_changes_something(path, world, tmp_path, monkeypatch):
    value, aspect, others = CASES[path]
    monkeypatch.setenv("LUTHIER_DATA", str(world["folder"] / "public"))

    def fill(x: Any) -> Any:
        return (
            x.format(**world)
            if (isinstance(x, str) and x.startswith(("{folder}", "{other_model}"))) or (isinstance(x, str) and "={folder}" in x)
            else x
        )

    overrides = [fill(o) for o in others]
    before = unchanged(world, overrides, tmp_path / "a", monkeypatch)
    changed = copy.deepcopy(base(world))
    for text in overrides:
        key, _, raw = text.partition("=")
        _put(changed, key, yaml.safe_load(raw))
    _put(changed, path, fill(value))
    after = observe(changed, [], tmp_path / "b", monkeypatch)
    if aspect != "error" and (before["error"] or after["error"]):
        pytest.fail(before["error"] or after["error"])
    assert before[aspect] != after[aspect]


def test_revision_is_what_the_hub_is_asked_for(monkeypatch):
    from luthier.models.source import resolve

    asked = [
        resolve(load_recipe({"data": "x.csv", "model": {"name": "org/name", "revision": r}}).recipe.model).revision
        for r in (None, "a" * 40)
    ]
    assert asked == [None, "a" * 40]
