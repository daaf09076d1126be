"""Whole optimizer steps of parameter-efficient methods: LoRA against TRL with PEFT, and the frozen trunk computed once.

    LUTHIER_DATA=../shared/data python benchmarks/methods.py [--quick]

`lora_30l_fp32`: chats as in sft.py, a Llama shape of 30 layers (hidden 576, vocabulary 49,152), batch 8, against
`SFTTrainer` with a model of PEFT's default LoRA (rank 8 on q_proj and v_proj), TRL's defaults on a CPU (gradient
checkpointing on); both sides have the same adapters at first, in processes of their own that take turns.

The others: MiniLM on tweets, batch 32, default dropout above the frozen layers, three epochs, all in this process
and on the same ragged engine, training after training in turns (A-B-A-B), each from the same weights. `trunk5`
freezes embeddings and 5 of 6 layers and keeps what they give, `head` freezes all and keeps what the head reads;
their time holds computing it, writing it, and hashing weights and texts. `_vs_freeze` is against the same frozen
layers computed in every epoch, `_vs_full` against training all weights. A figure is the ratio of medians.
`max_loss_difference` is over all steps of sides that must agree. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import sft
from turns import Turn, serve, take_turns

os.environ.setdefault("HF_HUB_OFFLINE", "1")

BATCH, EPOCHS, RATE = 32, 3, 2e-4
LAYERS = 6
LABELS = ("negative", "neutral", "positive")
sft.RATE = RATE


# ── LoRA, in processes that take turns ─────────────────────────────────────────────────────────────


def start_adapters(model: Any) -> Any:
    """The same first matrices on both sides, by the order of their names."""
    import torch

    draw = torch.Generator().manual_seed(1)
    for _, weight in sorted((n.removeprefix("base_model.model."), p) for n, p in model.named_parameters() if "lora_A" in n):
        weight.data.copy_(torch.rand(weight.shape, generator=draw).sub_(0.5).mul_(2 / weight.shape[1] ** 0.5))
    return model


def ours(model: Any, layout: Any) -> None:
    """PEFT's default adapters by our method."""
    from luthier.models.adapters.lora import Lora
    from luthier.models.heads import Head
    from luthier.models.load import Loaded
    from luthier.recipe.methods.lora import LoraOptions

    loaded = Loaded(model, None, layout, 2048, None, False, [], Head("causal"))  # type: ignore[arg-type]
    Lora(LoraOptions(rank=8, alpha=8, target_modules=["q_proj", "v_proj"])).apply(loaded)
    start_adapters(model)


def theirs(model: Any) -> Any:
    """PEFT's default adapters by PEFT."""
    from peft import LoraConfig, get_peft_model

    return start_adapters(get_peft_model(model, LoraConfig(task_type="CAUSAL_LM")))


def make(order: dict[str, Any]) -> Turn:
    """One side on its rows, in a child process."""
    data = sft.rows(order["steps"] * sft.BATCH)
    return sft.luthier_side(order, data, adapt=ours) if order["side"] == "luthier" else sft.trl_side(order, data, adapt=theirs)


# ── the frozen trunk, in this process ──────────────────────────────────────────────────────────────


def tweets(count: int) -> list[tuple[str, int]]:
    """The first usable (text, label) rows of the tweets with sentiment."""
    path = Path(os.environ["LUTHIER_DATA"]) / "tweet_sentiment_extraction" / "train.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    rows = [r for r in csv.DictReader(io.StringIO(text)) if r["text"].strip()]
    return [(r["text"], LABELS.index(r["sentiment"])) for r in rows[:count]]


