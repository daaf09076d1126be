"""Learning from conversations is what TRL's trainer does with hand-made marks, without the marks."""

from __future__ import annotations

import torch

from luthier.models import forward
from luthier.models.batch import collate
from luthier.models.config import AUTO
from tests.models.test_parity import build
from tests.tasks import talk
from tests.tasks.talk import CHATML, messages, record, task

MARKED = """{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}\
{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}\
{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
ROWS = [
    messages("Hello there", "This is a little text.\n\nIt has lines."),
    [
        {"role": "system", "content": "Be brief."},
        *messages("And words?", "assistant\n日本 {x}", "Hello there", "def f(x):\n    return {x: [1, 2]}"),
    ],
    [*messages("One", "Two"), {"role": "user", "content": "Three"}],
    messages("Hello there", "<|im_start", "And words? " * 12, "yes"),
]


def test_loss_and_gradient_equal_trl(tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    own, marked = talk.tokenizer(CHATML), talk.tokenizer(MARKED)
    sizes = {
        "vocab_size": len(own),
        "max_position_embeddings": 512,
        "pad_token_id": own.pad_token_id,
        "eos_token_id": own.eos_token_id,
        "bos_token_id": None,
    }
    plain, fast = (build(AUTO["causal"], "qwen3", "sdpa", **sizes) for _ in range(2))

    settings = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, assistant_only_loss=True, gradient_checkpointing=False, max_length=None,
        per_device_train_batch_size=len(ROWS), report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(plain, settings, train_dataset=Dataset.from_list([{"messages": r} for r in ROWS]), processing_class=marked)
    theirs = trainer.compute_loss(plain.train(), next(iter(trainer.get_train_dataloader())))
    theirs.backward()

    forward.prepare(fast)
    layout = forward.choose_layout(fast, wanted="ragged", pad_id=own.pad_token_id, kind="causal")
    made = task()
    encoded = made.encode([record(r) for r in ROWS], own, config=fast.config, max_length=512)
    found = made.loss(layout)(fast.train(), collate(encoded.tokens.examples()[:]))
    ours = found.sum / found.weight
    ours.backward()

    assert layout.kind == "ragged"
    assert not encoded.rejected
    assert abs(ours.item() - theirs.item()) < 1e-5
    pairs = [(p.grad, q.grad) for p, q in zip(fast.parameters(), plain.parameters(), strict=True)]
    difference = torch.stack([(a - b).square().sum() for a, b in pairs]).sum().sqrt()
    assert difference < 1e-5 * torch.stack([b.square().sum() for _, b in pairs]).sum().sqrt()
