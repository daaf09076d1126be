"""Parsing on the real path: trees in, trees out, the loss as written down plainly, and what is not a tree."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import luthier
from luthier.cli.main import root
from luthier.data.rows import Row, read
from luthier.data.tokens import UNGRADED
from luthier.errors import LuthierError
from luthier.models.batch import collate
from luthier.models.biaffine import Biaffine, sentences_of
from luthier.models.forward import hidden_states
from luthier.recipe.sections import Data
from luthier.recipe.tasks.parsing import ParsingOptions
from luthier.tasks.parsing import BOTH, HEADS, SLOTS, Parsing
from luthier.tasks.trees import fault
from luthier.workflow.fit import Fit

NOUNS, ADJECTIVES, ADVERBS = ["film", "meal", "room", "book", "story"], ["great", "cold", "late", "bright"], ["very", "so", "quite"]


def treebank(count: int, *, seed: int = 0) -> list[dict]:
    """Sentences such as `the film was very great`, with a tree that their words decide."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        words = ["the", draw.choice(NOUNS)]
        tree = [(2, "det"), (0, "nsubj")]
        if draw.random() < 0.5:
            words.insert(1, draw.choice(ADJECTIVES))
            tree = [(3, "det"), (3, "amod"), (0, "nsubj")]
        words.append("was")
        tree.append((0, "cop"))
        if draw.random() < 0.5:
            words.append(draw.choice(ADVERBS))
            tree.append((len(words) + 1, "advmod:emph"))
        words.append(draw.choice(ADJECTIVES))
        last = len(words)
        tree = [(last if name in ("nsubj", "cop") else head, name) for head, name in tree] + [(0, "root")]
        rows.append({"words": words, "head": [h for h, _ in tree], "deprel": [r for _, r in tree]})
    return rows


