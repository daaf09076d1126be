"""A run that is killed and resumed ends with the same bits as one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import luthier
from luthier.errors import Interrupted, RunError
from luthier.security.artifacts import sha256
from luthier.workflow.events import Stepped

LONG = {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3, "threads": 1, "schedule": "plateau", "early_stopping": 20}


def endings(run: luthier.Run) -> dict[str, object]:
    """Weights, optimizer state and logs at the end."""
    from luthier.training import checkpoint

    newest = checkpoint.newest(run.checkpoints)[0]
    assert newest is not None
    return {
        "weights": run.facts["weights_sha256"], "optimizer": sha256(newest / "optimizer.safetensors"), "last": newest.name,
        "log": sha256(run.folder / "log.jsonl"), "evaluations": sha256(run.folder / "evaluations.jsonl"),
    }  # fmt: skip


def stopping_at(step: int):
    """A listener that sends this process SIGTERM after an update."""

    def listen(event) -> None:
        if isinstance(event, Stepped) and event.report.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return listen


def newest_run(recipe) -> luthier.Run:
    return luthier.find("latest", root=Path(recipe["output"]["folder"]))


@pytest.mark.parametrize("steps", [[3], [5, 9, 22]])
def test_sigterm_finishes_the_update_saves_and_resumes_to_the_same_bits(recipe, steps):
    recipe["training"] |= LONG
    recipe["checkpoints"] = {"every_steps": 7}
    whole = endings(luthier.train(recipe))
    with pytest.raises(Interrupted, match="luthier resume"):
        luthier.train(recipe, listener=stopping_at(steps[0]))
    run = newest_run(recipe)
    assert run.facts["status"] == "interrupted"
    for step in steps[1:]:
        with pytest.raises(Interrupted):
            luthier.resume(run, listener=stopping_at(step))
    assert endings(luthier.resume(run)) == whole


def test_a_stopped_run_can_be_ended_where_it_is(recipe):
    with pytest.raises(Interrupted):
        luthier.train(recipe, listener=stopping_at(3))
    run = luthier.resume(newest_run(recipe), finish=True)
    assert run.facts["status"] == "done"
    assert run.facts["progress"]["step"] == 3
    assert "after update 3 of" in run.facts["progress"]["stopped"]
    assert (run.model / "model.safetensors").is_file()
    assert run.lines("evaluations.jsonl")[-1]["step"] == 3


def test_a_finished_run_is_not_trained_again(recipe):
    run = luthier.train(recipe)
    before = endings(run)
    assert endings(luthier.resume(run)) == before


def test_changed_data_are_refused_on_resume(recipe, moods):
    with pytest.raises(Interrupted):
        luthier.train(recipe, listener=stopping_at(2))
    moods.write_text(moods.read_text() + "the film was great,positive\n")
    with pytest.raises(RunError, match="has changed since the run began"):
        luthier.resume(newest_run(recipe))


def test_two_processes_on_one_run_are_refused(recipe):
    with pytest.raises(Interrupted):
        luthier.train(recipe, listener=stopping_at(2))
    run = newest_run(recipe)
    with run.lock(), pytest.raises(RunError, match="another process"):
        luthier.resume(run)


def test_a_corrupt_newest_checkpoint_is_named_and_the_one_before_used(recipe):
    recipe["training"] |= LONG
    recipe["checkpoints"] = {"every_steps": 5, "keep": 4}
    whole = endings(luthier.train(recipe))
    with pytest.raises(Interrupted):
        luthier.train(recipe, listener=stopping_at(13))
    run = newest_run(recipe)
    newest = sorted(run.checkpoints.iterdir())[-1] / "weights.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    notes = []
    assert endings(luthier.resume(run, listener=lambda e: notes.append(str(e)))) == whole
    assert any("is refused: weights.safetensors has changed" in n for n in notes)


KILLS = 20


@pytest.mark.slow
def test_twenty_kills_at_random_moments_end_in_the_same_bits(recipe, tmp_path):
    """kill -9 of a real process; counted: each must have hit a running training."""
    recipe["training"] |= LONG | {"epochs": 60, "early_stopping": 500}
    recipe["checkpoints"] = {"every_steps": 4}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    whole = endings(luthier.train(path))
    draw, kills = random.Random(0), 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "luthier.cli.main"]
    run: luthier.Run | None = None
    while kills < KILLS:
        arguments = ["train", str(path)] if run is None else ["resume", str(run.folder)]
        process = subprocess.Popen([*command, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        known = None
        while process.poll() is None:  # wait until it trains, then a random moment more
            runs = sorted(Path(recipe["output"]["folder"]).glob("*/log.jsonl"), key=os.path.getmtime)
            if runs and runs[-1].parent.name != "tiny-1":
                size = runs[-1].stat().st_size
                if known is not None and size != known:
                    break
                known = size
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed: make the training longer"
        time.sleep(draw.random() * 0.25)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        run = newest_run(recipe)
        assert run.facts["status"] == "running"
    assert kills == KILLS
    assert run is not None
    assert endings(luthier.resume(run)) == whole


def test_continue_starts_from_the_end_with_its_lineage(recipe):
    first = luthier.train(recipe)
    second = luthier.continue_run(first, epochs=1)
    assert second.facts["parent"] == first.id
    assert second.facts["plan"]["epochs"] == 1
    base, before = second.scores["methods"]["base"], first.scores["methods"]["model"]
    assert base["accuracy"]["value"] == before["accuracy"]["value"]
    assert base["loss"]["value"] == pytest.approx(before["loss"]["value"], abs=1e-5)


def test_reproduce_gives_the_same_weights_and_log(recipe):
    first = luthier.train(recipe)
    again, result = luthier.reproduce(first)
    assert result["same_data"]
    assert result["same_log"]
    assert result["same_weights"]
    assert again.facts["parent"] == first.id


def test_a_loss_that_is_not_finite_stops_before_the_update(recipe, monkeypatch):
    from luthier.errors import NonFiniteError
    from luthier.tasks.classification import Classification

    real, calls = Classification.loss, []

    def poisoned(self, layout):
        inner = real(self, layout)

        def loss(model, batch):
            calls.append(1)
            result = inner(model, batch)
            return result._replace(sum=result.sum * float("nan")) if len(calls) == 4 else result

        return loss

    monkeypatch.setattr(Classification, "loss", poisoned)
    recipe["training"]["rehearsal"] = False  # it computes a loss too
    with pytest.raises(NonFiniteError, match="step 4"):
        luthier.train(recipe)
    assert len(calls) == 4
    run = newest_run(recipe)
    assert run.facts["status"] == "failed"
    assert len(run.lines("log.jsonl")) == 3
