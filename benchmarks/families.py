"""Many sets of instructions in one model against a model each: eight families of T0 with the starter model.

    LUTHIER_DATA=... python benchmarks/families.py [--quick] [--data T0] [--epochs 4]

The multitask model trains by recipes/families.yaml, all rows alike, and each single one on its family's rows alone, from the same
starter, with the same passes over the same training rows and the same test rows, which every model answers in full; none of their
passages is in training under any template. `base` is the starter as it is, `common` the commonest training answer of the row's template.
Intervals are 95%, from a bootstrap over passages, since rows about one passage are alike; differences are paired. `--data` is what
recipes/families/prepare.py takes; `--quick` takes the rows that ship with Luthier, one pass. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

import luthier
from luthier.data.rows import read
from luthier.tasks.texts import TextScores

HERE = Path(__file__).resolve().parents[1]
RECIPE = HERE / "recipes" / "families.yaml"
DRAWS = 2000
Array = NDArray[np.float64]


def tested(run: luthier.Run) -> list[dict[str, Any]]:
    """The run's answered test rows: file, line, task, reference, and what was said before and after."""
    rows = [r for r in run.lines("predictions/test.jsonl") if "written" in r]
    return [{**row, **said} for row, said in zip(rows, run.lines("predictions/samples.jsonl"), strict=True)]


def figures(texts: list[str], references: list[str], metric: str) -> Array:
    """The score of each row."""
    place = TextScores().names.index(metric)
    return TextScores().figures(texts, [[r] for r in references])[:, place]


def interval(values: Array, passages: list[str]) -> tuple[float, float, float]:
    """The mean, and where it lies when passages are drawn anew."""
    names, owner = np.unique(passages, return_inverse=True)
    sums, counts = np.bincount(owner, weights=values), np.bincount(owner)
    picked = np.random.default_rng(0).integers(0, len(names), (DRAWS, len(names)))
    low, high = np.percentile(sums[picked].sum(1) / counts[picked].sum(1), [2.5, 97.5])
    return round(float(values.mean()), 4), round(float(low), 4), round(float(high), 4)


def family(name: str, member: dict[str, Any], multi: list[dict[str, Any]], single: list[dict[str, Any]]) -> dict[str, Any]:
    """One family's figures. Raises ValueError where the two models were not asked the same."""
    mine = [r for r in multi if r["task"] == name]
    if [(r["file"], r["line"]) for r in mine] != [(r["file"], r["line"]) for r in single]:
        raise ValueError(f"{name}: the models were tested on different rows")
    source = {row.line: row.values for row in read(Path(mine[0]["file"])).rows}
    lines = {r["line"] for r in mine}
    counts: dict[str, Counter[str]] = {}
    tests = {source[line]["passage"] for line in lines}
    for values in source.values():
        if values["passage"] not in tests:
            counts.setdefault(values["template"], Counter())[values["completion"]] += 1
    gold, metric = [r["reference"] for r in mine], member["metric"]
    passages = [source[r["line"]]["passage"] for r in mine]
    said = {
        "common": [counts[source[r["line"]]["template"]].most_common(1)[0][0] for r in mine],
        "base": [r["before"] for r in mine],
        "single": [r["after"] for r in single],
        "multi": [r["after"] for r in mine],
    }
    rows = {way: figures(texts, gold, metric) for way, texts in said.items()}
    found: dict[str, Any] = {"metric": metric, "rows": len(mine), "passages": len(set(passages))}
    found |= {way: interval(values, passages) for way, values in rows.items()}
    found |= {f"multi-{way}": interval(rows["multi"] - rows[way], passages) for way in ("common", "base", "single")}
    return found


def shown(value: tuple[float, float, float], sign: str = "") -> str:
    return f"{value[0]:{sign}.3f} [{value[1]:{sign}.2f}, {value[2]:{sign}.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    recipe = yaml.safe_load(RECIPE.read_text())
    common: dict[str, Any] = {
        "model": recipe["model"],
        "curriculum": "single",
        "training": {"epochs": 1 if options.quick else options.epochs, "threads": 1},
        "evaluation": {**recipe["evaluation"], "bootstrap": 100, "general_probe": False},
    }
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        if options.quick:
            recipe["data"]["sample"] = True
        else:
            sys.path.insert(0, str(HERE / "recipes" / "families"))
            import prepare  # type: ignore[import-not-found]

            source = options.data or Path(os.environ["LUTHIER_DATA"]) / "t0_instructions" / "t0.jsonl.gz"
            prepare.main(source, Path(temporary) / recipe["data"]["name"])
            os.environ["LUTHIER_DATA"] = temporary
        output = {"folder": f"{temporary}/runs"}
        run = luthier.train({**recipe, **common, "output": {**output, "name": "multi"}})
        multi, seconds = tested(run), {"multi": run.facts["progress"]["seconds"]}
        print(f"multi: {run.facts['data']['summary']['train']} training rows, {run.facts['progress']['step']} updates", flush=True)
        found: dict[str, dict[str, Any]] = {}
        for name, member in recipe["task"]["tasks"].items():
            task = {k: v for k, v in member.items() if k not in ("data", "metric")}
            evaluation = {**common["evaluation"], "metric": member["metric"], "base_model": False}
            own = {**common, "data": {**recipe["data"], **member.get("data", {})}, "task": task, "evaluation": evaluation}
            run = luthier.train({**own, "output": {**output, "name": name}})
            seconds[name] = run.facts["progress"]["seconds"]
            found[name] = family(name, member, multi, tested(run))
            print(f"{name}: {run.facts['data']['summary']['train']} training rows, {run.facts['progress']['step']} updates", flush=True)
    print(f"\n| family | score | rows, passages | common | base | single | multi | multi - base | multi - single |\n|{'---|' * 9}")
    for name, f in found.items():
        cells = [shown(f[way]) for way in ("common", "base", "single", "multi")]
        cells += [shown(f[f"multi-{way}"], "+") for way in ("base", "single")]
        print(f"| {name} | {f['metric']} | {f['rows']}, {f['passages']} | {' | '.join(cells)} |")
    means = {way: round(float(np.mean([f[way][0] for f in found.values()])), 4) for way in ("common", "base", "single", "multi")}
    print("| mean | | | " + " | ".join(f"{v:.3f}" for v in means.values()) + " | | |\n")
    alone = sum(v for n, v in seconds.items() if n != "multi")
    print(f"trained in {seconds['multi']:.0f} s together, {alone:.0f} s one by one; {time.monotonic() - began:.0f} s in all")
    print(
        json.dumps(
            {
                "families": found,
                "means": means,
                "seconds": {n: round(v) for n, v in seconds.items()},
                "epochs": common["training"]["epochs"],
            }
        )
    )


if __name__ == "__main__":
    main()
