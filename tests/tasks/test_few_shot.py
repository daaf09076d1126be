"""Few-shot classification: the contrast, its batches, the fitted head, and the model that comes of it."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

import luthier
from luthier.errors import Interrupted, LuthierError, RunError
from luthier.inference.model import Predictor
from luthier.inference.predict import outputs
from luthier.models.contrast import of_classes
from luthier.recipe import load_recipe
from luthier.recipe.tasks.few_shot import FewShotOptions
from luthier.serving.export import export_hf
from luthier.serving.merge import merge
from luthier.training.curriculum import in_pairs
from luthier.workflow.dataset import dataset
from tests import tiny
from tests.workflow.test_resume import newest_run, stopping_at


@pytest.fixture
def few(recipe):
    """A few-shot recipe of eight rows a class, with changes."""
    recipe["data"] = {"train": recipe["data"]["train"], "test_share": 0.5}
    recipe["training"] |= {"epochs": 3, "batch_size": 12}

    def changed(**sections):
        found = {**recipe, "task": {"type": "few_shot", "shots": 8}}
        return {k: {**found.get(k, {}), **sections.get(k, {})} for k in {*found, *sections}}

    return changed


# ── the contrast ───────────────────────────────────────────────────────────────────────────────


def plain_contrast(vectors: torch.Tensor, marks: list[int], temperature: float) -> torch.Tensor:
    """The full matrix of pairs, one text after the other."""
    unit = [v / v.norm() for v in vectors]
    nats = []
    for i, mark in enumerate(marks):
        others = [j for j in range(len(marks)) if j != i]
        whole = sum(torch.exp(unit[i] @ unit[j] / temperature) for j in others)
        alike = [j for j in others if marks[j] == mark]
        each = [-torch.log(torch.exp(unit[i] @ unit[j] / temperature) / whole) for j in alike]
        nats.append(sum(each) / len(each) if each else torch.zeros((), dtype=vectors.dtype))
    return torch.stack(nats)


@pytest.mark.parametrize("marks", [[0, 0, 1, 1, 2, 2], [0, 1, 0, 0, 2, 1], [3, 3, 3, 3]])
def test_contrast_and_its_gradient_are_those_of_all_pairs(marks):
    torch.manual_seed(0)
    vectors = torch.randn(len(marks), 7, dtype=torch.float64)
    sides = []
    for contrast in (lambda v: of_classes(v, torch.tensor(marks), temperature=0.3), lambda v: plain_contrast(v, marks, 0.3)):
        given = vectors.clone().requires_grad_()
        nats = contrast(given)
        nats.sum().backward()
        sides.append((nats, given.grad))
    torch.testing.assert_close(sides[0][0], sides[1][0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(sides[0][1], sides[1][1], rtol=1e-10, atol=1e-12)


def test_every_class_comes_as_often_two_by_two():
    marks = [0] * 8 + [1] * 3 + [2] + [3] * 4
    order = in_pairs(marks, seed=1)
    seen: Counter[int] = Counter()
    for epoch in range(6):
        rows = order(epoch)
        assert rows == in_pairs(marks, seed=1)(epoch)
        pairs = [(marks[a], marks[b]) for a, b in zip(rows[::2], rows[1::2], strict=True)]
        assert all(a == b for a, b in pairs)
        assert len(set(Counter(a for a, _ in pairs).values())) == 1
        for start in range(0, len(pairs), 4):
            assert {a for a, _ in pairs[start : start + 4]} == {0, 1, 2, 3}
        seen.update(rows)
    assert set(seen) == set(range(len(marks)))
    assert order(0) != order(1)
    assert order(0) != in_pairs(marks, seed=2)(0)
    whole = in_pairs([i // 8 for i in range(48)], seed=0)(0)
    assert sorted(whole) == list(range(48)), "with equal classes an epoch has every row once"


# ── the run ────────────────────────────────────────────────────────────────────────────────────


def test_it_trains_on_every_drawn_row_and_keeps_the_last_weights(few):
    recipe = few(training={"epochs": 15}, evaluation={"baselines": ["majority"]})
    run = luthier.train(recipe)
    summary = run.facts["data"]["summary"]
    assert run.facts["task"] == "few_shot/single_label"
    assert summary["labels"]["train"] == dict.fromkeys(("negative", "neutral", "positive"), 8)
    assert (summary["validation"], summary["test"], summary["rows_beyond_limit"]) == (0, 60, 36)
    assert run.facts["plan"]["updates_per_epoch"] == 2
    assert run.facts["inferred"]["data.validation_share"] == 0.0
    assert run.lines("evaluations.jsonl") == []
    scores = run.scores["methods"]
    assert scores["model"]["accuracy"]["value"] > scores["base"]["accuracy"]["value"] + 0.1
    assert luthier.evaluate(run)[0]["accuracy"]["value"] == scores["model"]["accuracy"]["value"]
    row = run.lines("predictions/test.jsonl")[0]
    assert luthier.predict(run, [row["text"]])[0]["scores"] == pytest.approx(row["scores"], abs=1e-5)
    assert "confusion" in run.report.read_text().lower()
    plain = luthier.train({**recipe, "task": {"type": "classification"}, "data": {**recipe["data"], "validation_share": 0.1}})
    assert luthier.compare(plain, run)[0].n == 60


def test_a_validation_file_is_watched_with_the_head_fitted_to_the_weights_of_the_moment(few, tmp_path):
    held = tiny.write_moods(tmp_path / "held.csv", 30, seed=5)
    run = luthier.train(few(data={"validation": str(held)}, evaluation={"restore_best": False}))
    lines = run.lines("evaluations.jsonl")
    assert len(lines) == 3
    assert len({line["loss"] for line in lines}) == 3
    assert luthier.evaluate(run, [held])[0]["loss"]["value"] == pytest.approx(lines[-1]["loss"], rel=1e-4)
    assert not any("learns its rows by heart" in note for note in run.facts["notes"])


def test_the_draw_depends_on_the_seed_and_the_texts_alone(few, write_csv):
    rows = [[t, label] for t, label in tiny.moods_rows(120)]
    shuffled = random.Random(0).sample(rows, len(rows))
    drawn = []
    for seed, order in ((0, rows), (0, shuffled), (1, rows)):
        path = write_csv(f"{len(drawn)}.csv", ["text", "label"], order)
        found = dataset(load_recipe(few(data={"train": str(path)}, training={"seed": seed})))
        drawn.append({r.text for r in found.prepared.parts["train"]})
        assert found.task.label_counts(found.prepared.parts["train"]) == dict.fromkeys(found.task.labels, 8)
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_killed_run_resumes_to_the_same_bits(few):
    recipe = few(training={"epochs": 6}, checkpoints={"every_steps": 4})
    whole = luthier.train(recipe)
    with pytest.raises(Interrupted):
        luthier.train(recipe, listener=stopping_at(7))
    again = luthier.resume(newest_run(recipe))
    for facts in ("weights_digest", "weights_sha256"):
        assert again.facts[facts] == whole.facts[facts]
    assert (again.folder / "log.jsonl").read_bytes() == (whole.folder / "log.jsonl").read_bytes()


# ── the head and the saved model ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("pooling", ["auto", "own"])
def test_the_head_is_sklearns_logistic_regression_on_the_same_vectors(few, write_csv, tmp_path, classes, pooling):
    rows = [r for r in tiny.moods_rows(120) if classes == 3 or r[1] != "neutral"]
    path = write_csv("some.csv", ["text", "label"], [list(r) for r in rows])
    folder = tiny.save("bert", tmp_path / "bert", initializer_range=0.3)
    recipe = few(data={"train": str(path)}, model={"name": str(folder)}, task={"pooling": pooling, "strength": 7.0})
    run = luthier.train(recipe)
    predictor = Predictor(run.model, threads=1)
    task, loaded = predictor.task, predictor.loaded
    parts = dataset(load_recipe(recipe)).prepared.parts
    vectors, answers = {}, {}
    for part in ("train", "test"):
        tokens = task.encode(parts[part], loaded.tokenizer, config=None, max_length=64).tokens
        vectors[part] = outputs(loaded.model, tokens, loaded.layout, answer=task.features(loaded.layout), max_tokens=4096)
        answers[part] = outputs(loaded.model, tokens, loaded.layout, answer=task.answer(loaded.layout), max_tokens=4096)
    center = vectors["train"].mean(0)
    scale = np.sqrt(((vectors["train"] - center) ** 2).sum(1).mean())
    plain = LogisticRegression(C=7.0, max_iter=5000, tol=1e-7).fit((vectors["train"] - center) / scale, task.gold(parts["train"]))
    mine = torch.tensor(answers["test"]).softmax(1).numpy()
    assert mine == pytest.approx(plain.predict_proba((vectors["test"] - center) / scale), abs=2e-3)


def texts_of(run, count: int = 6) -> list[str]:
    return [r["text"] for r in run.lines("predictions/test.jsonl")[:count]]


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
def test_the_architectures_own_head_loads_in_plain_transformers(few, tmp_path, family):
    folder = tiny.save(family, tmp_path / family, initializer_range=0.3)
    run = luthier.train(few(model={"name": str(folder)}, task={"pooling": "own"}))
    assert export_hf(run, tmp_path / "out") < 1e-5
    assert not (run.model / "head.safetensors").exists()
    probabilities = [max(a["scores"].values()) for a in luthier.predict(run, texts_of(run))]
    assert max(probabilities) > 0.4, "the head is fitted, not drawn"


def test_a_pooled_head_is_a_plain_model_and_one_linear_layer(few, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    run = luthier.train(few())
    model, tokenizer = AutoModel.from_pretrained(run.model).eval(), AutoTokenizer.from_pretrained(run.model)
    head = load_file(run.model / "head.safetensors")
    inputs = tokenizer(texts_of(run), padding=True, return_tensors="pt")
    with torch.no_grad():
        states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    logits = (states * mask).sum(1) / mask.sum(1) @ head["weight"].T + head["bias"]
    mine = Predictor(run.model, threads=1).outputs(texts_of(run))
    assert logits.numpy() == pytest.approx(mine, abs=1e-5)
    assert (run.model / "1_Pooling" / "config.json").is_file()
    with pytest.raises(RunError, match=r"task\.pooling: own"):
        export_hf(run, tmp_path / "out")


def test_adapters_learn_merge_and_answer_the_same(few, tmp_path):
    run = luthier.train(few(method={"type": "lora", "rank": 4}))
    texts = texts_of(run)
    merge(run.model, tmp_path / "merged")
    mine, merged = (Predictor(p, threads=1).outputs(texts) for p in (run.model, tmp_path / "merged"))
    assert merged == pytest.approx(mine, abs=1e-4)


def test_frozen_bottom_layers_are_kept_and_the_rest_learns(few):
    run = luthier.train(few(method={"type": "freeze", "layers": 1}))
    assert run.facts["trunk"] == "kept"
    assert run.lines("log.jsonl")[-1]["loss"] < run.lines("log.jsonl")[0]["loss"]


def test_classes_of_one_row_and_of_many_are_pointed_out(few, write_csv):
    rows = [[t, label] for t, label in tiny.moods_rows(240)]
    test = write_csv("test.csv", ["text", "label"], rows[:30])
    odd = [r for r in rows if r[1] != "neutral"] + [next(r for r in rows if r[1] == "neutral")]
    run = luthier.train(few(data={"train": str(write_csv("odd.csv", ["text", "label"], odd)), "test": str(test)}, task={"shots": 100}))
    notes = " ".join(run.facts["notes"])
    assert "1 labels have one row, among them 'neutral'" in notes
    assert "2 labels have more than 64 rows, among them 'negative': task: classification" in notes


# ── refusals and fields ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"label_separator": "|"}}, "set task: classification"),
        ({"training": {"batch_size": 7}}, "7 examples an update cannot hold pairs"),
        ({"training": {"early_stopping": 2}}, "looks at validation rows, and there are none"),
        ({"training": {"schedule": "plateau"}}, "looks at validation rows, and there are none"),
        ({"retention": {"type": "soup"}}, "looks at validation rows, and there are none"),
        ({"retention": {"type": "ewc", "data": "moods.csv"}}, "weighs by a head that is trained"),
        ({"curriculum": {"type": "mixture"}}, "curriculum"),
        ({"method": {"type": "freeze", "head_only": True}}, "nothing of it moves"),
        ({"task": {"kind": "regression"}}, "kind"),
        ({"task": {"shots": 0}}, "shots"),
    ],
)
def test_what_few_shot_cannot_do_is_refused(few, sections, message):
    with pytest.raises(LuthierError, match=message):
        luthier.train(few(**sections))


def test_numbers_are_refused(few, write_csv):
    path = write_csv("n.csv", ["text", "label"], [[t, i / 7] for i, (t, _) in enumerate(tiny.moods_rows(60))])
    with pytest.raises(LuthierError, match="and these are numbers"):
        luthier.train(few(data={"train": str(path)}))


def test_it_is_not_one_of_several_tasks(few):
    members = {"a": {"type": "few_shot"}, "b": {"type": "classification"}}
    with pytest.raises(LuthierError, match="few_shot is not one of several tasks"):
        luthier.train({**few(), "task": {"type": "multitask", "tasks": members}})


FIELDS = {
    "labels": ["neutral", "positive", "negative"],
    "shots": 4,
    "prompt": "we found it {text}",
    "pooling": "first",
    "temperature": 0.5,
    "strength": 1.0,
}


def test_every_field_takes_effect(few):
    assert set(FIELDS) == set(FewShotOptions.model_fields) - {"type"}
    recipe = few(evaluation={"base_model": False, "baselines": []}, training={"epochs": 1})

    def digest(**options):
        run = luthier.train({**recipe, "task": {"type": "few_shot", "shots": 8, **options}})
        return run.facts["weights_digest"]

    plain = digest()
    assert digest() == plain
    for field, value in FIELDS.items():
        assert digest(**{field: value}) != plain, field
