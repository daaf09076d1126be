"""Whole training steps of MiniLM classification against `transformers.Trainer` with dynamic padding.

    python benchmarks/classification.py [--quick]

Same model, rows, composition of batches and number of steps; clipping and optimizer included; default
dropout on both sides; both cores. Each side lives in a process of its own, set up as its users would
have it, and the two take turns (A-B-A-B) while the other sleeps; a figure is the ratio of medians of
seconds a step. Equality of the loss curves is shown with dropout off. `tweets_vs_max_length` is against
the tutorials' `padding="max_length"`, at batch 4. `gemm_share` is the share of the machine's measured peak of fp32
matrix products that a step on reviews reaches. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from typing import Any

from turns import Turn, serve, take_turns

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORKLOADS = {"tweets": 32, "reviews": 8, "few tweets": 4}
MAX_LENGTH = 512
CLASSES = 3


def lengths(workload: str, count: int, seed: int) -> list[int]:
    """Tweets: normal, mean 24, within 8 to 48. Reviews: log-normal, median 230, sigma 0.5, within 30 to 512."""
    draw = random.Random(seed)
    if workload.endswith("tweets"):
        return [min(48, max(8, int(draw.gauss(24, 8)))) for _ in range(count)]
    return [min(MAX_LENGTH, max(30, int(draw.lognormvariate(math.log(230), 0.5)))) for _ in range(count)]


def rows(workload: str, steps: int) -> list[dict[str, Any]]:
    """Rows in the order both sides take them."""
    draw, count = random.Random(1), WORKLOADS[workload] * steps
    return [
        {"input_ids": [101, *(draw.randrange(1000, 30000) for _ in range(n - 2)), 102], "label": draw.randrange(CLASSES)}
        for n in lengths(workload, count, seed=2)
    ]


def model_folder() -> str:
    from luthier.models.source import resolve
    from luthier.recipe.sections import Model

    return resolve(Model(name="minilm")).location


# ── one side, in a process of its own ──────────────────────────────────────────────────────────────


class Luthier:
    """Our loop, as `luthier train` sets it up."""

    def __init__(self, workload: str, *, precision: str, dropout: bool) -> None:
        import torch

        from luthier.models import host, load
        from luthier.models.heads import Head
        from luthier.models.source import Source
        from luthier.recipe.sections import Model, Training
        from luthier.training.optim import Optimizer

        self.host = host.set_up(precision=precision)
        section = Model(name="minilm", dropout=None if dropout else 0.0)
        folder = model_folder()
        self.loaded = load.load(
            Source("minilm", folder, None),
            section,
            head=lambda config: Head("classes", CLASSES, ("a", "b", "c"), "single_label_classification"),
        )
        kept = load.for_training(self.loaded.model, device=self.host.device, dtype=self.host.dtype)
        self.optimizer = Optimizer(self.loaded.model, Training(weight_decay=0.0), kept=kept)
        self.batch_size, self.torch, self.done = WORKLOADS[workload], torch, 0

    def steps(self, data: list[dict[str, Any]], total: int) -> tuple[list[float], float]:
        """Losses and seconds of a turn."""
        from luthier.models.batch import Batch, Loss, collate
        from luthier.models.forward import pooled_logits
        from luthier.training.batches import Update
        from luthier.training.loop import train

        def loss(model: Any, batch: Batch) -> Loss:
            logits = pooled_logits(model, batch, self.loaded.layout).float()
            return Loss(self.torch.nn.functional.cross_entropy(logits, batch.targets["labels"], reduction="sum"), float(len(logits)))

        def updates() -> Any:
            for start in range(0, len(data), self.batch_size):
                part = data[start : start + self.batch_size]
                batch = collate(part, types=self.loaded.layout.token_types)
                batch.targets["labels"] = self.torch.tensor([part[i]["label"] for i in batch.rows])
                yield Update((batch,), 0, False)

        begun = time.perf_counter()
        reports = train(
            self.loaded.model, updates(), loss=loss, optimizer=self.optimizer, rate=lambda step: 2e-5 * (1 - step / total), done=self.done
        )
        losses = [r.loss for r in reports]
        self.done += len(losses)
        return losses, time.perf_counter() - begun


class Plain:
    """`transformers.Trainer` with its defaults, a fixed order, and dynamic (or full) padding."""

    def __init__(self, workload: str, *, padding: str, dropout: bool) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        changes = {} if dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
        torch.manual_seed(0)
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(model_folder(), num_labels=CLASSES, **changes)
        self.batch_size, self.padding, self.torch, self.transformers, self.done = WORKLOADS[workload], padding, torch, transformers, 0

    def collate(self, part: list[dict[str, Any]]) -> dict[str, Any]:
        longest = MAX_LENGTH if self.padding == "max_length" else max(len(r["input_ids"]) for r in part)
        ids = self.torch.tensor([r["input_ids"] + [0] * (longest - len(r["input_ids"])) for r in part])
        mask = self.torch.tensor([[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in part])
        return {"input_ids": ids, "attention_mask": mask, "labels": self.torch.tensor([r["label"] for r in part])}

    def steps(self, data: list[dict[str, Any]], total: int) -> tuple[list[float], float]:
        """Losses and seconds of a turn; the time is that between the first step's begin and the last's end."""
        losses: list[float] = []
        turn, done = self, self.done

        class Inner(self.transformers.Trainer):  # type: ignore[misc, name-defined]
            def _get_train_sampler(self, *_: Any) -> Any:
                return turn.torch.utils.data.SequentialSampler(self.train_dataset)

            def compute_loss(self, model: Any, inputs: Any, **rest: Any) -> Any:
                value = super().compute_loss(model, inputs, **rest)
                losses.append(float(value.detach()))
                return value

            def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
                self.lr_scheduler = turn.torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - (done + step) / total)
                return self.lr_scheduler

        class Clock(self.transformers.TrainerCallback):  # type: ignore[misc, name-defined]
            begun = ended = 0.0

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.begun = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.ended = time.perf_counter()

        arguments = self.transformers.TrainingArguments(
            output_dir="/tmp/luthier-benchmark", per_device_train_batch_size=self.batch_size, max_steps=len(data) // self.batch_size,
            learning_rate=2e-5, report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no",
            use_cpu=not self.torch.cuda.is_available(),
        )  # fmt: skip
        clock = Clock()
        trainer = Inner(self.model, arguments, train_dataset=data, data_collator=self.collate, callbacks=[clock])
        optimizer = getattr(self, "optimizer", None)
        if optimizer is not None:
            trainer.optimizer = optimizer
        trainer.train()
        self.optimizer = trainer.optimizer.optimizer if hasattr(trainer.optimizer, "optimizer") else trainer.optimizer
        self.done += len(losses)
        return losses, clock.ended - clock.begun


def gemm_peak() -> float:
    """The best rate of fp32 matrix products here, in GFLOP/s, over a few large shapes."""
    import torch

    from luthier.models.host import fast_matmul

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    fast_matmul()
    best = 0.0
    for n in (1024, 2048):
        a, b = torch.randn(n, n), torch.randn(n, n)
        for _ in range(3):
            a @ b
        times = []
        for _ in range(8):
            begun = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - begun)
        best = max(best, 2 * n**3 / min(times) / 1e9)
    return best


def make(order: dict[str, Any]) -> Turn:
    """One side on its rows, in a child process."""
    data = rows(order["workload"], order["steps"])
    side: Luthier | Plain
    if order["side"] == "luthier":
        side = Luthier(order["workload"], precision=order["precision"], dropout=order["dropout"])
    else:
        side = Plain(order["workload"], padding=order["padding"], dropout=order["dropout"])
    size = side.batch_size
    return lambda first, count: side.steps(data[first * size : (first + count) * size], order["steps"])


# ── the parent: turns and ratios ───────────────────────────────────────────────────────────────────

PLAIN = {"side": "plain", "padding": "longest"}
FULL = {"side": "plain", "padding": "max_length"}
FP32 = {"side": "luthier", "precision": "fp32"}
BF16 = {"side": "luthier", "precision": "bf16"}


def contest(
    workload: str, sides: dict[str, dict[str, str]], *, turns: int, length: int, dropout: bool = True
) -> dict[str, dict[str, float]]:
    """The sides on a workload, against the first."""
    label = f"{workload}{'' if dropout else ', dropout off'}"
    orders = {name: {**order, "workload": workload, "dropout": dropout} for name, order in sides.items()}
    return take_turns(label, orders, script=__file__, turns=turns, length=length)


def flops(workload: str, turns: int, length: int) -> float:
    """Matrix-product FLOPs of a mean step, forward and backward, from the shapes of MiniLM."""
    layers, width, inner = 6, 384, 1536
    total = 0.0
    sizes = lengths(workload, WORKLOADS[workload] * (turns + 1) * length, seed=2)[WORKLOADS[workload] * length :]
    for n in sizes:
        total += 3 * layers * (2 * n * (4 * width * width + 2 * width * inner) + 4 * n * n * width)
    return total / (turns * length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns, under 3 minutes")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(make)
        return
    turns, scale = (2, 1) if options.quick else (7, 2)
    tweets = contest("tweets", {"Trainer": PLAIN, "fp32": FP32, "bf16": BF16}, turns=turns, length=4 * scale)
    reviews = contest("reviews", {"Trainer": PLAIN, "fp32": FP32, "bf16": BF16}, turns=turns, length=1 * scale)
    exact = [
        contest(workload, {"Trainer": PLAIN, "fp32": FP32}, turns=1, length=2 * scale, dropout=False)["fp32"]["difference"]
        for workload in WORKLOADS if workload != "few tweets"
    ]  # fmt: skip
    full = contest("few tweets", {"max_length": FULL, "fp32": FP32}, turns=1, length=1 * scale)
    peak = gemm_peak()
    share = flops("reviews", turns, scale) / reviews["fp32"]["seconds"] / 1e9 / peak
    print(f"matrix products peak at {peak:.0f} GFLOP/s; reviews in fp32 reach {share:.0%} of it")
    import torch

    figures = {
        "tweets_fp32": tweets["fp32"]["ratio"], "reviews_fp32": reviews["fp32"]["ratio"], "tweets_bf16": tweets["bf16"]["ratio"],
        "reviews_bf16": reviews["bf16"]["ratio"], "tweets_vs_max_length": full["fp32"]["ratio"], "gemm_share": share,
        "max_loss_difference": max(exact),
    }  # fmt: skip
    print(f"gpu: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'not run, none here'}")
    print(json.dumps({k: float(f"{v:.3g}") for k, v in figures.items()}))


if __name__ == "__main__":
    main()