class Side:
    """One way to train; a training is from the same weights each time."""

    def __init__(self, rows: list[tuple[str, int]], *, frozen: int | None, trunk: bool) -> None:
        import torch

        from luthier.data.tokens import tokenize
        from luthier.models import host, load
        from luthier.models.adapters.freeze import Freeze
        from luthier.models.heads import Head
        from luthier.models.source import resolve
        from luthier.models.trunk import Trunk, find
        from luthier.recipe.methods.freeze import FreezeOptions
        from luthier.recipe.sections import Model

        section, self.host = Model(name="minilm"), host.set_up(precision="fp32")
        self.loaded = load.load(
            resolve(section, folder=Path.cwd()), section, head=lambda config: Head("classes", 3, LABELS, "single_label_classification")
        )
        self.trunk: Trunk | None = None
        if frozen is not None:
            options = FreezeOptions(head_only=True) if frozen == LAYERS else FreezeOptions(layers=frozen)
            Freeze(options).apply(self.loaded)
            if trunk:
                found = find(self.loaded.model, self.loaded.layout, self.loaded.head, bottom=frozen)
                assert isinstance(found, Trunk), found
                self.trunk = found
        self.kept = load.for_training(self.loaded.model, device=self.host.device, dtype=self.host.dtype)
        backend = self.loaded.tokenizer.backend_tokenizer  # type: ignore[attr-defined]
        self.tokens = tokenize([text for text, _ in rows], None, backend, max_length=self.loaded.max_length)
        self.labels = torch.tensor([label for _, label in rows])
        self.weights = {n: t.clone() for n, t in self.loaded.model.state_dict().items()}

    def train(self) -> tuple[list[float], float]:
        """Losses and seconds of a whole training, the trunk's computing included."""
        import torch

        from luthier.models.batch import Batch, Loss
        from luthier.models.forward import pooled_logits
        from luthier.models.kept import keep
        from luthier.recipe.sections import Training
        from luthier.training.batches import UpdateStream
        from luthier.training.loop import train
        from luthier.training.optim import Optimizer

        self.loaded.model.load_state_dict(self.weights)
        optimizer = Optimizer(self.loaded.model, Training(weight_decay=0.0), kept=self.kept)
        layout, options = self.loaded.layout, Training(weight_decay=0.0)

        def loss(model: Any, batch: Batch) -> Loss:
            logits = pooled_logits(model, batch, layout).float()
            return Loss(torch.nn.functional.cross_entropy(logits, batch.targets["labels"], reduction="sum"), float(len(logits)))

        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            above = None
            if self.trunk is not None:
                above = keep(self.trunk, self.tokens, folder=Path(folder), precision="fp32", max_tokens=options.max_tokens).above
            stream = UpdateStream(
                self.tokens.examples(), {"labels": self.labels}, size=BATCH, max_tokens=options.max_tokens, seed=0,
                types=layout.token_types, above=above,
            )  # fmt: skip
            total = EPOCHS * stream.updates_per_epoch
            reports = train(self.loaded.model, stream, loss=loss, optimizer=optimizer, rate=lambda step: RATE * (1 - step / total))
            losses = [next(reports).loss for _ in range(total)]
            return losses, time.perf_counter() - begun


SIDES: dict[str, dict[str, Any]] = {
    "full": {"frozen": None, "trunk": False}, "freeze 5": {"frozen": 5, "trunk": False}, "trunk 5": {"frozen": 5, "trunk": True},
    "freeze 6": {"frozen": LAYERS, "trunk": False}, "head": {"frozen": LAYERS, "trunk": True},
}  # fmt: skip


def trunks(*, rows: int, rounds: int) -> dict[str, float]:
    """The figures of the frozen trunk; the first round warms up."""
    data = tweets(rows)
    sides = {name: Side(data, **given) for name, given in SIDES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            losses[name], took = side.train()
            if turn:
                seconds[name].append(took)
    median = {name: statistics.median(values) for name, values in seconds.items()}

    def ratio(slow: str, fast: str) -> float:
        each = " ".join(f"{a / b:.2f}" for a, b in zip(seconds[slow], seconds[fast], strict=True))
        value = median[slow] / median[fast]
        print(
            f"{f'{len(data)} tweets, {EPOCHS} epochs: {slow} / {fast}':<48}{median[slow]:9.2f} s /{median[fast]:8.2f} s  x{value:.2f}  [{each}]"
        )
        return value

    difference = max(
        abs(a - b) for pair in (("freeze 5", "trunk 5"), ("freeze 6", "head")) for a, b in zip(*(losses[p] for p in pair), strict=True)
    )
    print(f"largest loss difference of kept and computed trunks {difference:.1e}", flush=True)
    return {
        "trunk5_vs_freeze": ratio("freeze 5", "trunk 5"), "trunk5_vs_full": ratio("full", "trunk 5"),
        "head_vs_freeze": ratio("freeze 6", "head"), "head_vs_full": ratio("full", "head"), "max_loss_difference": difference,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns, under 3 minutes")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(make)
        return
    if "LUTHIER_DATA" not in os.environ:
        parser.error("set LUTHIER_DATA to the folder of public data sets")
    print(f"load average {', '.join(f'{x:.1f}' for x in os.getloadavg())} on {os.cpu_count()} cores", flush=True)
    sides = {"SFTTrainer": {"side": "trl", "packed": False, "plain": False}, "fp32": {"side": "luthier", "precision": "fp32"}}
    turns, length = (2, 2) if options.quick else (5, 4)
    lora = take_turns("LoRA, 30 layers", {n: {**o, "layers": 30} for n, o in sides.items()}, script=__file__, turns=turns, length=length)
    figures = trunks(rows=384 if options.quick else 1024, rounds=3 if options.quick else 5)
    figures = {
        "lora_30l_fp32": lora["fp32"]["ratio"], **figures,
        "max_loss_difference": max(figures["max_loss_difference"], lora["fp32"]["difference"]),
    }  # fmt: skip
    print(json.dumps({k: float(f"{v:.3g}") for k, v in figures.items()}))


if __name__ == "__main__":
    main()
