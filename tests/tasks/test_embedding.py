"""Embedding on the real path: every kind of data, one batch for what belongs together, and what others read of it."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import luthier
from luthier.data.tokens import assemble_tokens
from luthier.errors import DataError, Interrupted, LuthierError, ModelError, RecipeError
from luthier.models.batch import collate
from luthier.models.contrast import parts_of
from luthier.serving.export import export_hf
from luthier.serving.merge import merge
from luthier.workflow.build import build
from tests import tiny
from tests.workflow.test_resume import LONG, endings, newest_run, stopping_at


def rows_of(count: int = 120, *, seed: int = 0) -> list[dict[str, object]]:
    """A text, one about the same, one about something else, the mood, and a score."""
    draw, moods = random.Random(seed), tiny.moods_rows(count, seed=seed)
    by: dict[str, list[str]] = {}
    for text, mood in moods:
        by.setdefault(mood, []).append(text)
    rows = []
    for text, mood in moods:
        other = " ".join(w for w in text.split() if draw.random() < 0.7) or text
        wrong = draw.choice(by[draw.choice([m for m in by if m != mood])])
        rows.append({"text": text, "other": other, "negative": wrong, "mood": mood, "score": draw.choice([0, 2.5, 5])})
    return rows


@pytest.fixture
def learn(recipe, tmp_path):
    """Train on those rows, with some columns."""

    def run(*columns: str, rows: list[dict[str, object]] | None = None, listener=lambda event: None, **sections) -> luthier.Run:
        file = tmp_path / "rows.jsonl"
        kept = [{c: r[c] for c in ("text", *columns) if c in r} for r in rows or rows_of()]
        file.write_text("\n".join(map(json.dumps, kept)))
        recipe["evaluation"]["baselines"] = "auto"
        pair = {"text_pair": "other"} if "other" in columns else {}
        base = {**recipe, "data": {"train": str(file), **pair}, "task": {"type": "embedding"}}
        return luthier.train({k: {**base.get(k, {}), **sections.get(k, {})} for k in {*base, *sections}}, listener=listener)

    return run


def value(run: luthier.Run, score: str, method: str = "model") -> float:
    return run.scores["methods"][method][score]["value"]


def test_pairs_learn_and_stand_beside_bm25_and_the_base(learn):
    run = learn("other", training={"epochs": 4})
    assert run.facts["task"] == "embedding/pairs"
    assert list(run.scores["methods"]) == ["bm25", "base", "model"]
    assert value(run, "ndcg@10") > value(run, "ndcg@10", "base")
    assert value(run, "loss") < value(run, "loss", "base") / 2
    assert "loss" not in run.scores["methods"]["bm25"]
    assert {r["rank"] for r in run.lines("predictions/test.jsonl")} <= {*range(1, 60)}
    assert run.lines("log.jsonl")[0]["parts"]["candidates"] == 16
    scores, _ = luthier.evaluate(run)
    assert scores["ndcg@10"]["value"] == pytest.approx(value(run, "ndcg@10"))


def test_triplets_put_hard_negatives_among_the_candidates(learn):
    run = learn("other", "negative")
    assert run.facts["task"] == "embedding/triplets"
    assert run.lines("log.jsonl")[0]["parts"]["candidates"] == 32
    some = [
        {**r, "negative": r["negative"] if i % 2 else ([] if i % 4 else [r["negative"], "we found it"])} for i, r in enumerate(rows_of())
    ]
    assert learn("other", "negative", rows=some).facts["status"] == "done"


def test_classes_come_together(learn):
    run = learn("mood", data={"label": "mood"}, training={"epochs": 5})
    assert run.facts["task"] == "embedding/classes"
    assert value(run, "recall@1") > 0.8 > value(run, "recall@1", "base")


@pytest.mark.parametrize("loss", ["cosent", "cosine"])
def test_scored_pairs_learn_their_scores(learn, loss):
    rows = [{**r, "other": r["other" if (near := i % 2) else "negative"], "score": 5.0 * near} for i, r in enumerate(rows_of(200))]
    run = learn("other", "score", rows=rows, data={"label": "score"}, task={"loss": loss}, training={"epochs": 8})
    assert run.facts["task"] == "embedding/scored"
    assert "scores run from 0 to 5: they are divided by 5" in run.facts["notes"]
    assert value(run, "spearman") > max(0.5, value(run, "spearman", "base"))
    row = run.lines("predictions/test.jsonl")[0]
    assert row["target"] in (0, 1)
    assert -1 <= row["value"] <= 1


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("attention", ["ragged", "padded"])
def test_a_training_batch_is_every_text_alone(recipe, tmp_path, family, attention):
    """The loss over one ragged run of all texts is that of plain transformers' vectors, and so is its gradient."""
    from transformers import AutoModel

    from luthier.recipe import load_recipe

    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows_of(40))))
    folder = tiny.save(family, tmp_path / family)
    changes = {
        "data": {"train": str(file), "text_pair": "other"},
        "task": {"type": "embedding"},
        "model": {"name": str(folder), "dropout": 0.0},
    }
    job = build(load_recipe({**recipe, **changes, "training": {"threads": 1, "attention": attention}, "evaluation": {"bootstrap": 100}}))
    assert job.loaded.layout.kind == attention
    examples = [job.tokens["train"].examples()[i] for i in range(6)]
    batch = collate(examples, types=job.loaded.layout.token_types)
    assert batch.segments.count == 18
    found = job.task.loss(job.loaded.layout)(job.loaded.model, batch)
    found.sum.backward()
    plain = AutoModel.from_pretrained(folder).train()
    for module in plain.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    records = job.data.prepared.parts["train"][:6]
    texts = [[r.text, r.pair, *r.target] for r in records]

    def vector(text: str) -> torch.Tensor:
        return plain(**tiny.tokenizer(family)(text, return_tensors="pt")).last_hidden_state[0].mean(0)

    vectors = [[torch.nn.functional.normalize(vector(t), dim=0) for t in several] for several in texts]
    candidates = torch.stack([v[1] for v in vectors] + [v[2] for v in vectors])
    logits = torch.stack([v[0] for v in vectors]) @ candidates.T / 0.05
    names = [t[1] for t in texts] + [t[2] for t in texts]
    for i, several in enumerate(texts):
        for j, name in enumerate(names):
            if i != j and name in (several[0], several[1]):
                logits[i, j] = -torch.inf
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(6), reduction="sum")
    expected.backward()
    torch.testing.assert_close(found.sum, expected, rtol=1e-4, atol=1e-4)
    theirs = dict(plain.named_parameters())
    pairs = [(p.grad, theirs[n].grad) for n, p in job.loaded.model.named_parameters() if p.grad is not None]
    whole = torch.cat([y.flatten() for _, y in pairs]).norm()
    assert torch.cat([(x - y).flatten() for x, y in pairs]).norm() / whole < 1e-4


