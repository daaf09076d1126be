"""Parts of speech, entities and trees of one treebank: a model each, and one model for all three.

    LUTHIER_DATA=../shared/data python benchmarks/annotation.py [--quick] [--threads N]

Every recipe trains with its defaults on the whole treebank; `--quick` on 600 sentences, one epoch, twice in turn. Prints what each
task won or lost by sharing a model, the seconds of training and evaluation of each run, and as its last line one JSON object:
scores, and `time_ratio`, the seconds of the run of all three over those of the three runs of one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import luthier
from luthier.workflow.events import Event, Note, Stage

RECIPES = Path(__file__).parent.parent / "recipes"
ALONE = {"pos": ("pos", "accuracy"), "entities": ("entities", "f1"), "tree": ("parsing", "las")}
TOGETHER = "annotation"


def said(event: Event) -> None:
    if isinstance(event, Stage | Note):
        print(f"  {getattr(event, 'name', '')} {getattr(event, 'detail', getattr(event, 'text', ''))}", flush=True)


def trained(recipe: str, folder: str, overrides: list[str], *, quiet: bool) -> tuple[Any, float]:
    """A run, and its seconds from reading the data to the report."""
    begun = time.perf_counter()
    path = RECIPES / f"{recipe}.yaml"
    run = luthier.train(path, overrides=[*overrides, f"output.folder={folder}"], **({} if quiet else {"listener": said}))
    return run, time.perf_counter() - begun


def score(run: Any, name: str) -> dict[str, Any]:
    return run.scores["methods"]["model"][name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    overrides = [f"training.threads={options.threads}"] if options.threads else []
    turns = 2 if options.quick else 1
    if options.quick:
        overrides += ["data.limit=600", "training.epochs=1", "evaluation.bootstrap=100"]
    seconds: dict[str, list[float]] = {r: [] for r in (*(r for r, _ in ALONE.values()), TOGETHER)}
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(turns):
            for recipe, taken in seconds.items():
                print(f"{recipe}", flush=True)
                runs[recipe], once = trained(recipe, folder, overrides, quiet=options.quick)
                taken.append(once)
        figures: dict[str, Any] = {}
        print(f"{'task':<10}{'alone':>26}{'in one model':>28}{'won or lost':>13}")
        for task, (recipe, name) in ALONE.items():
            alone, shared = score(runs[recipe], name), score(runs[TOGETHER], f"{task}.{name}")
            cells = [f"{s['value']:.4f} [{s['low']:.3f}, {s['high']:.3f}]" for s in (alone, shared)]
            print(f"{task + ' ' + name:<14}{cells[0]:>24}{cells[1]:>26}{shared['value'] - alone['value']:>+12.4f}")
            figures |= {f"{task}_{name}": round(alone["value"], 4), f"{task}_{name}_shared": round(shared["value"], 4)}
    for recipe, taken in seconds.items():
        print(f"{recipe:<12}{statistics.median(taken):>8.1f} s, {runs[recipe].facts['progress']['step']} updates")
    separate = sum(statistics.median(seconds[r]) for r, _ in ALONE.values())
    figures["time_ratio"] = round(statistics.median(seconds[TOGETHER]) / separate, 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
