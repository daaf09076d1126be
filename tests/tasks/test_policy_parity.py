"""The losses of answers are TRL's, with each prompt computed once: loss and gradients, given answers and what they earned."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from luthier.models import forward
from luthier.models.batch import BRANCH, collate
from luthier.recipe.sections import Data
from luthier.recipe.tasks.policy import PolicyOptions
from luthier.tasks import policy_losses as losses
from luthier.tasks.policy import Policy, tree
from tests import tiny
from tests.tasks import talk
from tests.tasks.test_preference_parity import TEMPLATE, assert_same, models, settings

LONGEST, K = 7, 3


class Given:
    """Prompts with answers, their advantages, and log-probabilities that are not the model's own."""

    def __init__(self) -> None:
        draw = random.Random(0)
        self.prompts = tiny.sentences(4, seed=1, low=2, high=20)
        self.answers = [tiny.sentences(K, seed=draw.randrange(10**6), low=1, high=LONGEST) for _ in self.prompts]
        torch.manual_seed(0)
        self.advantages = torch.randn(len(self.prompts), K)

    def measured(self, model: torch.nn.Module) -> tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]]:
        """Two log-probabilities for each token, near the model's own."""
        torch.manual_seed(2)
        found = [[_logps(model, p, a) for a in answers] for p, answers in zip(self.prompts, self.answers, strict=True)]
        return tuple([[v + 0.4 * torch.randn(len(v)) for v in row] for row in found] for _ in range(2))


def _logps(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(answer)[:, None])[:, 0]


def ours(given: Given, model, known, old, reference, **options: object) -> torch.Tensor:
    """The task's own loss of one batch of trees."""
    task = Policy(PolicyOptions(rewards=["length"], completions=K, max_new_tokens=LONGEST, **options), Data(train=["none"]))
    forward.prepare(model)
    layout = forward.choose_layout(model, wanted="ragged", pad_id=known.pad_token_id, kind="causal", trees=True)
    assert layout.trees
    batch = collate([tree(np.array(p), [np.array(a) for a in answers]) for p, answers in zip(given.prompts, given.answers, strict=True)])
    marks = batch.layers[BRANCH][batch.segments.starts].tolist()
    owners = [(row, mark - 1) for row, mark in zip(batch.rows, marks, strict=True) if mark]
    targets = {
        "advantage": torch.cat([given.advantages[r, i].expand(len(given.answers[r][i])) for r, i in owners]),
        "old": torch.cat([old[r][i] for r, i in owners]),
        "reference": torch.cat([reference[r][i] for r, i in owners]),
    }
    found = task.loss(layout)(model.train(), replace(batch, targets=targets))
    return found.sum / found.weight


def theirs(given: Given, old, reference) -> dict[str, torch.Tensor]:
    """The same as TRL's trainers hold it: padded, prompts on the left."""
    rows = [(p, a) for p, answers in zip(given.prompts, given.answers, strict=True) for a in answers]
    flat = [[v for row in values for v in row] for values in (old, reference)]

    def right(parts: list[torch.Tensor], fill: float = 0) -> torch.Tensor:
        return pad_sequence(parts, batch_first=True, padding_value=fill)

    def left(parts: list[torch.Tensor]) -> torch.Tensor:
        return pad_sequence([p.flip(0) for p in parts], batch_first=True).flip(1)

    prompts, answers = ([torch.tensor(r[i]) for r in rows] for i in (0, 1))
    mask = right([torch.ones_like(a) for a in answers])
    return {
        "prompt_ids": left(prompts), "prompt_mask": left([torch.ones_like(p) for p in prompts]), "completion_ids": right(answers),
        "completion_mask": mask, "advantages": given.advantages.flatten(), "old_per_token_logps": right(flat[0]),
        "ref_per_token_logps": right(flat[1]), "old_logps": (right(flat[0]) * mask).sum(1), "num_items_in_batch": mask.sum(),
    }  # fmt: skip


def trainer_of(kind: str, model, known, folder, *, beta: float = 0.0, **options: object):
    import trl
    from datasets import Dataset

    chosen = settings(output_dir=str(folder), num_generations=K, max_completion_length=LONGEST, beta=0.0, **options)
    chosen["per_device_train_batch_size"] = 12
    del chosen["max_length"]
    config = getattr(trl, f"{kind}Config")(**chosen)
    made = getattr(trl, f"{kind}Trainer")(
        model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=config,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 12), processing_class=known,
    )  # fmt: skip
    made.current_gradient_accumulation_steps, made.beta = 1, beta  # a trainer with a beta would look for the model on a hub
    return made


