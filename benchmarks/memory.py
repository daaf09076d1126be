"""The memory plan against what training takes.

    python benchmarks/memory.py [--quick | --growth]

Random-weight models of 20 to 150 million parameters (BERT, Llama and T5 shapes), each trained for ten updates by
`luthier train` in a fresh process whose anonymous memory (RssAnon of /proc/self/status) is sampled every few
milliseconds; and, in another fresh process, the peak that `luthier check` foretells for the same recipe. `--quick`
takes four of the 24 cases. `--growth` measures the first case over 60 updates instead, with the few compiled kernels that
Luthier keeps and with oneDNN's usual thousand. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHAPES: dict[str, dict[str, Any]] = {
    "bert-small": {"kind": "bert", "vocabulary": 12_000, "width": 384, "layers": 8},
    "bert-base": {"kind": "bert", "vocabulary": 30_000, "width": 768, "layers": 12},
    "llama-small": {"kind": "llama", "vocabulary": 16_000, "width": 512, "layers": 6},
    "llama-base": {"kind": "llama", "vocabulary": 32_000, "width": 768, "layers": 14},
    "t5-small": {"kind": "t5", "vocabulary": 16_000, "width": 512, "layers": 6},
}
# shape, method, precision, examples an update, words a text, other settings; the first four are the quick ones
CASES: list[tuple[str, Any, str, int, int, dict[str, Any]]] = [
    ("bert-small", "full", "fp32", 16, 60, {}),
    ("llama-small", "lora", "bf16", 8, 120, {}),
    ("t5-small", "full", "fp32", 8, 80, {}),
    ("llama-base", "lora", "fp32", 4, 300, {"checkpointing": True}),
    ("bert-base", "bitfit", "fp32", 8, 100, {}),
    ("llama-base", "full", "fp32", 4, 200, {}),
    ("llama-small", "full", "bf16", 8, 200, {}),
    ("bert-base", {"type": "freeze", "layers": 6, "trunk": "computed"}, "fp32", 16, 60, {}),
    ("bert-small", "lora", "fp32", 32, 100, {}),
    ("bert-small", "full", "bf16", 16, 200, {}),
    ("bert-small", {"type": "freeze", "head_only": True, "trunk": "computed"}, "fp32", 16, 60, {}),
    ("bert-base", "full", "fp32", 8, 100, {}),
    ("bert-base", "full", "bf16", 8, 100, {}),
    ("bert-base", "lora", "bf16", 16, 100, {}),
    ("bert-base", "ia3", "fp32", 8, 60, {}),
    ("llama-small", "full", "fp32", 8, 200, {}),
    ("llama-small", "lora", "fp32", 16, 200, {"max_tokens": 1024}),
    ("llama-small", {"type": "freeze", "layers": 3, "trunk": "computed"}, "bf16", 8, 200, {}),
    ("llama-small", "norms", "fp32", 8, 100, {"checkpointing": True}),
    ("llama-base", "lora", "bf16", 4, 200, {}),
    ("llama-base", "full", "bf16", 4, 200, {"checkpointing": True}),
    ("t5-small", "lora", "fp32", 8, 80, {}),
    ("t5-small", "full", "bf16", 16, 80, {}),
    ("t5-small", "full", "fp32", 16, 120, {"checkpointing": True}),
]
QUICK = 4
UPDATES = 10


def anonymous() -> int:
    """Bytes of this process that no file holds."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon"))


def make_model(folder: Path, *, kind: str, vocabulary: int, width: int, layers: int) -> None:
    import torch
    import transformers as hf

    torch.manual_seed(0)
    heads = width // 64
    if kind == "bert":
        model: Any = hf.BertModel(
            hf.BertConfig(
                vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width
            )
        )
    elif kind == "llama":
        model = hf.LlamaForCausalLM(
            hf.LlamaConfig(
                vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads // 2,
                intermediate_size=3 * width, pad_token_id=0, bos_token_id=2, eos_token_id=3, max_position_embeddings=512, tie_word_embeddings=True,
            )
        )  # fmt: skip
    else:
        model = hf.T5ForConditionalGeneration(
            hf.T5Config(
                vocab_size=vocabulary, d_model=width, d_kv=64, d_ff=4 * width, num_layers=layers, num_heads=heads,
                pad_token_id=0, eos_token_id=3, decoder_start_token_id=0,
            )
        )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer(vocabulary, kind).save_pretrained(folder)


