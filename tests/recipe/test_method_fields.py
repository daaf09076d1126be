"""Every field of every method takes effect: the schemas are walked, none may be missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.registry import METHOD_OPTIONS
from tests import tiny

SMALL = {
    "lora": {"rank": 4}, "qlora": {"rank": 4}, "adalora": {"initial_rank": 4, "rank": 2, "warmup": 0.1, "settle": 0.2}, "vera": {"rank": 8},
    "oft": {"block_size": 8}, "prompt": {"virtual_tokens": 3}, "p-tuning": {"virtual_tokens": 3}, "prefix": {"virtual_tokens": 3},
}  # fmt: skip
ADAPTER = {"target_modules": (["v_proj"], {}), "layers": ([0], {})}
LORA = {
    **ADAPTER, "rank": (2, {}), "alpha": (3.0, {}), "dropout": (0.4, {}), "rslora": (True, {}), "dora": (True, {}), "init": ("gaussian", {}),
    "plus_ratio": (16.0, {}), "ranks": ({"q_proj": 2}, {}),
}  # fmt: skip
CASES: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {
    "full": {}, "bitfit": {}, "norms": {}, "lora": LORA, "qlora": LORA,
    "freeze": {
        "layers": (2, {}), "all_but_last": (0, {}), "embeddings": (True, {"names": ["norm"]}), "head_only": (True, {}), "names": (["intermediate"], {"layers": 1}),
        "unfreeze": (0.5, {}), "trunk": ("computed", {}), "trunk_precision": ("bf16", {"trunk": "kept"}),
    },
    "adalora": {
        **ADAPTER, "initial_rank": (6, {}), "rank": (1, {}), "alpha": (3.0, {}), "dropout": (0.4, {}), "warmup": (0.5, {}), "settle": (0.7, {}), "every": (4, {}),
        "orthogonality": (0.0, {}),
    },
    "ia3": {"target_modules": (["v_proj"], {}), "feedforward_modules": (["up_proj"], {})},
    "oft": {**ADAPTER, "block_size": (4, {})},
    "vera": {**ADAPTER, "rank": (4, {}), "dropout": (0.4, {}), "scale": (0.5, {})},
    "prompt": {"virtual_tokens": (5, {}), "start": ("the film", {})},
    "p-tuning": {"virtual_tokens": (5, {}), "network": ("lstm", {}), "hidden_size": (16, {})},
    "prefix": {"virtual_tokens": (5, {}), "projection": (True, {}), "hidden_size": (16, {"projection": True})},
}  # fmt: skip
FIELDS = [(m, f) for m in METHOD_OPTIONS.names() for f in METHOD_OPTIONS.load(m).model_fields if f != "type"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    rows = [{"text": t, "label": label} for t, label in tiny.moods_rows(48)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny.save("llama", folder / "llama", hidden_size=64, intermediate_size=64)
    tiny.save("bert", folder / "bert")
    return folder


def seen(world: Path, method: str, options: dict[str, Any]) -> Any:
    """What a short training shows of its method."""
    name = "bert" if method in ("freeze", "bitfit") else "llama"
    notes: list[str] = []
    run = luthier.train(
        {
            "data": dict.fromkeys(["train", "validation", "test"], str(world / "rows.jsonl")),
            "model": {"name": str(world / name)}, "method": {"type": method, **SMALL.get(method, {}), **options},
            "training": {"epochs": 3, "batch_size": 16, "threads": 1, "learning_rate": 0.05},
            "evaluation": {"bootstrap": 100, "base_model": False, "baselines": [], "restore_best": False}, "output": {"folder": str(world / "runs")},
        },
        listener=lambda event: notes.append(str(getattr(event, "text", ""))),
    )  # fmt: skip
    losses = [{k: v for k, v in line.items() if k != "learning_rate"} for line in run.lines("log.jsonl")]
    return (
        losses,
        run.facts["trainable"],
        json.loads((run.folder / "trained.json").read_text()),
        [n for n in notes if "computed" in n],
    )


PLAIN: dict[str, Any] = {}


def test_no_field_is_missing():
    assert set(CASES) == set(METHOD_OPTIONS.names())
    assert [(m, f) for m, f in FIELDS if f not in CASES[m]] == []


@pytest.mark.parametrize(("method", "field"), FIELDS)
def test_every_field_takes_effect(method, field, world):
    value, base = CASES[method][field]
    key = f"{method} {base}"
    if key not in PLAIN:
        PLAIN[key] = seen(world, method, base)
    assert seen(world, method, {**base, field: value}) != PLAIN[key]