def test_parts_keep_the_order_of_rows_whatever_their_length():
    def example(*lengths: int) -> dict[str, np.ndarray]:
        part = np.repeat(np.arange(len(lengths)), lengths)
        return {"input_ids": part + 10 * len(lengths), "part": part, "mark": part * 7}

    batch = collate([example(5, 2), example(1, 9, 3), example(4, 4)], rows=[30, 10, 20])
    own, other, negative = ([batch.rows[i] for i in part.tolist()] for part in parts_of(batch))
    assert (own, other, negative) == ([10, 20, 30], [10, 20, 30], [10])
    sizes = [batch.segments.lengths[p].tolist() for p in parts_of(batch)]
    assert sizes == [[1, 4, 5], [9, 4, 2], [3]]


@pytest.mark.parametrize("last", [0, 1, 2])
def test_texts_that_do_not_come_apart_are_refused_and_not_left_unlearned(last):
    batch = collate([{"input_ids": [1, 2, 3], "near.part": [0, 1, last]}])
    with pytest.raises(RecipeError, match="do not come apart"):
        parts_of(replace(batch, layers={"part": batch.layers["near.part"]}))


def test_learned_tokens_stand_before_every_text():
    tokens = assemble_tokens([{"input_ids": [5, 6, 7], "part": [0, 0, 1], "mark": [1, 1, 2]}, {"input_ids": [8], "part": [0], "mark": [3]}])
    table = tokens.after([90, 91]).table.to_pylist()
    assert table[0] == {"input_ids": [90, 91, 5, 6, 90, 91, 7], "part": [0, 0, 0, 0, 1, 1, 1], "mark": [-100, -100, 1, 1, -100, -100, 2]}
    assert table[1] == {"input_ids": [90, 91, 8], "part": [0, 0, 0], "mark": [-100, -100, 3]}


def test_an_update_that_is_cut_is_told(learn):
    run = learn("other", training={"max_tokens": 60, "epochs": 1})
    note = next(n for n in run.facts["notes"] if "passes" in n)
    assert "of its own pass only" in note or "those of its own pass" in note
    assert run.lines("log.jsonl")[0]["parts"]["candidates"] < 16


