"""Five new classes for a run that learned ten, against a training on all fifteen at once.

    python benchmarks/continual.py [--quick]

The first fifteen intents of banking77 by name, MiniLM, the published test rows (40 an intent, asked among all fifteen). One run
learns ten intents; `luthier continue` gives it the rows of five more, with its default share of replayed rows. Another run
learns all fifteen together; each training has four epochs. `forgetful` goes on without replay. The difference is paired row by row; its interval is a
bootstrap over test rows, averaged over the seeds. Needs $LUTHIER_DATA/banking77. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
OLD, ALL = 10, 15
SEEDS, RESAMPLES = 3, 2000


def read(path: Path) -> list[dict[str, str]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))


def write(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "category"])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def files(folder: Path) -> dict[str, str]:
    """Training and test files of the old classes, the new ones, and all."""
    source = Path(os.environ["LUTHIER_DATA"]) / "banking77"
    train, test = read(source / "train.csv.gz"), read(source / "test.csv")
    names = sorted({r["category"] for r in train})[:ALL]
    parts = {"old": names[:OLD], "new": names[OLD:], "all": names}
    return {
        f"{part}.{side}": write(folder / f"{part}-{side}.csv", [r for r in rows if r["category"] in chosen])
        for part, chosen in parts.items()
        for side, rows in (("train", train), ("test", test))
    }


def errors(run: Any) -> dict[tuple[str, str], float]:
    """Whether each test row was answered wrongly."""
    return {(row["key"], str(row["target"])): row["error"] for row in run.lines("predictions/test.jsonl")}


def measure(folder: Path, seed: int, *, quick: bool) -> dict[str, dict[tuple[str, str], float]]:
    """The errors of each way, and of what it began with."""
    import luthier
    from luthier.workflow.train import continue_run

    paths, epochs = files(folder), 3 if quick else 4

    def recipe(part: str) -> dict[str, Any]:
        return {
            "data": {"train": paths[f"{part}.train"], "test": paths[f"{part}.test"], "text": "text", "label": "category"},
            "model": "minilm",
            "training": {"seed": seed, "threads": 1, "epochs": epochs},
            "evaluation": {"baselines": [], "base_model": False, "general_probe": False, "bootstrap": 100},
            "output": {"folder": str(folder / "runs"), "name": f"{part}-{seed}"},
        }

    first = luthier.train(recipe("old"))
    onward = {"data": paths["new.train"], "epochs": epochs, "overrides": [f"data.test={paths['new.test']}"]}
    runs = {"all_at_once": luthier.train(recipe("all")), "continued": continue_run(first, **onward)}
    if not quick:
        runs["forgetful"] = continue_run(first, **onward, replay=0.0)
    for name, run in {"old": first, **runs}.items():
        score = run.scores["methods"]["model"]["accuracy"]["value"]
        probe = {n: (p["base"]["accuracy"]["value"], p["model"]["accuracy"]["value"]) for n, p in run.scores["probes"].items()}
        print(seed, name, f"{score:.4f}", probe, f"{run.facts['progress']['seconds']:.0f} s", flush=True)
    return {name: errors(run) for name, run in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one seed, three epochs")
    quick = parser.parse_args().quick
    found: dict[str, list[dict[tuple[str, str], float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(1 if quick else SEEDS):
            folder = Path(name) / str(seed)
            folder.mkdir()
            for way, wrong in measure(folder, seed, quick=quick).items():
                found.setdefault(way, []).append(wrong)
    rows = sorted(found["continued"][0])
    assert all(sorted(wrong) == rows for ways in found.values() for wrong in ways), "every way is asked the same rows"
    right = {way: 1 - np.array([[wrong[row] for row in rows] for wrong in ways]).mean(0) for way, ways in found.items()}
    difference = right["continued"] - right["all_at_once"]
    draws = np.random.default_rng(0).integers(len(rows), size=(RESAMPLES, len(rows)))
    low, high = np.quantile(difference[draws].mean(1), [0.025, 0.975])
    result = {way: round(float(values.mean()), 4) for way, values in right.items()}
    result |= {"difference": round(float(difference.mean()), 4), "interval": [round(float(low), 4), round(float(high), 4)]}
    print(json.dumps({**result, "rows": len(rows), "seeds": len(found["continued"])}))


if __name__ == "__main__":
    main()
