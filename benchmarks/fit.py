"""`luthier check --fit` keeps its word: what it picks trains within the limit.

    python benchmarks/fit.py [--limit 4GiB] [--quick]

Writes a Llama of 1.1 billion random weights in fp16 shards, lets `--fit` pick the best way of training it within the
limit, and trains two updates so in a fresh process, which is ended the moment its anonymous memory (RssAnon) passes the
limit. `--quick` takes 0.2 billion weights and a quarter of the limit. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from big import shards
from memory import ask, make_data, tokenizer

SHAPES = {
    False: {"hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "intermediate_size": 5632},
    True: {"hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 2816},
}
VOCABULARY = 32_000


def write(folder: Path, *, quick: bool) -> int:
    """The checkpoint, shard by shard; its number of weights."""
    import torch
    import transformers as hf
    from safetensors.torch import save_file

    config = hf.LlamaConfig(
        vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=2, eos_token_id=3, max_position_embeddings=512, **SHAPES[quick]
    )
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in hf.AutoModelForCausalLM.from_config(config).named_parameters()}
    folder.mkdir()
    index: dict[str, str] = {}
    torch.manual_seed(0)
    for number, names in enumerate(shards(shapes), 1):
        name = f"model-{number:05d}.safetensors"
        drawn = {n: torch.ones(shapes[n]).half() if len(shapes[n]) == 1 else torch.randn(shapes[n]).mul_(0.02).half() for n in names}
        save_file(drawn, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(names, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    tokenizer(VOCABULARY, "llama").save_pretrained(folder)
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.float16
    config.save_pretrained(folder)
    return sum(s.numel() for s in shapes.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", default=None, help="4GiB where not given; 1GiB with --quick")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    from luthier.recipe import load_recipe
    from luthier.workflow.memory import fit, parse_size

    limit = parse_size(given.limit or ("1GiB" if given.quick else "4GiB"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        parameters = write(folder / "model", quick=given.quick)
        make_data(folder / "rows.jsonl", kind="llama", vocabulary=VOCABULARY, words=120, count=24)
        asked = {
            "data": {"train": str(folder / "rows.jsonl"), "validation_share": 0.1, "test_share": 0.1},
            "task": "causal",
            "model": str(folder / "model"),
            "training": {"max_steps": 2, "batch_size": 4},
            "evaluation": {"baselines": [], "bootstrap": 100, "written": 0, "base_model": False},
            "output": {"folder": str(folder / "runs")},
        }
        begun = time.monotonic()
        choice = fit(load_recipe(asked), limit)
        print(
            f"{parameters:,} weights in {limit / 2**30:.2f} GiB: {' '.join(choice.overrides)}, in {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        recipe = load_recipe(asked, overrides=choice.overrides).recipe.model_dump(mode="json")
        was = ask({"what": "measure", "recipe": recipe, "limit": limit})
    error = choice.plan.needed / was["peak"] - 1
    print(f"said {choice.plan.needed / 2**20:,.0f} MiB, was {was['peak'] / 2**20:,.0f}: {error:+.1%}")
    print(json.dumps({"limit": limit, "picked": list(choice.overrides), "said": choice.plan.needed, "was": was["peak"], "trained": True}))


if __name__ == "__main__":
    main()
