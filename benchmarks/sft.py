"""Whole optimizer steps of supervised fine-tuning against TRL's `SFTTrainer`.

    python benchmarks/sft.py [--quick]

A Llama shape with random weights (hidden 576, vocabulary 49,152), chats of 90 tokens on the mean of which
about half are completion, batch 8; the same rows in the same order, the same AdamW, clipping included,
both cores. `SFTTrainer` has its defaults on a CPU (`use_cpu=True, bf16=False`; gradient checkpointing on);
`_vs_best` is against its best settings, checkpointing off and `packing="bfd"`, by the token, since packing
puts other rows together. `head_memory_151k` is the peak memory of head and loss (their gradient apart) at 151k tokens beside TRL's own
chunked loss and beside the plain one of transformers. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import Turn, serve, take_turns

os.environ.setdefault("HF_HUB_OFFLINE", "1")

VOCABULARY, WIDTH, BATCH, MEAN = 49_152, 576, 8, 90
PACKED, RATE = 1024, 2e-5


def rows(count: int) -> list[dict[str, list[int]]]:
    """Chats in token ids: 30 to 150 tokens, of which 30 to 70% are completion."""
    draw = random.Random(1)
    found = []
    for _ in range(count):
        length = draw.randint(MEAN - 60, MEAN + 60)
        ids = [draw.randrange(10, VOCABULARY) for _ in range(length)]
        prompt = int(length * draw.uniform(0.3, 0.7))
        found.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return found


def llama(layers: int, *, vocabulary: int = VOCABULARY) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
            num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def luthier_side(
    order: dict[str, Any], data: list[dict[str, list[int]]], *, adapt: Callable[[Any, Any], Any] = lambda model, layout: None
) -> Turn:
    """Our loop, as `luthier train` sets it up; `adapt` may change the model before it trains."""
    from luthier.models import forward, host, load
    from luthier.models.batch import Batch, Loss, collate
    from luthier.models.heads import Head
    from luthier.models.language import language_loss
    from luthier.recipe.sections import Training
    from luthier.training.batches import Update
    from luthier.training.loop import train
    from luthier.training.optim import Optimizer

    machine, head = host.set_up(precision=order["precision"]), Head("causal")
    model = llama(order["layers"])
    forward.prepare(model)
    layout = forward.choose_layout(model, wanted="ragged", pad_id=0, kind="causal")
    adapt(model, layout)
    kept = load.for_training(model, device=machine.device, dtype=machine.dtype, head=head)
    optimizer = Optimizer(model, Training(weight_decay=0.0), kept=kept)
    state = {"done": 0}

    def loss(model: Any, batch: Batch) -> Loss:
        total, count = language_loss(model, batch, layout)
        return Loss(total, float(count))

    def turn(first: int, count: int) -> tuple[list[float], float]:
        def updates() -> Any:
            for step in range(first, first + count):
                part = data[step * BATCH : (step + 1) * BATCH]
                yield Update((collate([{"input_ids": r["input_ids"][:-1], "labels": r["labels"][1:]} for r in part]),), 0, False)

        begun = time.perf_counter()
        losses = [r.loss for r in train(model, updates(), loss=loss, optimizer=optimizer, rate=lambda step: RATE, done=state["done"])]
        state["done"] += count
        return losses, time.perf_counter() - begun

    return turn


def trl_side(order: dict[str, Any], data: list[dict[str, list[int]]], *, adapt: Callable[[Any], Any] = lambda model: model) -> Turn:
    """`SFTTrainer` on rows that are in tokens already; `adapt` may wrap the model before it trains."""
    import torch
    import transformers
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from trl import SFTConfig, SFTTrainer

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="</s>",
    )
    model = adapt(llama(order["layers"]))
    packed = order["packed"]
    state: dict[str, Any] = {"optimizer": None}

    def turn(first: int, count: int) -> tuple[list[float], float]:
        losses: list[float] = []

        class Inner(SFTTrainer):  # type: ignore[misc]
            def _get_train_sampler(self, *_: Any) -> Any:
                return torch.utils.data.SequentialSampler(self.train_dataset)

            def compute_loss(self, *given: Any, **rest: Any) -> Any:
                value = super().compute_loss(*given, **rest)
                losses.append(float(value[0] if isinstance(value, tuple) else value))
                return value

        class Clock(transformers.TrainerCallback):
            begun = ended = 0.0

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.begun = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.ended = time.perf_counter()

        part = Dataset.from_list(data[first * BATCH : (first + count) * BATCH])
        options = {"packing": True, "packing_strategy": "bfd", "max_length": PACKED, "gradient_checkpointing": False} if packed else {}
        if order["plain"]:
            options = {"gradient_checkpointing": False}
        arguments = SFTConfig(
            output_dir="/tmp/luthier-benchmark", per_device_train_batch_size=1 if packed else BATCH, num_train_epochs=1,
            max_steps=-1 if packed else count, learning_rate=RATE, lr_scheduler_type="constant", report_to=[], save_strategy="no",
            disable_tqdm=True, logging_strategy="no", use_cpu=True, bf16=False, **options,
        )  # fmt: skip
        clock = Clock()
        trainer = Inner(model, arguments, train_dataset=part, processing_class=tokenizer, callbacks=[clock])
        if state["optimizer"] is not None:
            trainer.optimizer = state["optimizer"]
        trainer.train()
        inner = trainer.optimizer
        state["optimizer"] = inner.optimizer if hasattr(inner, "optimizer") else inner
        return losses, clock.ended - clock.begun

    return turn


def make(order: dict[str, Any]) -> Turn:
    """One side on its rows, in a child process."""
    data = rows(order["steps"] * BATCH)
    return luthier_side(order, data) if order["side"] == "luthier" else trl_side(order, data)


TRL = {"side": "trl", "packed": False, "plain": False}
UNCHECKED = {"side": "trl", "packed": False, "plain": True}
PACKED_TRL = {"side": "trl", "packed": True, "plain": False}
FP32 = {"side": "luthier", "precision": "fp32"}
BF16 = {"side": "luthier", "precision": "bf16"}


def contest(layers: int, sides: dict[str, dict[str, Any]], *, turns: int, length: int) -> dict[str, dict[str, float]]:
    return take_turns(
        f"{layers} layers", {n: {**o, "layers": layers} for n, o in sides.items()}, script=__file__, turns=turns, length=length
    )


# ── memory of head and loss ────────────────────────────────────────────────────────────────────────

LARGE = 151_936


def head_memory(side: str) -> float:
    """Peak MiB of tensors made in head and loss, beside the gradient of the head, forward and backward, for one batch of chats."""
    done = subprocess.run([sys.executable, __file__, "--memory", side], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_memory(side: str) -> None:
    """The child: hidden states of a batch through the tied head to the loss, and back."""
    import torch

    torch.manual_seed(0)
    part = rows(BATCH)
    labels = torch.cat([torch.tensor(r["labels"]) for r in part])
    model = llama(1, vocabulary=LARGE)
    hidden = torch.randn(len(labels), WIDTH, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        _head_and_loss(side, model, hidden, labels, part)
    trace = Path(tempfile.mkdtemp()) / "trace.json"
    profile.export_chrome_trace(str(trace))
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    weight = model.lm_head.weight
    print((peak - weight.numel() * weight.element_size()) / 2**20)  # beside the weight's gradient, which is what is computed


def _head_and_loss(side: str, model: Any, hidden: Any, labels: Any, part: list[dict[str, list[int]]]) -> None:
    if side == "luthier":
        from luthier.models.language import _Grades, _LinearCrossEntropy, head_of

        chosen = labels != -100
        head = head_of(model)
        _LinearCrossEntropy.apply(hidden[chosen], head.weight, head.bias, labels[chosen], head, _Grades(0.0, 0.0)).backward()
    elif side == "transformers":
        from transformers.loss.loss_utils import ForCausalLMLoss

        ForCausalLMLoss(model.lm_head(hidden)[None], labels[None], LARGE).backward()
    else:
        import torch
        from trl.trainer import sft_trainer

        sft_trainer.add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
        model.model.forward = lambda *a, **k: __import__("transformers").modeling_outputs.BaseModelOutputWithPast(
            last_hidden_state=hidden[None]
        )
        ids = torch.cat([torch.tensor(r["input_ids"]) for r in part])[None]
        found = model(input_ids=ids, labels=labels[None], use_cache=False, fused_lm_head=True)
        (-found.log_probs).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns, under 3 minutes")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(make)
        return
    if options.memory:
        measure_memory(options.memory)
        return
    turns, length = (2, 1) if options.quick else (6, 6)
    sides = {"SFTTrainer": TRL, "packed": PACKED_TRL, "unchecked": UNCHECKED, "fp32": FP32}
    small = contest(6, {**sides, "bf16": BF16}, turns=turns, length=length)
    large = contest(30, sides, turns=1 if options.quick else 3, length=1 if options.quick else 3)
    memory = {side: head_memory(side) for side in ("luthier", "trl", "transformers")}
    print("head and loss at 151k tokens: " + ", ".join(f"{side} {value:.0f} MiB" for side, value in memory.items()))

    def vs_best(found: dict[str, dict[str, float]]) -> float:
        """Against the faster of TRL's two settings."""
        return min(found["packed"]["seconds"], found["unchecked"]["seconds"]) / found["fp32"]["seconds"]

    figures = {
        "sft_6l_fp32": small["fp32"]["ratio"], "sft_6l_bf16": small["bf16"]["ratio"], "sft_30l_fp32": large["fp32"]["ratio"],
        "sft_6l_vs_best": vs_best(small), "sft_30l_vs_best": vs_best(large),
        "head_memory_151k": memory["luthier"] / memory["trl"], "head_memory_151k_vs_plain": memory["luthier"] / memory["transformers"],
        "max_loss_difference": max(small["fp32"]["difference"], large["fp32"]["difference"]),
    }  # fmt: skip
    print(json.dumps({k: float(f"{v:.3g}") for k, v in figures.items()}))


if __name__ == "__main__":
    main()
