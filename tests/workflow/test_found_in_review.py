"""Faults that a review found; each was real, each must stay away."""

from __future__ import annotations

import json

import pytest

import luthier
from luthier.errors import DataError, LuthierError, ModelError, RecipeError, RunError
from luthier.recipe import load_recipe
from luthier.training import checkpoint
from luthier.workflow.dataset import dataset
from tests import tiny


def plan(path, task=None, **data):
    return dataset(load_recipe({"data": {"train": str(path), **data}, "task": task or {"type": "classification"}}))


def many(write_csv, name="a.csv", columns=("text", "one", "two"), odd="0"):
    return write_csv(name, list(columns), [[f"t{i}", i % 2, 1 - i % 2] for i in range(40)] + [["odd", odd, 1]])


def test_a_refused_checkpoint_is_set_aside_and_never_preferred(tmp_path):
    import torch

    for step in (1, 2):
        checkpoint.save(tmp_path, step=step, weights={"a": torch.ones(2)}, optimizer={}, state={})
    (tmp_path / "step-00000002" / "state.json").write_text("{}")
    found, refused = checkpoint.newest(tmp_path)
    assert found is not None
    for name in refused:
        checkpoint.set_aside(tmp_path / name)
    checkpoint.prune(tmp_path, keep=1, spare=set())
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-00000001", {})


def test_a_corrupt_best_checkpoint_is_named_and_the_last_weights_kept(recipe):
    from luthier.workflow.events import Evaluated

    recipe["training"] |= {"epochs": 6, "learning_rate": 0.05}
    folder, notes = [], []

    def damage(event) -> None:
        notes.append(str(event))
        if isinstance(event, Evaluated) and not folder:
            root = __import__("pathlib").Path(recipe["output"]["folder"])
            folder.append(root)
        if isinstance(event, Evaluated) and not event.best:
            for path in folder[0].glob("*/checkpoints/step-*/weights.safetensors"):
                path.write_bytes(b"torn")

    run = luthier.train(recipe, listener=damage)
    assert run.facts["progress"]["best_step"] < run.facts["progress"]["step"], "the fault never fired"
    assert any("is refused" in n and "the last weights are kept" in n for n in notes)


def test_evaluating_after_the_data_changed_is_refused(recipe, moods):
    run = luthier.train(recipe)
    moods.write_text(moods.read_text() + "the film was odd,another\n")
    with pytest.raises(RunError, match="has changed"):
        luthier.evaluate(run)
    with pytest.raises(RunError, match="has changed"):
        luthier.continue_run(run, epochs=1)


@pytest.mark.parametrize("odd", ["-1", "x", ""])
def test_a_cell_that_is_neither_yes_nor_no_is_quarantined(write_csv, odd):
    found = plan(many(write_csv, odd=odd), label=["one", "two"])
    assert [q.line for q in found.prepared.quarantined] == [42]
    assert found.prepared.quarantined[0].reason.startswith("not 0 or 1")
    assert found.task.labels == ("one", "two")


def test_every_file_of_a_part_needs_the_columns(write_csv):
    first, second = many(write_csv), many(write_csv, "b.csv", ("text", "A", "B"))
    with pytest.raises(DataError, match=r"no column 'one' in .*b\.csv"):
        dataset(load_recipe({"data": {"train": [str(first), str(second)], "label": ["one", "two"]}}))


def test_evaluating_a_file_without_the_label_column_is_refused(recipe, write_csv):
    run = luthier.train(recipe)
    with pytest.raises(DataError, match="no column 'label'"):
        luthier.evaluate(run, [write_csv("x.csv", ["text"], [["the film was great"]])])


def test_several_labels_are_not_cut_to_one(write_csv):
    rows = [[f"t{i}", "x" if i % 2 else "y"] for i in range(40)] + [["both", "x|y"]]
    found = plan(write_csv("a.csv", ["text", "label"], rows), {"kind": "single_label"}, label_separator="|")
    assert [q.reason for q in found.prepared.quarantined] == ["several labels"]


def test_excluded_rows_stand_in_the_books_and_numbers_match_as_shown(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"t{i}", "label": float(i % 3)}) + "\n" for i in range(60)))
    summary = plan(path, exclude={"label": ["2"]}).prepared.summary
    assert (summary["rows_read"], summary["rows_excluded"]) == (60, 20)


def test_one_nan_does_not_make_a_regression(write_csv):
    path = write_csv("a.csv", ["text", "label"], [[f"t{i}", i % 2] for i in range(40)] + [["bad", "nan"]])
    assert plan(path, exclude={"label": ["nan"]}).task.kind == "single_label"
    with pytest.raises(LuthierError):
        dataset(load_recipe({"data": {"train": str(write_csv("b.csv", ["text", "label"], [["t", "nan"]] * 3))}}))


def test_line_separators_inside_texts_survive_the_run(recipe, write_csv, tmp_path):
    rows = [[t + "\u2028 \u0085 again", label] for t, label in tiny.moods_rows(80)]
    recipe["data"]["train"] = str(write_csv("u.csv", ["text", "label"], rows))
    run = luthier.train(recipe)
    assert luthier.compare(run, run)[0].n == len(run.lines("predictions/test.jsonl"))


