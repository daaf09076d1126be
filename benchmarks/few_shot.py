"""Few-shot classification against its two rivals: banking77 (77 intents) with 8 examples of each, MiniLM.

    LUTHIER_DATA=... python benchmarks/few_shot.py [--quick] [--threads 1] [--write]

For each seed 8 rows of each class are drawn from the training file, and three ways learn from the very same rows: `task:
few_shot`; logistic regression on frozen embeddings (the baseline `frozen` of that run); ten epochs of `task:
classification`. All are scored on the whole official test file. Differences are paired: their mean with a 95% t interval
over the seeds, and one from resampling the test rows. `--quick` takes one seed; `--write` puts the table into
docs/few_shot.md. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

import luthier
from luthier.recipe import load_recipe
from luthier.workflow.dataset import dataset

HERE = Path(__file__).resolve().parents[1]
RECIPE = HERE / "recipes" / "few_shot.yaml"
ARMS = {"few_shot": "few_shot", "frozen": "logistic regression on frozen embeddings", "plain": "classification, 10 epochs"}
BEGIN, END = "<!-- arms -->", "<!-- end of arms -->"
RESAMPLES = 2000


def drawn(seed: int, folder: Path) -> tuple[Path, Path]:
    """The rows of a seed, and the test rows, as files that every way reads."""
    data = dataset(load_recipe(RECIPE, overrides=[f"training.seed={seed}"]))
    found = []
    for part in ("train", "test"):
        path = folder / f"{part}-{seed}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([r.text, data.task.labels[r.target]] for r in data.prepared.parts[part])
        found.append(path)
    return found[0], found[1]


def right(outputs: NDArray[Any], gold: NDArray[Any]) -> NDArray[np.float64]:
    """Which test rows are answered right, (n,)."""
    return (outputs.argmax(axis=1) == gold).astype(float)


def measure(seed: int, folder: Path, *, threads: str) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """Each way's hits on the test rows for one seed, and seconds."""
    train, test = drawn(seed, folder)
    recipe: dict[str, Any] = {
        "data": {"train": str(train), "test": str(test)},
        "model": {"name": "minilm"},
        "training": {"seed": seed, "threads": threads if threads == "auto" else int(threads)},
        "evaluation": {"base_model": False, "baselines": ["frozen"], "general_probe": False},
        "output": {"folder": str(folder / "runs")},
    }
    begun = time.monotonic()
    few = luthier.train(recipe | {"task": "few_shot"})
    whole = time.monotonic() - begun
    plain = luthier.train(
        recipe
        | {
            "data": {**recipe["data"], "validation": str(train)},
            "training": {**recipe["training"], "epochs": 10},
            "evaluation": {**recipe["evaluation"], "baselines": [], "restore_best": False, "every": 100_000},
        }
    )
    gold = load_file(few.folder / "predictions" / "test.safetensors")["gold"]
    hits = {
        "few_shot": right(load_file(few.folder / "predictions" / "test.safetensors")["outputs"], gold),
        "frozen": right(load_file(few.folder / "predictions" / "before.safetensors")["frozen"], gold),
        "plain": right(load_file(plain.folder / "predictions" / "test.safetensors")["outputs"], gold),
    }
    seconds = {
        "few_shot": whole,
        "few_shot, training": few.facts["progress"]["seconds"],
        "plain, training": plain.facts["progress"]["seconds"],
    }
    return hits, {name: round(value, 1) for name, value in seconds.items()}


def difference(a: list[NDArray[np.float64]], b: list[NDArray[np.float64]]) -> dict[str, Any]:
    """The accuracy of `a` minus that of `b`, seed by seed on the same test rows."""
    from scipy.stats import t

    each = np.array([x.mean() - y.mean() for x, y in zip(a, b, strict=True)])
    found: dict[str, Any] = {"mean": round(float(each.mean()), 4), "each": each.round(4).tolist()}
    if len(each) > 1:
        half = float(t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)))
        found["over_seeds"] = [round(float(each.mean()) - half, 4), round(float(each.mean()) + half, 4)]
    gaps, draw = np.mean([x - y for x, y in zip(a, b, strict=True)], axis=0), np.random.default_rng(0)
    means = [gaps[draw.integers(0, len(gaps), len(gaps))].mean() for _ in range(RESAMPLES)]
    found["over_rows"] = [round(float(v), 4) for v in np.percentile(means, [2.5, 97.5])]
    return found


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"| way | accuracy, mean of {len(found['seeds'])} seeds | few_shot minus it [95% over seeds] [95% over test rows] |",
        "|---|---|---|",
    ]
    for name, told in ARMS.items():
        gap = found["differences"].get(name)
        cell = f"{gap['mean']:+.3f} {_bounds(gap.get('over_seeds'))} {_bounds(gap['over_rows'])}" if gap else ""
        lines.append(f"| {told} | {np.mean(found['accuracy'][name]):.3f} | {cell} |")
    return "\n".join(lines)


def _bounds(pair: list[float] | None) -> str:
    return f"[{pair[0]:+.3f}, {pair[1]:+.3f}]" if pair else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--threads", default="auto", help="CPU threads")
    parser.add_argument("--write", action="store_true", help="put the table into docs/few_shot.md")
    options = parser.parse_args()
    hits: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ARMS}
    seconds: list[dict[str, float]] = []
    seeds = range(1 if options.quick else 5)
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            found, spent = measure(seed, Path(folder), threads=options.threads)
            seconds.append(spent)
            for name, values in found.items():
                hits[name].append(values)
            told = ", ".join(f"{name} {values.mean():.4f}" for name, values in found.items())
            print(f"seed {seed}: {told}; {spent['few_shot']:.0f} s", flush=True)
    result = {
        "test_rows": len(hits["few_shot"][0]),
        "seeds": list(seeds),
        "accuracy": {name: [round(float(v.mean()), 4) for v in values] for name, values in hits.items()},
        "differences": {name: difference(hits["few_shot"], hits[name]) for name in ("frozen", "plain")},
        "seconds": seconds,
    }
    print(f"\n{table(result)}\n")
    if options.write:
        page = HERE / "docs" / "few_shot.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{table(result)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
