"""Whole optimizer steps of learning from preferences against TRL's trainers, with every prompt computed once.

    python benchmarks/preference.py [--quick | --table]

A Llama shape with random weights (hidden 576, vocabulary 49,152); the same rows in the same order, the same AdamW, clipping
included. TRL's trainers have their defaults on a CPU (`use_cpu=True, bf16=False`; gradient checkpointing on).

`dpo_`: batches of 4 pairs whose prompts and responses have 200 and 50, or 100 and 100, tokens on the mean; PEFT's default LoRA trains
(rank 8 on q_proj and v_proj, as in methods.py), and all weights in `_full`. `DPOTrainer` computes the reference in each step, as the
side here does; `_precomputed` is the side here with its default, the reference computed once before. `_vs_best` is against TRL's best
settings, checkpointing off and the reference precomputed, with the reference precomputed here too. Luthier multiplies by oneDNN where
torch takes MKL: `onednn_vs_mkl` says what that alone is worth on this CPU, in fp32 (2.1 on Zen 5, 1.1 on Zen 4).
`grpo_`: 2 prompts of 64 to 200 tokens with 8 answers of 32 tokens each, against `GRPOTrainer`; `grpo_step` is the whole step, `grpo_update`
all of it but writing the answers (`rollouts.py`). The table has KTO on unpaired answers (200:50) and ORPO on pairs, with the memory
that training adds; TRL's ORPO has a likelihood of the prompts in its loss, ours of the answers alone. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import os
import random
import statistics
import time
from typing import Any

import methods
import rollouts
from sft import RATE, VOCABULARY, WIDTH, llama
from turns import Turn, serve, take_turns

os.environ.setdefault("HF_HUB_OFFLINE", "1")

BATCH, BETA = 4, 0.1


def rows(count: int, prompt: int, response: int) -> list[dict[str, list[int]]]:
    """Pairs in token ids, whose lengths differ by up to a fifth from the mean."""
    draw = random.Random(1)

    def ids(mean: int) -> list[int]:
        return [draw.randrange(10, VOCABULARY) for _ in range(draw.randint(mean - mean // 5, mean + mean // 5))]

    return [{"prompt_ids": ids(prompt), "chosen_ids": ids(response), "rejected_ids": ids(response)} for _ in range(count)]


def unpaired(pairs: list[dict[str, list[int]]]) -> list[dict[str, Any]]:
    """Good and bad answers in turn, each with the answer of the row before in its batch."""
    said = [pair["rejected_ids" if i % 2 else "chosen_ids"] for i, pair in enumerate(pairs)]
    before = [said[i - 1 if i % BATCH else i + BATCH - 1] for i in range(len(pairs))]
    return [
        {"prompt_ids": pair["prompt_ids"], "completion_ids": answer, "KL_completion_ids": other, "label": i % 2 == 0}
        for i, (pair, answer, other) in enumerate(zip(pairs, said, before, strict=True))
    ]


def luthier_side(order: dict[str, Any], data: list[dict[str, Any]]) -> Turn:
    """Our loop, as `luthier train` sets it up, on trees."""
    import numpy as np
    import torch

    from luthier.data.tokens import UNGRADED, assemble_tokens
    from luthier.inference.predict import outputs
    from luthier.models import forward, host, load
    from luthier.models.heads import Head
    from luthier.models.reference import Began
    from luthier.recipe.sections import Data, Training
    from luthier.recipe.tasks.preference import PreferenceOptions
    from luthier.tasks.preference import LAST, Preference, tree
    from luthier.training.batches import UpdateStream
    from luthier.training.loop import train
    from luthier.training.optim import Optimizer

    machine, head = host.set_up(precision="fp32"), Head("causal", trees=True)
    model = llama(order["layers"])
    forward.prepare(model)
    layout = forward.choose_layout(model, wanted="ragged", pad_id=0, kind="causal", trees=True)
    if order["lora"]:
        methods.ours(model, layout)
    kept = load.for_training(model, device=machine.device, dtype=machine.dtype, head=head)
    optimizer = Optimizer(model, Training(weight_decay=0.0), kept=kept)
    loss = order["loss"]
    formed = {"format": "unpaired", "answers": 1} if loss == "kto" else {}
    task = Preference(PreferenceOptions(loss=loss, beta=BETA), Data(train=["none"]), **formed)

    def sequence(prompt: list[int], answer: list[int]) -> tuple[Any, Any]:
        ids = np.array([*prompt, *answer])
        return ids[:-1], np.where(np.arange(1, len(ids)) >= len(prompt), ids[1:], UNGRADED)

    kinds, numbers = (("completion", "KL_completion"), (1, LAST)) if loss == "kto" else (("chosen", "rejected"), (1, 2))
    tokens = assemble_tokens([tree([sequence(r["prompt_ids"], r[f"{kind}_ids"]) for kind in kinds], numbers) for r in data])
    ranks = [[int(r["label"]), -1] if loss == "kto" else [1, 0] for r in data]
    targets = {"ranks": torch.tensor(ranks), "reference": torch.zeros(len(data), 2)}
    if order["precomputed"]:
        found = outputs(model, tokens, layout, answer=task.answer(layout), max_tokens=16384)
        targets["reference"] = torch.from_numpy(found[:, :2]).float()
    elif task.referenced:
        task.began = Began(model)
    stream = UpdateStream(tokens.examples(), targets, size=BATCH, max_tokens=16384, seed=0)
    stream._order = lambda epoch: list(range(len(data)))  # type: ignore[method-assign]  # as the other side has them
    reports = train(model, stream, loss=task.loss(layout), optimizer=optimizer, rate=lambda step: RATE)

    def turn(first: int, count: int) -> tuple[list[float], float]:
        begun = time.perf_counter()
        losses = [next(reports).loss for _ in range(count)]
        return losses, time.perf_counter() - begun

    return turn


def trl_side(order: dict[str, Any], data: list[dict[str, Any]]) -> Turn:
    """A trainer of TRL on rows that are in tokens already, with the starting model as its reference where it has one."""
    import torch
    import transformers
    from datasets import Dataset
    from tokenizers import Tokenizer, models

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    place, name = PEERS[order["loss"]]
    peer = importlib.import_module(place)
    config, trainer_of = getattr(peer, f"{name}Config"), getattr(peer, f"{name}Trainer")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")), pad_token="<pad>", eos_token="</s>"
    )
    model = llama(order["layers"])
    began = copy.deepcopy(model)
    if order["lora"]:
        model = methods.theirs(model)
    state: dict[str, Any] = {"optimizer": None}

    def turn(first: int, count: int) -> tuple[list[float], float]:
        losses: list[float] = []

        class Inner(trainer_of):  # type: ignore[misc,valid-type]
            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

            def tokenize_row(self, row: dict[str, Any], *_: Any) -> dict[str, Any]:
                found = {"prompt_input_ids": row["prompt_ids"], "prompt_attention_mask": [1] * len(row["prompt_ids"])}
                for kind in ("chosen", "rejected"):
                    ids = row["prompt_ids"] + row[f"{kind}_ids"]
                    labels = [-100] * len(row["prompt_ids"]) + row[f"{kind}_ids"]
                    found |= {f"{kind}_input_ids": ids, f"{kind}_attention_mask": [1] * len(ids), f"{kind}_labels": labels}
                return found

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
        options = {"gradient_checkpointing": False, "precompute_ref_log_probs": True} if order["best"] else {}
        arguments = config(
            output_dir="/tmp/luthier-benchmark", per_device_train_batch_size=BATCH, max_steps=count, learning_rate=RATE, beta=BETA,
            lr_scheduler_type="constant", report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no", use_cpu=True,
            bf16=False, **options,
        )  # fmt: skip
        clock = Clock()
        reference = {} if order["loss"] == "orpo" else {"ref_model": began}
        trainer = Inner(model, args=arguments, train_dataset=part, processing_class=tokenizer, callbacks=[clock], **reference)
        if state["optimizer"] is not None:
            trainer.optimizer = state["optimizer"]
        trainer.train()
        inner = trainer.optimizer
        state["optimizer"] = inner.optimizer if hasattr(inner, "optimizer") else inner
        return losses, clock.ended - clock.begun

    return turn


def make(order: dict[str, Any]) -> Turn:
    """One side on its rows, in a child process."""
    if order["loss"] == "grpo":
        return rollouts.make(order)
    data: list[dict[str, Any]] = rows(order["steps"] * BATCH, *order["lengths"])  # type: ignore[assignment]
    if order["loss"] == "kto":
        data = unpaired(data)
    return luthier_side(order, data) if order["side"] == "luthier" else trl_side(order, data)


PEERS = {"sigmoid": ("trl", "DPO"), "kto": ("trl", "KTO"), "orpo": ("trl.experimental.orpo", "ORPO")}
"""Where TRL has each loss."""
SIDES = {
    "DPOTrainer": {"side": "trl", "best": False},
    "best": {"side": "trl", "best": True},
    "recomputed": {"side": "luthier", "precomputed": False},
    "precomputed": {"side": "luthier", "precomputed": True},
}


SHAPES = {
    "dpo_6l_200_50": (6, 200, 50, True), "dpo_6l_100_100": (6, 100, 100, True), "dpo_30l_200_50": (30, 200, 50, True),
    "dpo_30l_100_100": (30, 100, 100, True), "dpo_6l_200_50_full": (6, 200, 50, False), "dpo_6l_100_100_full": (6, 100, 100, False),
}  # fmt: skip
"""Layers, tokens of a prompt, tokens of a response, and whether LoRA trains."""


def dpo(*, quick: bool) -> dict[str, float]:
    figures: dict[str, float] = {}
    differences = []
    for name, (layers, prompt, response, lora) in list(SHAPES.items())[: 2 if quick else None]:
        best = ["best"] if name == "dpo_6l_200_50" else []
        before = [] if quick and not best else ["precomputed"]
        names, turns = ["DPOTrainer", *best, "recomputed", *before], 1 if quick else 2 if layers == 30 else 5
        orders = {n: {**SIDES[n], "loss": "sigmoid", "layers": layers, "lengths": (prompt, response), "lora": lora} for n in names}
        found = take_turns(name, orders, script=__file__, turns=turns, length=1)
        figures |= {name: found["recomputed"]["ratio"], **{f"{name}_{n}": found[n]["ratio"] for n in before}}
        if best:
            figures["dpo_6l_vs_best"] = found["best"]["seconds"] / found["precomputed"]["seconds"]
        differences += [found[n]["difference"] for n in ("recomputed", *before)]
    return {**figures, "max_loss_difference": max(differences)}


def onednn() -> float:
    """How much faster than MKL this CPU multiplies in fp32 by oneDNN, in one process and in turns."""
    import torch

    from luthier.models import host

    states, weight = torch.randn(1024, WIDTH), torch.randn(WIDTH, 1536)
    matmul, seconds = torch.backends.mkldnn.matmul, dict[str, list[float]](ieee=[], host=[])
    host.set_up(precision="fp32")
    chosen = matmul.fp32_precision
    for turn in range(40):
        for name, precision in (("ieee", "ieee"), ("host", chosen)):
            matmul.fp32_precision = precision
            begun = time.perf_counter()
            _ = states @ weight
            seconds[name] += [time.perf_counter() - begun] if turn > 5 else []
    return statistics.median(seconds["ieee"]) / statistics.median(seconds["host"])


def grpo(*, quick: bool) -> dict[str, float]:
    """Answers that each side draws itself, timed; and answers that both are given, for their losses."""
    sides = {"GRPOTrainer": {"side": "trl"}, "luthier": {"side": "luthier"}}

    def orders(**more: Any) -> dict[str, dict[str, Any]]:
        return {n: {**side, "loss": "grpo", **more} for n, side in sides.items()}

    turns, length = (1, 1) if quick else (5, 2)
    drawn, given = orders(layers=6, prompts=1 if quick else 2, given=False), orders(layers=2, prompts=1, given=True)
    timed = take_turns("6 layers, 8 answers", drawn, script=__file__, turns=turns, length=length)["luthier"]
    checked = take_turns("2 layers, given answers", given, script=__file__, turns=1, length=2)["luthier"]
    return {"grpo_step": timed["ratio_step"], "grpo_update": timed["ratio_update"], "max_loss_difference": checked["difference"]}


def table() -> dict[str, float]:
    """Time and memory of the losses that need no pairs, or no reference."""
    figures, lines = {}, ["| loss | side | ms a step | memory that training adds, MiB |", "|---|---|---|---|"]
    for loss in ("kto", "orpo"):
        names = {f"{PEERS[loss][1]}Trainer": SIDES["DPOTrainer"], "luthier": SIDES["recomputed"]}
        orders = {n: {**side, "loss": loss, "layers": 6, "lengths": (200, 50), "lora": False} for n, side in names.items()}
        found = take_turns(f"6 layers, {loss}", orders, script=__file__, turns=3, length=1)
        lines += [f"| {loss} | {n} | {f['seconds'] * 1e3:,.0f} | {f['memory']:,.0f} |" for n, f in found.items()]
        theirs, ours = found.values()
        figures |= {f"{loss}_6l": ours["ratio"], f"{loss}_6l_memory": ours["memory"] / theirs["memory"]}
        if loss == "kto":
            figures["max_loss_difference"] = ours["difference"]
    print("\n" + "\n".join(lines) + "\n")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="the 6-layer shapes with LoRA and GRPO, one turn after the warming one")
    which.add_argument("--table", action="store_true", help="the table alone")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(make)
        return
    print(f"load average {', '.join(f'{x:.1f}' for x in os.getloadavg())} on {os.cpu_count()} cores", flush=True)
    parts = [table()] if options.table else [dpo(quick=options.quick), grpo(quick=options.quick)]
    if not options.quick and not options.table:
        parts.append(table())
    figures = {key: value for part in parts for key, value in part.items()}
    figures |= {"onednn_vs_mkl": onednn()}
    figures["max_loss_difference"] = max(part["max_loss_difference"] for part in parts)
    print(json.dumps({k: float(f"{v:.3g}") for k, v in figures.items()}))


if __name__ == "__main__":
    main()
