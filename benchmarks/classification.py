"""Whole training steps of MiniLM classification against `transformers.Trainer` with dynamic padding.

    python benchmarks/classification.py [--quick]

Same model, rows, composition of batches and number of steps; clipping and optimizer included; default
dropout on both sides; both cores. Each side lives in a process of its own, set up as its users would
have it, and the two take turns (A-B-A-B) while the other sleeps; a figure is the ratio of medians of
seconds a step. Equality of the loss curves is shown with dropout off. `tweets_vs_max_length` is against
the tutorials' `padding="max_length"`. `gemm_share` is the share of the machine's measured peak of fp32
matrix products that a step on reviews reaches. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORKLOADS = {"tweets": 32, "reviews": 8}
MAX_LENGTH = 512
CLASSES = 3


def lengths(workload: str, count: int, seed: int) -> list[int]:
    """Tweets: normal, mean 24, within 8 to 48. Reviews: log-normal, median 230, sigma 0.5, within 30 to 512."""
    draw = random.Random(seed)
    if workload == "tweets":
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
        from luthier.models.source import Source
        from luthier.recipe.sections import Model, Training
        from luthier.training.optim import Optimizer

        self.host = host.set_up(precision=precision)
        section = Model(name="minilm", dropout=None if dropout else 0.0)
        folder = model_folder()
        self.loaded = load.load(
            Source("minilm", folder, None), section, outputs=CLASSES, labels=("a", "b", "c"), problem_type="single_label_classification"
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


def serve() -> None:
    """The child: makes one side and takes turns as told on standard input."""
    order = json.loads(sys.stdin.readline())
    side: Luthier | Plain
    if order["side"] == "luthier":
        side = Luthier(order["workload"], precision=order["precision"], dropout=order["dropout"])
    else:
        side = Plain(order["workload"], padding=order["padding"], dropout=order["dropout"])
    data = rows(order["workload"], order["steps"])
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        first, count = json.loads(line)
        size = side.batch_size
        losses, seconds = side.steps(data[first * size : (first + count) * size], order["steps"])
        print(json.dumps([losses, seconds]), flush=True)


# ── the parent: turns and ratios ───────────────────────────────────────────────────────────────────


class Child:
    """One side's process."""

    def __init__(self, **order: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.ask(order)

    def ask(self, message: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(("[", '"ready"')):
                return json.loads(line)
        raise RuntimeError("the other side ended")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def duel(
    workload: str, *, turns: int, length: int, precision: str = "fp32", padding: str = "longest", dropout: bool = True
) -> dict[str, Any]:
    """A-B-A-B; the first turn of each warms up and is not counted."""
    steps = (turns + 1) * length
    sides = {
        "plain": Child(side="plain", workload=workload, padding=padding, dropout=dropout, steps=steps),
        "luthier": Child(side="luthier", workload=workload, precision=precision, dropout=dropout, steps=steps),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, side in sides.items():
            found, took = side.ask([turn * length, length])
            losses[name] += found
            if turn:
                seconds[name].append(took / length)
    for side in sides.values():
        side.close()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    difference = max(abs(a - b) for a, b in zip(losses["plain"], losses["luthier"], strict=True))
    ratio = medians["plain"] / medians["luthier"]
    name = f"{workload}, {precision}" + (", against max_length" if padding != "longest" else "") + ("" if dropout else ", dropout off")
    print(
        f"{name:<38} Trainer {medians['plain'] * 1e3:8.1f} ms  Luthier {medians['luthier'] * 1e3:7.1f} ms  x{ratio:.2f}"
        f"   [{' '.join(f'{a / b:.2f}' for a, b in zip(seconds['plain'], seconds['luthier'], strict=True))}]  largest loss difference {difference:.1e}",
        flush=True,
    )
    return {"ratio": ratio, "seconds": medians["luthier"], "difference": difference}


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
        serve()
        return
    turns = 3 if options.quick else 7
    scale = 1 if options.quick else 2
    tweets = duel("tweets", turns=turns, length=8 * scale)
    reviews = duel("reviews", turns=turns, length=2 * scale)
    tweets_bf16 = duel("tweets", turns=turns, length=8 * scale, precision="bf16")
    reviews_bf16 = duel("reviews", turns=turns, length=2 * scale, precision="bf16")
    exact = [duel("tweets", turns=2, length=4 * scale, dropout=False), duel("reviews", turns=2, length=2, dropout=False)]
    full = duel("tweets", turns=1, length=1 if options.quick else 2, padding="max_length")
    peak = gemm_peak()
    share = flops("reviews", turns, 2 * scale) / reviews["seconds"] / 1e9 / peak
    print(f"matrix products peak at {peak:.0f} GFLOP/s; reviews in fp32 reach {share:.0%} of it")
    import torch

    figures = {
        "tweets_fp32": tweets["ratio"], "reviews_fp32": reviews["ratio"], "tweets_bf16": tweets_bf16["ratio"],
        "reviews_bf16": reviews_bf16["ratio"], "tweets_vs_max_length": full["ratio"], "gemm_share": share,
        "max_loss_difference": max(e["difference"] for e in exact),
    }  # fmt: skip
    print(f"gpu: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'not run, none here'}")
    print(json.dumps({k: float(f"{v:.3g}") for k, v in figures.items()}))


if __name__ == "__main__":
    main()
