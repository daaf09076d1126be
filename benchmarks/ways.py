"""Ways to move weights, side by side: symptom2disease (22 classes, 852 training texts) with MiniLM.

    LUTHIER_DATA=... python benchmarks/ways.py [--quick] [--write]

Each way trains by recipes/symptoms.yaml for ten passes with its own inferred learning rate, on the same split, and is scored on the
same held-out rows, with 95% bootstrap intervals. `learned` is the size of what is saved for it alone: adapters, or
the whole model where the weights themselves moved. `--quick` trains on one pass; `--write` puts the table into
docs/methods.md. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import luthier

HERE = Path(__file__).resolve().parents[1]
WAYS: dict[str, dict[str, Any]] = {
    "full": {"type": "full"},
    "lora, rank 16": {"type": "lora", "rank": 16},
    "ia3": {"type": "ia3"},
    "bitfit": {"type": "bitfit"},
    "norms": {"type": "norms"},
    "freeze half": {"type": "freeze", "layers": 3},
    "head only": {"type": "freeze", "head_only": True},
    "prompt, 20 tokens": {"type": "prompt"},
}
BEGIN, END = "<!-- ways -->", "<!-- end of ways -->"


def measure(method: dict[str, Any], folder: Path, *, quick: bool) -> dict[str, Any]:
    """Train one way and say what came of it."""
    overrides = [f"method={json.dumps(method)}", f"output.folder={folder}", "evaluation.baselines=[]", "evaluation.base_model=false"]
    run = luthier.train(HERE / "recipes" / "symptoms.yaml", overrides=[*overrides, f"training.epochs={1 if quick else 10}"])
    score, facts = run.scores["methods"]["model"]["accuracy"], run.facts
    return {
        **{k: round(score[k], 4) for k in ("value", "low", "high")},
        "rows": run.scores["test_rows"],
        "trainable": facts["trainable"],
        "share": facts["trainable"] / facts["parameters"],
        "bytes": sum(p.stat().st_size for p in run.model.glob("*.safetensors")),
        "rate": facts["plan"]["learning_rate"],
        "seconds": round(facts["progress"]["seconds"], 1),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = ["| way | accuracy [95% interval] | weights that move | learned | learning rate |", "|---|---|---|---|---|"]
    for name, f in found.items():
        size = f"{f['bytes'] / 2**20:.1f} MiB" if f["bytes"] >= 2**19 else f"{f['bytes'] / 2**10:.0f} KiB"
        share = f"{f['trainable']:,} ({f['share']:.2%})"
        lines.append(f"| {name} | {f['value']:.3f} [{f['low']:.3f}, {f['high']:.3f}] | {share} | {size} | {f['rate']:.0e} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one pass over the rows, and four ways")
    parser.add_argument("--write", action="store_true", help="put the table into docs/methods.md")
    options = parser.parse_args()
    ways = {n: WAYS[n] for n in ("full", "lora, rank 16", "bitfit", "freeze half")} if options.quick else WAYS
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, method in ways.items():
            found[name] = measure(method, Path(folder), quick=options.quick)
            print(f"{name}: {found[name]['value']:.3f} in {found[name]['seconds']} s", flush=True)
    print(f"\n{table(found)}\n")
    if options.write:
        page = HERE / "docs" / "methods.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(json.dumps({"rows": next(iter(found.values()))["rows"], "ways": found}))


if __name__ == "__main__":
    main()