def conllu(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        for i, (word, head, name) in enumerate(zip(row["words"], row["head"], row["deprel"], strict=True), 1):
            lines.append("\t".join([str(i), word, word, "X", "_", "_", str(head), name, "_", "_"]))
        lines.append("")
    return "\n".join(lines) + "\n"


@pytest.fixture
def learn(recipe, tmp_path):
    """Train on the toy treebank, with changes."""

    def run(rows: list[dict] | None = None, **sections) -> luthier.Run:
        path = tmp_path / "trees.conllu"
        path.write_text(conllu(rows or treebank(200)), encoding="utf-8")
        merged = {**recipe, "data": {**recipe["data"], "train": str(path)}, "task": {"type": "parsing", "arc_width": 24, "label_width": 16}}
        merged["training"] = {**merged["training"], "epochs": 8, "learning_rate": 2e-3}
        merged["evaluation"] = {"bootstrap": 100, "base_model": False}
        for name, values in sections.items():
            merged[name] = {**merged.get(name, {}), **values}
        return luthier.train(merged)

    return run


@pytest.fixture(scope="module")
def parsed(tmp_path_factory, tiny_model):
    """A run that has learned the toy treebank."""
    folder = tmp_path_factory.mktemp("parsed")
    (folder / "trees.conllu").write_text(conllu(treebank(200)), encoding="utf-8")
    return luthier.train(
        {
            "data": {"train": str(folder / "trees.conllu"), "validation_share": 0.15, "test_share": 0.2},
            "task": {"type": "parsing", "arc_width": 24, "label_width": 16},
            "model": {"name": str(tiny_model)},
            "training": {"epochs": 10, "batch_size": 16, "learning_rate": 2e-3, "threads": 1},
            "evaluation": {"bootstrap": 100},
            "output": {"folder": str(folder / "runs"), "name": "parsed"},
        }
    )


def planned(rows: list[dict], **options) -> Parsing:
    found = [Row(row, "rows", i) for i, row in enumerate(rows, 1)]
    from luthier.data.rows import Rows

    return Parsing.plan(ParsingOptions(**options), Data(train=["rows"]), {"train": Rows(found)})


# ── a run ──────────────────────────────────────────────────────────────────────────────────────


def test_it_learns_and_beats_the_base_model(parsed):
    methods = parsed.scores["methods"]
    assert methods["model"]["las"]["value"] > 0.95
    assert methods["base"]["las"]["value"] < 0.5
    assert parsed.scores["metric"] == "las"
    assert "las" in parsed.report.read_text(encoding="utf-8")


def test_scores_are_those_of_the_trees_that_are_kept(parsed):
    rows = parsed.lines("predictions/test.jsonl")
    words = heads = both = relations = 0
    for row in rows:
        assert fault(row["head"]) is None
        for h, r, gh, gr in zip(row["head"], row["deprel"], row["target"]["head"], row["target"]["deprel"], strict=True):
            words, heads, both, relations = words + 1, heads + (h == gh), both + (h == gh and r == gr), relations + (r == gr)
    found = parsed.scores["methods"]["model"]
    assert found["uas"]["value"] == pytest.approx(heads / words)
    assert found["las"]["value"] == pytest.approx(both / words)
    assert found["label_accuracy"]["value"] == pytest.approx(relations / words)
    assert found["las_universal"]["value"] >= found["las"]["value"]


def test_texts_and_words_are_parsed_with_one_root_relation(parsed):
    for said in luthier.predict(parsed, ["the film was very great", {"words": ["the", "cold", "room", "was", "late"]}]):
        assert fault(said["head"]) is None
        assert [said["deprel"][i] for i, h in enumerate(said["head"]) if h == 0] == ["root"]
        assert said["deprel"].count("root") == 1
    assert luthier.predict(parsed, ["the film was very great"])[0]["head"] == [2, 5, 5, 5, 0]


def test_what_is_saved_is_a_plain_trunk_with_a_head_beside_it(parsed):
    from safetensors.torch import load_file
    from transformers import AutoModel

    trunk = AutoModel.from_pretrained(parsed.model)
    assert trunk.config.model_type == "bert"
    assert "arc_form" in load_file(parsed.model / "head.safetensors")


def test_evaluate_gives_what_training_gave(parsed, tmp_path):
    from luthier.workflow.measure import compare, evaluate

    scores, _ = evaluate(parsed, resamples=100)
    assert scores["las"]["value"] == parsed.scores["methods"]["model"]["las"]["value"]
    (tmp_path / "more.jsonl").write_text("\n".join(json.dumps(r) for r in treebank(20, seed=5)))
    (tmp_path / "bad.jsonl").write_text(json.dumps({"words": ["a", "b"], "head": [0, 0], "deprel": ["root", "root"]}))
    scores, rest = evaluate(parsed, [tmp_path / "more.jsonl", tmp_path / "bad.jsonl"], resamples=100)
    assert scores["las"]["n"] == 20
    assert [q.reason for q in rest.quarantined] == ["not a tree: 2 words hang from the root, not one"]
    result, differing = compare(parsed, parsed, resamples=100)
    assert result.differences["las"][0] == 0.0
    assert not differing


def test_conllu_is_written_and_read_again(parsed, tmp_path):
    source, out = tmp_path / "in.conllu", tmp_path / "out.conllu"
    source.write_text(
        "# text = it's great today\n1-2\tit's\t_\t_\t_\t_\t_\t_\t_\t_\n1\tit\tit\tPRON\t_\tNumber=Sing\t3\tnsubj\t_\t_\n"
        "2\t's\tbe\tAUX\t_\t_\t3\tcop\t_\t_\n3\tgreat\tgreat\tADJ\t_\t_\t0\troot\t_\tSpaceAfter=No\n4\t.\t.\tPUNCT\t_\t_\t3\tdet\t_\t_\n\n",
        encoding="utf-8",
    )
    done = CliRunner().invoke(root, ["predict", str(parsed.folder), "--file", str(source), "--output", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    before, after = read(source).rows[0].values, read(out).rows[0].values
    assert fault(after["head"]) is None
    for layer in ("words", "upos", "feats", "lemma", "offsets", "text"):
        assert after[layer] == before[layer], layer
    done = CliRunner().invoke(root, ["predict", str(parsed.folder), "the film was late", "--output", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert read(out).rows[0].values["words"] == ["the", "film", "was", "late"]


def test_other_methods_and_padded_batches_train_it_too(learn):
    lora = learn(method={"type": "lora"}, training={"epochs": 4, "learning_rate": 2e-2})
    assert lora.scores["methods"]["model"]["las"]["value"] > 0.6
    assert fault(luthier.predict(lora, ["the film was great"])[0]["head"]) is None
    padded = learn(training={"attention": "padded", "epochs": 8})
    assert padded.scores["methods"]["model"]["las"]["value"] > 0.9


def test_the_head_learns_faster_than_the_trunk_by_its_rate(learn, monkeypatch):
    seen: list[dict[str, float]] = []

    class Seen(Fit):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            scale = self._rate_scale()
            seen.append({n: scale(n) for n, _ in self.model.named_parameters()})

    monkeypatch.setattr("luthier.workflow.train.Fit", Seen)
    learn(task={"head_rate": 7.0}, training={"epochs": 1, "max_steps": 1})
    learn(task={"head_rate": 7.0}, method={"type": "lora"}, training={"epochs": 1, "max_steps": 1})
    from luthier.models.adapters.lora import Lora

    for scales, factor in zip(seen, (1.0, Lora.rate_factor), strict=True):
        heads = {v for n, v in scales.items() if n.startswith("head.")}
        assert heads == {7.0 / factor}
        assert {v for n, v in scales.items() if not n.startswith("head.")} == {1.0}


# ── rows ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"words": ["a", "b"], "head": [2, 1], "deprel": ["x", "y"]}, "not a tree: 0 words hang from the root"),
        ({"words": ["a", "b"], "head": [0, 0], "deprel": ["x", "y"]}, "not a tree: 2 words hang from the root"),
        ({"words": ["a", "b", "c"], "head": [0, 3, 2], "deprel": ["x", "y", "z"]}, "not a tree: a cycle"),
        ({"words": ["a"], "head": [3], "deprel": ["x"]}, "not a tree: the head of word 1 is 3"),
        ({"words": ["a"], "head": [-1], "deprel": ["x"]}, "a head is -1"),
        ({"words": ["a"], "head": [True], "deprel": ["x"]}, "a head is True"),
        ({"words": ["a", "b"], "head": [0], "deprel": ["x", "y"]}, "1 cells of head for 2 words"),
        ({"words": ["a", "b"], "head": [0, 1], "deprel": ["x", None]}, "no deprel for word 2"),
        ({"words": ["a", "b"], "head": "0 1", "deprel": ["x", "y"]}, "head is not a list"),
        ({"words": [], "head": [], "deprel": []}, "no words"),
        ({"text": "a b", "head": [0, 1], "deprel": ["x", "y"]}, "no words"),
        ({"words": [""], "head": [0], "deprel": ["x"]}, "empty word"),
    ],
)
def test_what_is_no_tree_says_why(row, reason):
    found = planned(treebank(3)).record(Row(row, "rows", 1))
    assert isinstance(found, str)
    assert reason in found


def test_numbers_as_text_and_other_columns_are_read():
    rows = [{"tokens": r["words"], "parent": [str(h) for h in r["head"]], "arc": r["deprel"]} for r in treebank(4)]
    task = planned(rows, words="tokens", heads="parent", relations="arc", subtypes=False)
    assert "advmod:emph" not in task.relations
    assert task.record(Row(rows[0], "rows", 1)).target[0] == tuple(treebank(4)[0]["head"])
    with pytest.raises(LuthierError, match="parent"):
        planned(treebank(4), heads="parent")
    with pytest.raises(LuthierError, match="not a tree"):
        planned([{"words": ["a"], "head": [1], "deprel": ["x"]}])


def test_a_sentence_that_does_not_fit_is_set_aside_whole(learn):
    long = {"words": ["so"] * 90, "head": [0, *range(1, 90)], "deprel": ["root", *["dep"] * 89]}
    run = learn([*treebank(60), long], training={"epochs": 1}, data={"max_bad_share": 0.1})
    reasons = [json.loads(line)["reason"] for line in Path(run.folder / "data" / "quarantine.jsonl").read_text().splitlines()]
    assert reasons == ["sentence too long: more than the 64 tokens that fit"]
    with pytest.raises(LuthierError, match="too long"):
        luthier.predict(run, ["so " * 90])


# ── the loss, written down plainly ─────────────────────────────────────────────────────────────


def plainly(head: Biaffine, states: torch.Tensor, heads: list[int], relations: list[int]) -> torch.Tensor:
    """One sentence: the nats of its arcs and relations, word by word (Dozat and Manning 2017, eq. 1 to 6)."""
    nodes = torch.cat([head.root[None], states])
    one, total = torch.ones(1), torch.zeros(())
    for i, (gold, relation) in enumerate(zip(heads, relations, strict=True), 1):
        others = [j for j in range(len(nodes)) if j != i]
        dep = torch.cat([head.arc_dep(nodes[i]), one])
        scores = torch.stack([dep @ head.arc_form @ head.arc_head(nodes[j]) for j in others])
        total = total - scores.log_softmax(0)[others.index(gold)]
        side = torch.cat([head.label_dep(nodes[i]), one]), torch.cat([head.label_head(nodes[gold]), one])
        form = head.label_form.view(len(side[0]), -1, len(side[1]))
        total = total - torch.einsum("a,alb,b->l", side[0], form, side[1]).log_softmax(0)[relation]
    return total


class Trunk(torch.nn.Module):
    """States that are a table's rows."""

    def __init__(self, head: Biaffine) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trunk, self.head = torch.nn.Embedding(40, 12), head


def test_loss_gradients_and_figures_are_those_of_each_sentence_alone(monkeypatch):
    rows = treebank(5)
    draw = random.Random(4)
    rows += [
        {"words": ["w"] * n, "head": [0, *(draw.randrange(1, i) for i in range(2, n + 1))], "deprel": ["root", *["det"] * (n - 1)]}
        for n in (1, 11, 13)
    ]
    task = planned(rows)
    torch.manual_seed(0)
    head = Biaffine(12, arc_width=7, label_width=5, labels=len(task.relations), dropout=0.33)
    for form in (head.arc_form, head.label_form):
        torch.nn.init.normal_(form)
    model = Trunk(head).eval()
    monkeypatch.setattr("luthier.models.biaffine.hidden_states", lambda m, batch, layout: m.trunk(batch.input_ids))
    examples, plain = [], torch.zeros(())
    for row in rows:
        relations = [task.relations.index(r) for r in row["deprel"]]
        gaps = [draw.randrange(3) for _ in row["words"]]  # further tokens of a word
        ids, layers = [1], {"words": [UNGRADED], "head": [UNGRADED], "relation": [UNGRADED]}
        for i, gap in enumerate(gaps):
            ids += [draw.randrange(40) for _ in range(1 + gap)]
            for name, value in (("words", i), ("head", row["head"][i]), ("relation", relations[i])):
                layers[name] += [value, *[UNGRADED] * gap]
        examples.append({"input_ids": ids, **layers})
        begun = [i for i, w in enumerate(layers["words"]) if w >= 0]
        plain = plain + plainly(head, model.trunk(torch.tensor(ids))[begun], row["head"], relations)
    plain.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    batch = collate(examples)
    found = task.loss(None)(model, batch)
    assert found.weight == sum(len(r["words"]) for r in rows)
    assert float(found.sum.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    found.sum.backward()
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    for name, parameter in model.named_parameters():
        assert float((parameter.grad - expected[name]).norm()) < 1e-5 * float(norm), name
    with torch.no_grad():
        together = task.answer(None)(model, batch)
        for place, row in enumerate(batch.rows):
            alone = task.answer(None)(model, collate([examples[row]]))
            torch.testing.assert_close(together[place], alone[0], rtol=1e-5, atol=1e-4)
            arcs = alone[0, SLOTS : SLOTS + len(rows[row]["words"])].long() // len(task.relations)
            assert fault(arcs.tolist()) is None
            assert alone[0, HEADS] == sum(a == b for a, b in zip(arcs.tolist(), rows[row]["head"], strict=True))
            assert alone[0, BOTH] <= alone[0, HEADS]


def test_sentences_lie_in_the_run_fewest_words_first():
    found = sentences_of([3, 1, 2], device=torch.device("cpu"))
    assert found.segments.lengths.tolist() == [2, 3, 4]
    assert found.source.tolist() == [-1, 3, -1, 4, 5, -1, 0, 1, 2]
    assert found.roots.tolist() == [5, 5, 5, 0, 2, 2]
    assert found.source[found.words].tolist() == list(range(6))


def test_scores_count_words_not_sentences():
    task = planned(treebank(4))
    lines = np.zeros((2, task.outputs))
    lines[0, :SLOTS], lines[1, :SLOTS] = [2.0, 1, 1, 1, 1], [6.0, 5, 3, 4, 3]
    scores = task.scores(np.array([1.0, 7.0]), lines)
    assert scores == {"uas": 6 / 8, "las": 4 / 8, "label_accuracy": 4 / 8, "loss": 1.0, "las_universal": 5 / 8}
    assert task.row_loss(np.array([1.0, 7.0]), lines).tolist() == [0.0, pytest.approx(4 / 7)]


def test_a_relation_unknown_to_training_counts_as_wrong(learn, tmp_path):
    odd = {"words": ["the", "film"], "head": [2, 0], "deprel": ["odd", "root"]}
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(r) for r in [*treebank(6, seed=9), odd]))
    run = learn(training={"epochs": 1}, data={"test": str(tmp_path / "test.jsonl")})
    assert run.facts["data"]["summary"]["labels"]["test"]["odd"] == 1
    assert "odd" not in run.lines("predictions/test.jsonl")[-1]["deprel"]


def test_hidden_states_reach_the_head_through_the_layout(parsed):
    """The model of a run, asked through `forward.hidden_states` and `model.head` alone."""
    from luthier.workflow.measure import predictor_of

    predictor = predictor_of(parsed)
    encoded = predictor.task.encode(
        [predictor.task.texts({"text": "the film was great"})],
        predictor.loaded.tokenizer,
        config=predictor.loaded.model.config,
        max_length=32,
    )
    batch = collate(encoded.tokens.examples()[:1], types=predictor.loaded.layout.token_types)
    states = hidden_states(predictor.loaded.model, batch, predictor.loaded.layout)
    assert states.shape == (6, predictor.loaded.model.config.hidden_size)
    assert batch.layers["words"].tolist() == [UNGRADED, 0, 1, 2, 3, UNGRADED]