@pytest.mark.parametrize(
    ("pooling", "normalize", "method"), [("mean", True, "full"), ("first", False, "full"), ("last", True, "full"), ("mean", True, "lora")]
)
def test_sentence_transformers_gives_the_same_vectors(learn, tmp_path, pooling, normalize, method):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    run = learn("other", task={"pooling": pooling, "normalize": normalize}, method={"type": method})
    texts = [r["text"] for r in run.lines("predictions/test.jsonl")[:6]] + ["the film was great " * 40]
    mine = np.array([a["vector"] for a in luthier.predict(run, texts)])
    assert np.allclose(np.linalg.norm(mine, axis=1), 1, atol=1e-5) == normalize
    folder = run.model
    if method == "lora":
        folder = tmp_path / "merged"
        merge(run.model, folder)
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert export_hf(run, tmp_path / "out") < 1e-4
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()


def test_the_pooling_is_the_one_that_the_model_came_with(learn, tmp_path, tiny_model):
    run = learn("other", task={"pooling": "last"})
    again = learn("other", model={"name": str(run.model)})
    assert "vectors are the last hidden state" in again.facts["notes"]
    assert json.loads((again.model / "luthier.json").read_text())["state"]["pooling"] == "last"
    assert json.loads((again.model / "1_Pooling" / "config.json").read_text())["pooling_mode_lasttoken"]


def test_a_positive_of_the_test_part_is_not_trained_on(learn):
    rows = [{**r, "other": f"the {tiny.WORDS[i % 40]} room"} for i, r in enumerate(rows_of(160))]
    run = learn("other", rows=rows, training={"epochs": 1})
    held = {r["text_pair"] for r in run.lines("predictions/test.jsonl")}
    trained = {r["other"] for r in rows} - held
    assert len(held) + len(trained) == 40
    assert run.facts["data"]["summary"]["test"] == sum(r["other"] in held for r in rows)


def test_a_killed_training_goes_on_to_the_same_bits(learn, recipe):
    changes = {"data": {"label": "mood"}, "training": LONG}
    whole = endings(learn("mood", **changes))
    with pytest.raises(Interrupted):
        learn("mood", **changes, listener=stopping_at(5))
    assert endings(luthier.resume(newest_run(recipe))) == whole


@pytest.mark.parametrize(
    ("columns", "sections", "message"),
    [
        (["other"], {"data": {"text_pair": "othr"}}, "did you mean 'other'"),
        ([], {}, "neither a second text nor a class"),
        (["other"], {"task": {"kind": "triplets"}}, "triplets need negatives"),
        (["other"], {"task": {"loss": "cosine"}}, "cosine is not for pairs"),
        (["other", "score"], {"task": {"kind": "scored"}, "data": {"label": "mood"}}, "no column 'mood'"),
        (["mood"], {"task": {"kind": "pairs"}, "data": {"label": "mood"}}, "pairs need a second text"),
        (["other"], {"task": {"negatives": ["wrong"]}}, "no column 'wrong'"),
        (["other"], {"task": {"kind": "pairs", "negatives": ["negative"]}}, "negatives are for triplets"),
        (["other"], {"task": {"temperature": 0}}, "greater than 0"),
        (["other"], {"evaluation": {"baselines": ["tfidf"]}}, "embedding has no baseline tfidf"),
        (["other"], {"evaluation": {"metric": "accuracy"}}, "has no score 'accuracy'"),
    ],
)
def test_what_cannot_be_is_said(learn, columns, sections, message):
    with pytest.raises((DataError, RecipeError), match=message):
        learn(*columns, **sections)


def test_scores_of_another_scale_one_class_and_rows_without_texts(learn):
    rows = [{**r, "score": i} for i, r in enumerate(rows_of(40))]
    with pytest.raises(DataError, match="scores go from 0 to 39"):
        learn("other", "score", rows=rows, data={"label": "score"})
    with pytest.raises(DataError, match="two classes, and two texts of one"):
        learn("mood", rows=[{**r, "mood": "same"} for r in rows_of(40)], data={"label": "mood"})
    rows = [{**r, "other": r["other"] if i != 3 else " "} for i, r in enumerate(rows_of(80))]
    run = learn("other", rows=rows)
    assert run.facts["data"]["summary"]["quarantine_reasons"] == {"second empty text": 1}


def test_an_encoder_decoder_is_refused(learn, tmp_path):
    folder = tiny.save("t5", tmp_path / "t5")
    with pytest.raises(ModelError, match="encoder-decoder"):
        learn("other", model={"name": str(folder)})


def test_what_a_text_is_asked_for_has_to_be_one(learn):
    run = learn("other", training={"epochs": 1})
    with pytest.raises(LuthierError, match="row 1: empty text"):
        luthier.predict(run, [" "])
    assert len(luthier.predict(run, [{"text": "the film", "more": 1}])[0]["vector"]) == 32
