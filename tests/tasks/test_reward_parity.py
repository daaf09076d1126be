"""Rewards are learned as TRL's trainer does, with the prompt computed once; and what is saved is plain transformers'."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid

from luthier.data.rows import Row
from luthier.inference.predict import outputs
from luthier.models import forward
from luthier.models.batch import collate
from luthier.models.config import AUTO
from luthier.recipe.sections import Data
from luthier.recipe.tasks.reward import RewardOptions
from luthier.tasks import reward_losses
from luthier.tasks.reward import Reward
from tests.models.test_parity import build
from tests.tasks import talk
from tests.tasks.test_preference_parity import PAIRS, TEMPLATE, assert_same, said, settings

FAMILIES = ("llama", "gpt2", "opt", "qwen3")


def made(known, family: str = "qwen3", seed: int = 0) -> torch.nn.Module:
    sizes = {"vocab_size": len(known), "max_position_embeddings": 512, "pad_token_id": known.pad_token_id, "eos_token_id": known.eos_token_id, "bos_token_id": None, "num_labels": 1}  # fmt: skip
    sizes |= {"n_positions": 512} if family == "gpt2" else {}
    model = build(AUTO["classes"], family, "sdpa", **sizes)
    torch.manual_seed(seed)
    with torch.no_grad():
        model.score.weight.normal_()
    forward.prepare(model)
    return model


def laid(model: torch.nn.Module, known, attention: str = "ragged") -> forward.Layout:
    return forward.choose_layout(model, wanted=attention, pad_id=known.pad_token_id, kind="classes", trees=True)


def ours(rows: list[dict], model, known, *, attention: str = "ragged", form: str = "pairs", **options: object) -> torch.Tensor:
    """The task's own loss of the rows in one batch, after its own encoding."""
    task = Reward(RewardOptions(**options), Data(train=["none"]), format=form, answers=0)
    records = [task.record(Row(r, "rows.jsonl", i)) for i, r in enumerate(rows)]
    layout = laid(model, known, attention)
    assert layout.trees == (attention == "ragged")
    encoded = task.encode(records, known, config=model.config, max_length=512)
    assert not encoded.rejected
    batch = collate(encoded.tokens.examples()[:])
    targets = {name: values[list(batch.rows)] for name, values in task.targets(records).items()}
    found = task.loss(layout)(model.train(), replace(batch, targets=targets))
    assert found.weight == len(rows)
    return found.sum / found.weight


@pytest.mark.parametrize(
    ("trl", "options"), [({}, {}), ({"center_rewards_coefficient": 0.05}, {"center": 0.05, "margin": "margin"})], ids=["plain", "all"]
)
def test_the_loss_and_its_gradients_equal_trl(trl, options, tmp_path):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    known = talk.tokenizer(TEMPLATE)
    plain, fast = made(known), made(known)
    rows = [{**r, **({"margin": 0.5 * i} if options else {})} for i, r in enumerate(PAIRS)]
    trainer = RewardTrainer(
        plain, args=RewardConfig(**settings(output_dir=str(tmp_path), **trl)), train_dataset=Dataset.from_list(rows), processing_class=known
    )
    theirs = trainer.compute_loss(plain.train(), next(iter(trainer.get_train_dataloader())))
    assert_same(ours(rows, fast, known, **options), theirs, fast, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_trees_give_what_transformers_gives_for_each_conversation(family):
    known = talk.tokenizer(TEMPLATE)
    model = made(known, family).eval()
    several = [{"prompt": r["prompt"], "completions": [said(f"{w} It calls" * (1 + i % 3)) for i, w in enumerate("abcdefgh"[:k])]} for r, k in zip(PAIRS, (8, 2, 8, 3), strict=True)]  # fmt: skip
    task = Reward(RewardOptions(), Data(train=["none"]), format="ranked", answers=0)
    records = [task.record(Row(r, "rows.jsonl", i)) for i, r in enumerate(several)]
    expected = []
    with torch.no_grad():
        for row in several:
            talks = [known.apply_chat_template([*row["prompt"], *c], return_dict=True, return_tensors="pt") for c in row["completions"]]
            expected.append([float(model(**t).logits[0, 0]) for t in talks])
    encoded = task.encode(records, known, config=model.config, max_length=512)
    for attention in ("padded", "ragged"):
        layout = laid(model, known, attention)
        found = outputs(model, encoded.tokens, layout, answer=task.answer(layout), max_tokens=700, combine=task.combine(records))
        for line, values in zip(found, expected, strict=True):
            assert line[: len(values)].tolist() == pytest.approx(values, abs=1e-5)
            assert not line[len(values) :].any()


def test_branches_after_one_prompt_have_the_gradients_of_separate_sequences():
    known = talk.tokenizer(TEMPLATE)
    rows = [{"prompt": r["prompt"], "completions": [r["chosen"], r["rejected"], said("And so it is")]} for r in PAIRS]
    apart, fast = made(known), made(known)
    assert_same(ours(rows, fast, known, form="ranked"), ours(rows, apart, known, form="ranked", attention="padded"), fast, apart)


def test_a_reward_is_read_where_transformers_reads_it_when_the_pad_token_closes_turns():
    known = talk.tokenizer(TEMPLATE)
    known.pad_token = "<|im_end|>"
    model = made(known).eval()
    task = Reward(RewardOptions(), Data(train=["none"]))
    record = task.record(Row(PAIRS[0], "rows.jsonl", 1))
    with torch.no_grad():
        talks = [known.apply_chat_template([*PAIRS[0]["prompt"], *PAIRS[0][n]], return_dict=True, return_tensors="pt") for n in ("chosen", "rejected")]  # fmt: skip
        expected = [float(model(**t).logits[0, 0]) for t in talks]
    layout = laid(model, known)
    found = outputs(
        model, task.encode([record], known, config=model.config, max_length=512).tokens, layout, answer=task.answer(layout), max_tokens=700
    )
    assert found[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_plackett_luce_is_the_likelihood_of_an_order():
    torch.manual_seed(0)
    rewards = torch.randn(3, 4, dtype=torch.float64)
    ranks = torch.tensor([[3, 2, 1, 0], [0, 2, 1, -1], [1, 0, -1, -1]])
    found = reward_losses.plackett_luce(rewards, ranks)
    for line, order, loss in zip(rewards, ranks, found, strict=True):
        size = int((order >= 0).sum())
        logs = {}
        for names in itertools.permutations(range(size)):
            left, log = list(names), 0.0
            for name in names:
                log += float(line[name] - torch.logsumexp(line[left], 0))
                left.remove(name)
            logs[names] = log
        assert sum(torch.tensor(v).exp().item() for v in logs.values()) == pytest.approx(1.0)
        best_first = tuple(order[:size].argsort(descending=True).tolist())
        assert float(loss) == pytest.approx(-logs[best_first])
    assert float(found[2]) == pytest.approx(float(-logsigmoid(rewards[2, 0] - rewards[2, 1])))


def test_answers_of_one_rank_are_not_set_against_each_other():
    rewards = torch.tensor([[5.0, -5.0, 1.0]])
    tied = reward_losses.plackett_luce(rewards, torch.tensor([[1, 1, 0]]))
    assert float(tied) == pytest.approx(float(-logsigmoid(torch.tensor([4.0, -6.0])).sum()))