@pytest.fixture
def scene():
    known = talk.tokenizer(TEMPLATE)
    plain, fast = models(known, 2)
    given = Given()
    return known, plain, fast, given, given.measured(plain)


GRPO = [
    ({"loss_type": "grpo", "beta": 0.1}, {"beta": 0.1}),
    ({"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": False}, {"beta": 0.1, "unbiased_kl": False}),
    ({"loss_type": "dapo", "beta": 0.0, "epsilon_high": 0.28}, {"beta": 0.0, "normalize": "token", "clip_high": 0.28}),
    ({"loss_type": "dr_grpo", "beta": 0.05, "delta": 1.4}, {"beta": 0.05, "normalize": "constant", "clip_most": 1.4}),
    ({"loss_type": "grpo", "beta": 0.0, "importance_sampling_level": "sequence"}, {"beta": 0.0, "importance": "mean"}),
    ({"loss_type": "grpo", "beta": 0.0, "off_policy_mask_threshold": 0.1}, {"beta": 0.0, "stale": 0.1, "iterations": 2}),
    ({"loss_type": "grpo", "beta": 0.1, "temperature": 0.7}, {"beta": 0.1, "temperature": 0.7}),
]


@pytest.mark.parametrize(("peer", "options"), GRPO, ids=["grpo", "plain-kl", "dapo", "dr-grpo", "gspo", "stale", "temperature"])
def test_grpo_equals_trl(peer, options, scene, tmp_path):
    known, plain, fast, given, (old, reference) = scene
    trainer = trainer_of("GRPO", plain, known, tmp_path, **peer)
    found = trainer._compute_loss(plain.train(), theirs(given, old, reference))
    assert_same(ours(given, fast, known, old, reference, algorithm="grpo", **options), found, fast, plain)


def test_rloo_equals_trl(scene, tmp_path):
    known, plain, fast, given, (old, reference) = scene
    trainer = trainer_of("RLOO", plain, known, tmp_path)
    found = trainer._compute_loss(plain.train(), theirs(given, old, reference))
    assert_same(ours(given, fast, known, old, reference, algorithm="rloo"), found, fast, plain)


def test_advantages():
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0], [0.5, np.nan, 1.5, 0.0]])
    group = losses.group_advantages(rewards, scale="group")
    np.testing.assert_allclose(group[0], (rewards[0] - 0.5) / (rewards[0].std(ddof=1) + 1e-4))
    assert (group[1] == 0).all()
    assert group[2, 1] == 0
    np.testing.assert_allclose(group[2, [0, 2, 3]].sum(), 0, atol=1e-12)
    alone = losses.leave_one_out(rewards, scale="none")
    np.testing.assert_allclose(alone[0], [1 - 1 / 3, -2 / 3, -2 / 3, 1 - 1 / 3])
    np.testing.assert_allclose(alone[2], [0.5 - 0.75, 0, 1.5 - 0.25, -1.0])
    np.testing.assert_allclose(losses.group_advantages(rewards[:1], scale="batch")[0], (rewards[0] - 0.5) / (rewards[0].std(ddof=1) + 1e-4))


@pytest.mark.parametrize("gae_lambda", [0.0, 0.3, 1.0])
def test_credit_is_the_sum_of_surprises(gae_lambda):
    draw = np.random.default_rng(0)
    rewards, values = draw.normal(size=7), draw.normal(size=7)
    surprise = [rewards[t] + (values[t + 1] if t < 6 else 0.0) - values[t] for t in range(7)]
    expected = [sum(gae_lambda**k * surprise[t + k] for k in range(7 - t)) for t in range(7)]
    np.testing.assert_allclose(losses.credited(rewards, values, gae_lambda=gae_lambda), expected)
    if gae_lambda == 1.0:  # what is to come, less what was foretold
        np.testing.assert_allclose(losses.credited(rewards, values, gae_lambda=1.0), np.cumsum(rewards[::-1])[::-1] - values)