def test_half_an_emoji_is_quarantined_in_training_and_refused_in_prediction(recipe, tmp_path):
    path = tmp_path / "e.jsonl"
    lines = [json.dumps({"text": t, "label": label}) for t, label in tiny.moods_rows(80)] + ['{"text": "oh \\ud83d", "label": "neutral"}']
    path.write_text("\n".join(lines))
    recipe["data"]["train"] = str(path)
    run = luthier.train(recipe)
    assert run.facts["data"]["summary"]["quarantine_reasons"] == {"text is not valid Unicode": 1}
    with pytest.raises(DataError, match="not valid Unicode"):
        luthier.predict(run, ["oh \ud83d"])


def test_prediction_reads_texts_longer_than_any_of_training(recipe):
    run = luthier.train(recipe)
    longest = max(len(r["text"].split()) for r in run.lines("predictions/test.jsonl"))
    predictor = luthier.Predictor(run.model)
    predictor.predict(["film " * (longest + 20)])
    assert predictor.truncated == 0
    predictor.predict(["film " * 100])
    assert predictor.truncated == 1


def test_a_late_odd_byte_does_not_spoil_the_file(tmp_path):
    from luthier.data.rows import read

    path = tmp_path / "a.csv"
    body = (
        b"text,label\n"
        + b"plain words here,x\n" * 70_000
        + "un caf\u00e9 tr\u00e8s agr\u00e9able \u00e0 c\u00f4t\u00e9,y\n".encode("cp1252") * 40
    )
    path.write_bytes(body)
    found = read(path)
    assert "caf\u00e9" in found.rows[-1].values["text"]
    assert any("not UTF-8" in n for n in found.notes)


@pytest.mark.parametrize(
    "text",
    ["data: x.csv\ntask: {prompt: {{text}}}\n", "data: x.csv\noutput: {name: 2024-02-30}\n", "data: {train: []}\n",
     "data: x.csv\ntask: {prompt: 'it costs {price:.2f}: {text}'}\n"],
)  # fmt: skip
def test_recipe_mistakes_are_faults(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(path)


def test_a_file_of_a_byte_order_mark_alone_is_empty(tmp_path):
    from luthier.data.rows import read

    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path / "a.csv")


def test_labels_that_look_like_markup_do_not_stop_the_screen(recipe, write_csv, capsys):
    from luthier.cli.screen import Screen, show_run

    rows = [[t, f"[/{label}]"] for t, label in tiny.moods_rows(60)] + [["so odd", "[/INST]"]]
    recipe["data"]["train"] = str(write_csv("m.csv", ["text", "label"], rows))
    with Screen() as screen:
        show_run(luthier.train(recipe, listener=screen))
    assert "[/INST]" in capsys.readouterr().out


def test_padded_batches_keep_to_the_budget_of_computed_tokens():
    from luthier.models.batch import within_budget

    runs = list(within_budget(range(100), [10] * 99 + [512], 2048, padded=True))
    assert [len(r) for r in runs] == [99, 1]


def test_a_missing_head_is_never_drawn_afresh(recipe, tmp_path):
    recipe["model"]["head"] = "mlp"
    run = luthier.train(recipe)
    (run.model / "head.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks its head"):
        luthier.predict(run, ["the film"])


def test_missing_weights_are_refused(recipe):
    from safetensors.torch import load_file, save_file

    run = luthier.train(recipe)
    path = run.model / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.startswith("classifier")}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks some of its weights"):
        luthier.predict(run, ["the film"])


def test_a_model_folder_from_elsewhere_names_no_code(recipe, tmp_path, monkeypatch):
    run = luthier.train(recipe)
    card = json.loads((run.model / "luthier.json").read_text())
    (run.model / "luthier.json").write_text(json.dumps(card | {"head": "os:kill"}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="wants to run os:kill"):
        luthier.predict(run, ["the film"])


def test_paths_do_not_lead_out_of_a_named_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_DATA", str(tmp_path))
    for file in ("../x.csv", "/etc/passwd"):
        with pytest.raises(DataError, match="leads out"):
            dataset(load_recipe({"data": {"name": "some", "train": file}}))


def test_any_failure_ends_the_run(recipe, monkeypatch):
    from luthier.workflow import record

    fired = []

    def broken(*args, **kwargs):
        fired.append(1)
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(record, "with_intervals", broken)
    with pytest.raises(ZeroDivisionError):
        luthier.train(recipe)
    assert fired
    run = luthier.find("latest", root=__import__("pathlib").Path(recipe["output"]["folder"]))
    assert run.facts["status"] == "failed"


def test_the_alias_means_the_hub_at_a_commit_where_the_package_is_absent(monkeypatch):
    import importlib.util

    from luthier.models.source import ALIASES, resolve

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    source = resolve(load_recipe({"data": "x.csv"}).recipe.model)
    assert source.location == "sentence-transformers/all-MiniLM-L6-v2"
    assert source.revision == ALIASES["minilm"][2]
    assert len(source.revision) == 40