def tokenizer(vocabulary: int, kind: str) -> Any:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {w: i for i, w in enumerate([*special, *(f"w{i}" for i in range(vocabulary - len(special)))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "bert":
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        bos_token="[CLS]", eos_token="[SEP]", model_max_length=512,
    )  # fmt: skip


def make_data(path: Path, *, kind: str, vocabulary: int, words: int, count: int) -> None:
    draw = random.Random(0)

    def text(n: int) -> str:
        return " ".join(f"w{draw.randrange(vocabulary - 5)}" for _ in range(n))

    rows: list[dict[str, str]] = []
    for i in range(count):
        size = draw.randint(words // 2, words)
        row = {"text": text(size)}
        if kind == "bert":
            row["label"] = f"l{i % 3}"
        if kind == "t5":
            row["target"] = text(size // 2)
        rows.append(row)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def recipe(case: tuple[str, Any, str, int, int, dict[str, Any]], folder: Path) -> dict[str, Any]:
    shape, method, precision, batch, words, other = case
    kind = SHAPES[shape]["kind"]
    model, data = folder / shape, folder / f"{shape}-{words}-{batch}.jsonl"
    if not model.is_dir():
        make_model(model, **SHAPES[shape])
    if not data.is_file():
        make_data(data, kind=kind, vocabulary=SHAPES[shape]["vocabulary"], words=words, count=batch * (UPDATES + 3))
    return {
        "data": {"train": str(data), "validation_share": 0.1, "test_share": 0.1} | ({"label": "target"} if kind == "t5" else {}),
        "task": {"bert": "classification", "llama": "causal", "t5": "text2text"}[kind],
        "model": str(model),
        "method": method,
        "training": {"max_steps": UPDATES, "epochs": 9, "batch_size": batch, "precision": precision, **other},
        "evaluation": {"baselines": [], "bootstrap": 100, "written": 0},
        "output": {"folder": str(folder / "runs")},
    }


def worker(order: dict[str, Any]) -> dict[str, Any]:
    """In a fresh process: the prediction, or the measured peak."""
    if order["what"] == "predict":
        from luthier.recipe import load_recipe
        from luthier.workflow.memory import memory

        begun = time.monotonic()
        plan = memory(load_recipe(order["recipe"]))
        return {"peak": plan.peak, "phase": plan.phase, "phases": plan.peaks, "seconds": time.monotonic() - begun}
    peak, ended, stage = [0], threading.Event(), [""]
    phases: dict[str, int] = {}

    def watch() -> None:
        while not ended.wait(0.004):
            now = anonymous()
            peak[0] = max(peak[0], now)
            phases[stage[0]] = max(phases.get(stage[0], 0), now)
            if now > order.get("limit", 1 << 60):
                os._exit(77)

    import luthier
    from luthier.workflow.events import Stage

    def listen(event: Any) -> None:
        if isinstance(event, Stage):
            stage[0] = event.name

    threading.Thread(target=watch, daemon=True).start()
    luthier.train(order["recipe"], listener=listen)
    ended.set()
    return {"peak": peak[0], "phases": phases}


def ask(order: dict[str, Any], environment: dict[str, str] | None = None) -> dict[str, Any]:
    env = os.environ | (environment or {})
    done = subprocess.run([sys.executable, __file__, "--worker"], input=json.dumps(order), capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{order['what']} failed ({done.returncode}): {done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(cases: list[Any], folder: Path) -> dict[str, Any]:
    errors: list[float] = []
    for case in cases:
        made = recipe(case, folder)
        said, was = ask({"what": "predict", "recipe": made}), ask({"what": "measure", "recipe": made})
        shutil.rmtree(folder / "runs")
        error = said["peak"] / was["peak"] - 1
        errors.append(error)
        name = case[1] if isinstance(case[1], str) else case[1]["type"]
        line = f"{case[0]:<12} {name:<8} {case[2]} {case[3]:>3} x {case[4]:<4} {json.dumps(case[5]) if case[5] else '':<24}"
        print(f"{line} said {said['peak'] / 2**20:7,.0f} MiB ({said['phase']}), was {was['peak'] / 2**20:7,.0f}: {error:+.1%}", flush=True)
        if os.environ.get("PHASES"):
            for side in (said, was):
                print("      ", {k: round(v / 2**20) for k, v in side["phases"].items()}, round(side.get("seconds", 0), 1))
    return {
        "median_error": round(statistics.median(map(abs, errors)), 4),
        "worst_error": round(max(map(abs, errors)), 4),
        "worst_under": round(max(0.0, -min(errors)), 4),
        "cases": len(errors),
    }


def growth(folder: Path) -> dict[str, Any]:
    """Peaks of a longer training, whose batches have ever new sizes."""
    made = recipe(CASES[0], folder)
    made["training"] |= {"max_steps": 60, "epochs": 60}
    usual = dict.fromkeys(("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"), "1024")
    found = {}
    for name, environment in (("few_kernels_mib", {}), ("usual_kernels_mib", usual)):
        found[name] = round(ask({"what": "measure", "recipe": made}, environment)["peak"] / 2**20)
        print(f"{name}: {found[name]:,}", flush=True)
    return found | {"ratio": round(found["few_kernels_mib"] / found["usual_kernels_mib"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(worker(json.loads(sys.stdin.read()))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if given.growth:
            print(json.dumps(growth(Path(folder))))
            return
        print(json.dumps(compare(CASES[:QUICK] if given.quick else CASES, Path(folder))))


if __name__ == "__main__":
    main()
