"""A model of opt-6.7b's shape, loaded in 8 or 4 bits and trained for one step, in how much memory.

    python benchmarks/big.py [--bits 8] [--folder FOLDER] [--keep] [--quick]

Random weights are written as an fp16 checkpoint in shards of at most 500 MB (13.3 GB of disk, below --folder or
the temporary folder; removed afterwards unless --keep, and used again where it is there). A child loads it as
`luthier train` does, puts LoRA of rank 16 on q_proj and v_proj, and makes one optimizer step on 64 tokens. The
figure is its anonymous memory (RssAnon of /proc/self/status, looked at every 5 ms): pages of the mapped
checkpoint are the file's and can be dropped at any time; the kernel's VmHWM, which counts them, is printed
beside it. `--quick` takes a 0.2B model of the same kind, in 8 and in 4 bits, beside transformers' own
`from_pretrained(quantization_config=...)`. The last line is one JSON object, in GiB; `_over_packed` is what a
load adds at its peak to the memory before it, over the bytes of the weights and their scales; ours includes the
forward passes by which a load proves layout and head, which weigh in the small model.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

GIB, SHARD, LENGTH, RANK = 1 << 30, 500_000_000, 64, 16
SHAPES = {
    "full": {"hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 32, "word_embed_proj_dim": 4096},
    "quick": {"hidden_size": 1024, "ffn_dim": 4096, "num_hidden_layers": 16, "num_attention_heads": 16, "word_embed_proj_dim": 1024},
}
TARGETS = {8: 8.0, 4: 5.0}
TRAINABLE = "trainable 8,388,608 of 6,666,862,592"


def config_of(shape: str) -> Any:
    from transformers import OPTConfig

    return OPTConfig(vocab_size=50272, max_position_embeddings=2048, pad_token_id=1, bos_token_id=2, eos_token_id=2, **SHAPES[shape])


def write(folder: Path, shape: str) -> None:
    """The checkpoint, a shard at a time, named as the published one is: without the prefix of the base model."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    config = config_of(shape)
    with torch.device("meta"):
        shapes = {n.removeprefix("model."): p.shape for n, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    size = 2 * sum(s.numel() for s in shapes.values())
    free = shutil.disk_usage(folder).free
    if free < size + GIB:
        raise SystemExit(f"{folder} has {free / GIB:.1f} GiB free, and {size / GIB + 1:.1f} are needed")
    torch.manual_seed(0)
    index: dict[str, str] = {}

    def drawn(name: str) -> Any:
        shape = shapes[name]
        if len(shape) == 1:
            return torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
        return torch.randn(shape).mul_(0.02).half()

    for number, names in enumerate(shards(shapes), 1):
        path = folder / f"model-{number:05d}.safetensors"
        save_file({n: drawn(n) for n in names}, path, metadata={"format": "pt"})
        index |= dict.fromkeys(names, path.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": index}))
    words = {"<unk>": 0, "<pad>": 1, "</s>": 2}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    config.architectures = ["OPTForCausalLM"]
    config.save_pretrained(folder)  # last: it says that the folder is whole


def shards(shapes: dict[str, Any]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for name, shape in shapes.items():
        if part and size + 2 * shape.numel() > SHARD:
            yield part
            part, size = [], 0
        part.append(name)
        size += 2 * shape.numel()
    yield part


class Memory:
    """This process' anonymous memory, its peak looked at from a thread."""

    def __init__(self) -> None:
        self.peak, self._over = 0.0, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @staticmethod
    def now(field: str = "RssAnon") -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024 / GIB

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.peak = max(self.peak, self.now())

    def take(self) -> float:
        """The peak since the last call."""
        found, self.peak = max(self.peak, self.now()), 0.0
        return found


def packed(model: Any) -> float:
    """Bytes of a model's weights, and of the scales that bitsandbytes keeps beside them."""
    size = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        scales = [getattr(parameter, "SCB", None), getattr(state, "absmax", None), getattr(getattr(state, "state2", None), "absmax", None)]
        size += sum(t.numel() * t.element_size() for t in (parameter, *scales) if t is not None)
    return size / GIB


def measure(folder: Path, bits: int) -> dict[str, float]:
    """The child: load, adapt, one step."""
    import torch

    import luthier.models.packed  # noqa: F401  (what is imported is no part of the load)
    from luthier.models import host, load
    from luthier.models.adapters.method import count
    from luthier.models.batch import Batch, Loss, collate
    from luthier.models.heads import Head
    from luthier.models.language import language_loss
    from luthier.models.source import Source
    from luthier.recipe.methods.lora import LoraOptions
    from luthier.recipe.sections import Model, Training
    from luthier.registry import METHODS
    from luthier.training.batches import Update
    from luthier.training.loop import train
    from luthier.training.optim import Optimizer

    machine, head = host.set_up(), Head("causal")
    memory = Memory()
    before, begun = memory.now(), time.perf_counter()
    section = Model(name=str(folder), quantization=f"{bits}bit")  # type: ignore[arg-type]
    loaded = load.load(Source(str(folder), str(folder), None), section, head=lambda _: head)
    loading, loaded_in = memory.take(), time.perf_counter() - begun
    after, size = memory.now(), packed(loaded.model)
    options = LoraOptions(rank=RANK, target_modules=["q_proj", "v_proj"])
    METHODS.load("lora")(options, seed=0).apply(loaded)
    free, total = count(loaded.model)
    print(f"trainable {free:,} of {total:,}")
    kept = load.for_training(loaded.model, device=machine.device, dtype=machine.dtype, head=head)
    optimizer = Optimizer(loaded.model, Training(), kept=kept)
    ids = torch.randint(3, 50_000, (LENGTH + 1,), generator=torch.Generator().manual_seed(1)).tolist()
    update = Update((collate([{"input_ids": ids[:-1], "labels": ids[1:]}]),), 0, False)

    def loss(model: Any, batch: Batch) -> Loss:
        found, number = language_loss(model, batch, loaded.layout)
        return Loss(found, float(number))

    begun = time.perf_counter()
    (report,) = train(loaded.model, [update], loss=loss, optimizer=optimizer, rate=lambda _: 1e-4)
    stepping, stepped_in = memory.take(), time.perf_counter() - begun
    print(f"layout {loaded.layout.kind}; loss {report.loss:.3f}, gradient norm {report.grad_norm:.3g}")
    return {
        "before": before, "peak_load": loading, "after_load": after, "peak_step": stepping, "peak": max(loading, stepping),
        "VmHWM": memory.now("VmHWM"), "load_seconds": loaded_in, "step_seconds": stepped_in, "trainable": free, "parameters": total,
        "packed": size, "load_over_packed": (loading - before) / size,
    }  # fmt: skip


def measure_stock(folder: Path, bits: int) -> dict[str, float]:
    """The child: transformers' own way to the same model."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, logging

    import luthier.models.packed  # noqa: F401  (what is imported is no part of the load)
    from luthier.models import host

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    host.set_up()
    options: dict[str, Any] = {"load_in_8bit": True}
    if bits == 4:
        options = {
            "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16,
        }  # fmt: skip
    memory = Memory()
    before, begun = memory.now(), time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**options), dtype=torch.bfloat16)
    peak, seconds = memory.take(), time.perf_counter() - begun
    gc.collect()
    after, size = memory.now(), packed(model)
    return {
        "before": before, "peak_load": peak, "after_load": after, "load_seconds": seconds,
        "packed": size, "load_over_packed": (peak - before) / size,
    }  # fmt: skip


SIDES: dict[str, Callable[[Path, int], dict[str, float]]] = {"luthier": measure, "stock": measure_stock}


def child(side: str, folder: Path, bits: int) -> dict[str, float]:
    """Measured in a process of its own."""
    command = [sys.executable, __file__, "--measure", side, "--bits", str(bits), "--folder", str(folder)]
    said = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    *lines, last = said.splitlines()
    for line in lines:
        print(line)
    found = json.loads(last)
    print(f"{side}, {bits} bits: " + ", ".join(f"{k} {v:,.2f}" for k, v in found.items()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, choices=(8, 4), default=8)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is written")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint there")
    parser.add_argument("--quick", action="store_true", help="a 0.2B model, under 3 minutes")
    parser.add_argument("--measure", choices=tuple(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(SIDES[options.measure](options.folder, options.bits)))
        return
    shape = "quick" if options.quick else "full"
    folder = (options.folder or Path(tempfile.gettempdir())) / f"luthier-big-{shape}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not (folder / "config.json").is_file():
            begun = time.perf_counter()
            write(folder, shape)
            print(f"checkpoint written in {time.perf_counter() - begun:.0f} s")
        if options.quick:
            figures: dict[str, Any] = {}
            for bits in (8, 4):
                ours, stock = (child(side, folder, bits) for side in ("luthier", "stock"))
                figures |= {f"peak_{bits}bit": ours["peak"], f"load_over_packed_{bits}bit": ours["load_over_packed"]}
                figures |= {f"stock_load_over_packed_{bits}bit": stock["load_over_packed"]}
        else:
            found = child("luthier", folder, options.bits)
            figures = {**found, "bits": options.bits, "target": TARGETS[options.bits], "within": found["peak"] <= TARGETS[options.bits]}
            said = f"trainable {found['trainable']:,} of {found['parameters']:,}"
            if said != TRAINABLE:
                raise SystemExit(f"{said}, not {TRAINABLE}")
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    print(json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in figures.items()}))


if __name__ == "__main__":
    main()
