"""Learning from preferences is what TRL's trainers do, with the prompt computed once: loss and gradients on the same rows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from luthier.data.rows import Row
from luthier.inference.predict import outputs
from luthier.models import forward
from luthier.models.batch import collate
from luthier.models.config import AUTO
from luthier.recipe.sections import Data
from luthier.recipe.tasks.preference import PreferenceOptions
from luthier.tasks import preference_losses
from luthier.tasks.preference import Preference
from tests.models.test_parity import build
from tests.tasks import talk

TEMPLATE = """{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}\
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"""
ASKED = [
    talk.messages("Hello there"),
    [{"role": "system", "content": "Be brief."}, *talk.messages("And words?", "日本 {x}", "def f(x): return")],
    talk.messages("It calls a count of 12. " * 8),
    talk.messages("yes"),
]
ANSWERS = [
    ("This is a little text.", "No lines"),
    ("assistant", "assistant and words"),
    ("Two", "user says so " * 6),
    ("It", "calls x y z"),
]


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


PAIRS = [{"prompt": p, "chosen": said(a), "rejected": said(b)} for p, (a, b) in zip(ASKED, ANSWERS, strict=True)]
UNPAIRED = [
    {"prompt": p, "completion": said(pair[i % 2]), "label": i % 2 == 0} for i, (p, pair) in enumerate(zip(ASKED, ANSWERS, strict=True))
]


def models(known, count: int) -> list[torch.nn.Module]:
    sizes = {"vocab_size": len(known), "max_position_embeddings": 512, "pad_token_id": known.pad_token_id, "eos_token_id": known.eos_token_id, "bos_token_id": None}  # fmt: skip
    return [build(AUTO["causal"], "qwen3", "sdpa", **sizes) for _ in range(count)]


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """Other weights, as those of the model that training began with are."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def ours(rows: list[dict], fast, began, known, **options: object) -> torch.Tensor:
    """The task's own loss of the rows in one batch, after its own encoding."""
    form = "unpaired" if "label" in rows[0] else "pairs"
    task = Preference(PreferenceOptions(**options), Data(train=["none"]), format=form, answers=0)
    records = [task.record(Row(r, "rows.jsonl", i)) for i, r in enumerate(rows)]
    task.fit(records)
    layouts = []
    for model in (fast, began):
        forward.prepare(model)
        layouts.append(forward.choose_layout(model, wanted="ragged", pad_id=known.pad_token_id, kind="causal", trees=True))
    assert layouts[0].trees
    encoded = task.encode(records, known, config=fast.config, max_length=512)
    assert not encoded.rejected
    task.remember(
        records, outputs(began, encoded.tokens, layouts[1], answer=task.answer(layouts[1]), max_tokens=4096)[:, : task.columns_wide]
    )
    batch = collate(encoded.tokens.examples()[:])
    targets = {name: values[list(batch.rows)] for name, values in task.targets(records).items()}
    found = task.loss(layouts[0])(fast.train(), replace(batch, targets=targets))
    assert found.weight == len(rows)
    return found.sum / found.weight


def assert_same(mine: torch.Tensor, theirs: torch.Tensor, fast, plain) -> None:
    assert abs(mine.item() - theirs.item()) < 1e-6 * max(1.0, abs(theirs.item()))
    for loss in (mine, theirs):
        loss.backward()
    pairs = [(p.grad, q.grad) for p, q in zip(fast.parameters(), plain.parameters(), strict=True)]
    norm = torch.stack([b.square().sum() for _, b in pairs]).sum().sqrt()
    assert norm > 1e-3
    assert torch.stack([(a - b).square().sum() for a, b in pairs]).sum().sqrt() < 1e-5 * norm


def settings(**more: object) -> dict:
    return {
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_length": None, "per_device_train_batch_size": len(PAIRS),
        "report_to": [], "disable_tqdm": True, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("sigmoid", {"loss": "sigmoid"}), ("sigmoid_norm", {"loss": "sigmoid", "normalize": True}), ("ipo", {"loss": "ipo"}),
        ("hinge", {"loss": "hinge"}), ("robust", {"loss": "robust", "label_smoothing": 0.2}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_dpo_equals_trl(loss, options, tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    known = talk.tokenizer(TEMPLATE)
    plain, fast, theirs_began, began = models(known, 4)
    moved(theirs_began), moved(began)
    chosen = settings(output_dir=str(tmp_path), loss_type=[loss], beta=0.1, label_smoothing=options.get("label_smoothing", 0.0))
    trainer = DPOTrainer(
        plain, ref_model=theirs_began, args=DPOConfig(**chosen), train_dataset=Dataset.from_list(PAIRS), processing_class=known
    )
    theirs = trainer.compute_loss(plain.train(), next(iter(trainer.get_train_dataloader())))
    assert_same(ours(PAIRS, fast, began, known, beta=0.1, **options), theirs, fast, plain)


def test_kto_equals_trl(tmp_path):
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    known = talk.tokenizer(TEMPLATE)
    plain, fast, theirs_began, began = models(known, 4)
    moved(theirs_began), moved(began)
    chosen = settings(
        output_dir=str(tmp_path), beta=0.3, desirable_weight=1.5, undesirable_weight=0.75, train_sampling_strategy="sequential"
    )
    trainer = KTOTrainer(
        plain, ref_model=theirs_began, args=KTOConfig(**chosen), train_dataset=Dataset.from_list(UNPAIRED), processing_class=known
    )
    theirs = trainer.compute_loss(plain.train(), next(iter(trainer.get_train_dataloader())))
    mine = ours(UNPAIRED, fast, began, known, loss="kto", beta=0.3, good_weight=1.5, bad_weight=0.75)
    assert_same(mine, theirs, fast, plain)


def test_losses_without_a_reference_equal_trl(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    torch.manual_seed(0)
    host = {"accelerator": SimpleNamespace(device="cpu"), "alpha": 0.0, "beta": 0.3, "simpo_gamma": 0.7}
    mine, theirs = (torch.tensor([-0.02, -0.4, -1.3, -5.0, -2.0, -0.7]).requires_grad_() for _ in range(2))
    better, worse = slice(0, None, 2), slice(1, None, 2)

    def cpo(kind: str, smoothing: float = 0.0) -> torch.Tensor:
        return CPOTrainer.cpo_loss(SimpleNamespace(**host, loss_type=kind, label_smoothing=smoothing), theirs[better], theirs[worse])[0]

    ahead = mine[better] - mine[worse]
    cases = {
        "simpo": (preference_losses.simpo(ahead, beta=0.3, gamma=0.7), cpo("simpo")),
        "cpo": (preference_losses.sigmoid(ahead, beta=0.3), cpo("sigmoid")),
        "conservative cpo": (preference_losses.sigmoid(ahead, beta=0.3, smoothing=0.1), cpo("sigmoid", 0.1)),
        "orpo": (
            preference_losses.orpo(mine[better], mine[worse], beta=0.3),
            -ORPOTrainer.odds_ratio_loss(SimpleNamespace(**host), theirs[better], theirs[worse])[0],
        ),
    }
    for name, (a, b) in cases.items():
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=name)
        slopes = torch.autograd.grad(a.sum(), mine, retain_graph=True), torch.autograd.grad(b.sum(), theirs, retain_graph=True)
        torch.testing.assert_close(slopes[0][0], slopes[1][0], rtol=1e-5, atol=1e-6, msg=name)
