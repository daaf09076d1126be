"""Adapters as a user handles them on the command line: what is trained, merged models, combined adapters."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import yaml
from click.testing import CliRunner

from luthier.cli.main import root
from luthier.errors import ModelError, SpaceError
from tests import tiny


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with two runs of LoRA on one small decoder."""
    folder = tmp_path_factory.mktemp("adapters")
    rows = [{"prompt": t, "completion": label} for t, label in tiny.moods_rows(48)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny.save("llama", folder / "base")
    for name, seed in (("polite", 0), ("brief", 1)):
        recipe = {
            "data": dict.fromkeys(["train", "validation", "test"], "rows.jsonl"), "task": {"type": "chat", "max_new_tokens": 4}, "model": "./base",
            "method": {"type": "lora", "rank": 4}, "training": {"max_steps": 6, "batch_size": 16, "threads": 1, "seed": seed},
            "evaluation": {"written": 0, "bootstrap": 100},
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    here = os.getcwd()
    os.chdir(folder)
    try:
        for name in ("polite", "brief"):
            done = CliRunner().invoke(root, ["train", f"{name}.yaml"])
            assert done.exit_code == 0, done.output
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def say(home, monkeypatch):
    monkeypatch.chdir(home)
    return lambda *words: CliRunner().invoke(root, list(words))


def test_training_says_what_moves(say):
    told = say("train", "polite.yaml", "--set", "output.name=again", "--set", "training.max_steps=1")
    assert "lora on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj: trainable 3,712 of" in told.output


def test_check_counts_and_times_and_lists(say):
    told = say("check", "polite.yaml", "--modules", "--time")
    assert told.exit_code == 0, told.output
    assert "trainable" in told.output
    assert "an epoch" in told.output
    listed = [line.split() for line in told.output.splitlines() if line.startswith("trained ")]
    assert sum(int(size.replace(",", "")) for _, size, _ in listed) == 3712
    assert all("lora_" in name for _, _, name in listed)
    found = json.loads(say("check", "polite.yaml", "--json").output)
    assert sum(found["trained"].values()) == 3712


def test_a_run_with_adapters_is_a_run_like_any_other(say):
    assert say("generate", "polite-1", "the film was great", "--seed", "1").exit_code == 0
    assert "perplexity" in say("evaluate", "polite-1").output
    assert say("compare", "polite-1", "brief-1").exit_code == 0


def test_merge_writes_a_plain_model(say, home):
    told = say("merge", "polite-1", "merged", "--dtype", "bf16")
    assert told.exit_code == 0, told.output
    assert not list((home / "merged").glob("adapter_*"))
    one, two = (say("generate", where, "the film was great", "--temperature", "0") for where in ("merged", "polite-1"))
    assert one.exit_code == two.exit_code == 0
    again = say("merge", "polite-1", "merged")
    assert isinstance(again.exception, SpaceError)
    assert isinstance(say("merge", "base", "other").exception, Exception)
    assert not (home / "other").exists()


def test_combine_writes_adapters(say, home):
    told = say("combine", "mixed", "polite-1=0.7", "brief-1=0.3", "--by", "ties")
    assert told.exit_code == 0, told.output
    assert (home / "mixed" / "adapter_config.json").is_file()
    assert say("generate", "mixed", "the film was great", "--temperature", "0").exit_code == 0
    assert "RUN=WEIGHT" in say("combine", "other", "polite-1=much").output
    shutil.copytree(home / "base", home / "base2", dirs_exist_ok=True)
    moved = yaml.safe_load((home / "brief.yaml").read_text()) | {"model": "./base2"}
    (home / "moved.yaml").write_text(yaml.safe_dump(moved))
    assert say("train", "moved.yaml").exit_code == 0
    refused = say("combine", "other", "polite-1=0.5", "moved-1=0.5")
    assert isinstance(refused.exception, ModelError)
    assert "not on this base" in str(refused.exception)


def test_a_quantised_model_says_that_it_writes_slowly(say, home):
    """Trained on a base in 4 bits, and told so whenever it writes."""
    tiny.save("llama", home / "wide", hidden_size=64, intermediate_size=64)
    recipe = yaml.safe_load((home / "polite.yaml").read_text()) | {"model": {"name": "./wide", "quantization": "4bit"}}
    (home / "packed.yaml").write_text(yaml.safe_dump(recipe))
    assert say("train", "packed.yaml").exit_code == 0
    told = say("generate", "packed-1", "the film was great", "--temperature", "0")
    assert told.exit_code == 0
    assert "luthier merge" in told.stderr
    assert say("merge", "packed-1", "whole").exit_code == 0
