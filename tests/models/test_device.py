"""A training on a GPU is the one on the CPU, loss for loss; skipped where there is none."""

from __future__ import annotations

import json

import pytest
import torch

import luthier
from luthier.models import dropout
from tests import tiny

CASES = {
    "classification": ("bert", "full", {}),
    "multitask": ("bert", "full", {"tasks": {"mood": "classification", "size": {"type": "classification", "data": {"label": "size"}}}}),
    "embedding": ("bert", "full", {}),
    "causal": ("llama", "full", {}),
    "text2text": ("t5", "full", {}),
    "preference": ("llama", "lora", {}),
}
COLUMNS = {
    "classification": {"text": "text", "label": "label"},
    "multitask": {"text": "text", "label": "label"},
    "embedding": {"text": "text", "text_pair": "answer"},
    "causal": {"text": "text"},
    "text2text": {"text": "text", "label": "answer"},
    "preference": {},
}
STEPS = 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
@pytest.mark.parametrize("task", CASES)
def test_a_training_there_is_the_one_here(task, tmp_path, monkeypatch):
    """Without dropout, which each device draws in its own way; the losses of eight updates and the scores after them."""
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, input: input)
    monkeypatch.setattr(dropout.LaneDropout, "forward", lambda self, input: input)
    family, method, options = CASES[task]
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "dropout_rate": 0.0}
    changes = {n: v for n, v in none.items() if hasattr(tiny.config(family), n)}
    folder = tiny.save(family, tmp_path / "start", **changes)
    rows = [
        {"text": t, "label": mood, "size": "long" if len(t.split()) > 7 else "short", "answer": " ".join(reversed(t.split()))}
        | {"prompt": t, "chosen": f" {mood}", "rejected": " the"}
        for t, mood in tiny.moods_rows(120)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    found = {}
    for device in ("cpu", "cuda"):
        run = luthier.train(
            {
                "data": {"train": str(tmp_path / "rows.jsonl"), "validation_share": 0.15, "test_share": 0.2, **COLUMNS[task]},
                "task": {"type": task, **options},
                "method": method,
                "model": {"name": str(folder)},
                "training": {"max_steps": STEPS, "batch_size": 16, "learning_rate": 1e-3, "threads": 1, "device": device},
                "evaluation": {"bootstrap": 100, "baselines": [], "written": 0},
                "output": {"folder": str(tmp_path / "runs"), "name": device},
            }
        )
        assert run.facts["host"]["device"] == device
        found[device] = [line["loss"] for line in run.lines("log.jsonl")], run.scores["methods"]["model"]["loss"]["value"]
    assert len(found["cpu"][0]) == STEPS
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-4)
    assert found["cuda"][1] == pytest.approx(found["cpu"][1], rel=1e-4)
