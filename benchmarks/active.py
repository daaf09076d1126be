"""Active learning on banking77 (77 intents): what each way of picking the next rows to label is worth against picking by chance.

    LUTHIER_DATA=... python benchmarks/active.py [--quick] [--model minilm] [--budget 800] [--batch 40] [--write]

The training file plays the annotator. For each seed all ways begin with the same rows, drawn by chance, and then ask for a batch at
a time; after each, the linear model is fitted anew and scored on the whole official test file. The figure is the area under
the curve of accuracy by labels, over the labels that were asked for: the mean accuracy while labelling. Differences to chance are
paired: over the seeds with a 95% t interval, and by resampling the test rows. The vectors are computed once for all of it. `--quick`
takes one seed; `--write` puts the table into docs/labelling.md. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.rows import read
from luthier.workshop.embed import embed
from luthier.workshop.labelling.learner import fit
from luthier.workshop.labelling.picking import STRATEGIES, Round, pick

HERE = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- strategies -->", "<!-- end of strategies -->"
RESAMPLES = 2000
Array = NDArray[Any]


def rows(name: str) -> tuple[list[str], list[str]]:
    """Texts and classes of a file of banking77."""
    held = read(Path(os.environ["LUTHIER_DATA"]) / "banking77" / name).rows
    return [str(r.values["text"]) for r in held], [str(r.values["category"]) for r in held]


def course(
    strategy: str, seed: int, train: Array, labels: list[str], test: Array, gold: list[str], sizes: list[int]
) -> tuple[Array, list[float]]:
    """Which test rows are right after each number of labels, (sizes, test rows), and the seconds of each round: fit and pick."""
    known = {int(i): labels[i] for i in np.random.default_rng(seed).permutation(len(train))[: sizes[0]]}
    draw, right, seconds = np.random.default_rng([seed, 1]), [], []
    for size in sizes:
        begun = time.monotonic()
        if more := size - len(known):
            left = np.array([i for i in range(len(train)) if i not in known])
            chosen = pick(strategy, Round(train, known, left, draw), more)
            seconds.append(time.monotonic() - begun)
            known |= {i: labels[i] for i in chosen}
        taught = list(known)
        model = fit(train[taught], [known[i] for i in taught])
        best = model.probabilities(test).argmax(axis=1)
        right.append([model.classes[b] == g for b, g in zip(best, gold, strict=True)])
    return np.array(right, dtype=float), seconds


def area(values: Array, sizes: list[int]) -> Array:
    """The mean height of curves over the labels asked for: (sizes, ...) -> (...)."""
    return np.asarray(np.trapezoid(values, sizes, axis=0) / (sizes[-1] - sizes[0]))


def difference(a: list[Array], b: list[Array]) -> dict[str, Any]:
    """Areas of `a` minus those of `b`, by test row, seed by seed."""
    from scipy.stats import t

    each = np.array([(x - y).mean() for x, y in zip(a, b, strict=True)])
    found: dict[str, Any] = {"mean": round(float(each.mean()), 4), "each": each.round(4).tolist()}
    if len(each) > 1:
        half = float(t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)))
        found["over_seeds"] = [round(float(each.mean()) - half, 4), round(float(each.mean()) + half, 4)]
    gaps, draw = np.mean([x - y for x, y in zip(a, b, strict=True)], axis=0), np.random.default_rng(0)
    means = [gaps[draw.integers(0, len(gaps), len(gaps))].mean() for _ in range(RESAMPLES)]
    found["over_rows"] = [round(float(v), 4) for v in np.percentile(means, [2.5, 97.5])]
    return found


def reached(curve: Array, goal: float, sizes: list[int]) -> float | None:
    """How many labels a mean curve needs for an accuracy; None where it does not get there."""
    above = np.flatnonzero(curve >= goal)
    if not len(above):
        return None
    i = int(above[0])
    if i == 0:
        return float(sizes[0])
    return float(np.interp(goal, curve[i - 1 : i + 1], sizes[i - 1 : i + 1]))


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    least = found["sizes"][-1]
    lines = [
        f"| `--pick` | area | minus `random` [95% over seeds] [95% over test rows] | accuracy at {least} | labels for what `random` has at {least} |",
        "|---|---|---|---|---|",
    ]
    for name in sorted(found["area"], key=lambda n: -float(np.mean(found["area"][n]))):
        gap = found["differences"].get(name)
        cell = f"{gap['mean']:+.4f} {_bounds(gap.get('over_seeds'))} {_bounds(gap['over_rows'])}" if gap else ""
        need = found["labels_for_random"][name]
        lines.append(
            f"| `{name}` | {np.mean(found['area'][name]):.4f} | {cell} | {found['curves'][name][-1]:.3f} | {need:.0f} |"
            if need
            else f"| `{name}` | {np.mean(found['area'][name]):.4f} | {cell} | {found['curves'][name][-1]:.3f} | not reached |"
        )
    return "\n".join(lines)


def _bounds(pair: list[float] | None) -> str:
    return f"[{pair[0]:+.4f}, {pair[1]:+.4f}]" if pair else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--model", default="minilm", help="whose vectors")
    parser.add_argument("--budget", type=int, default=800, help="labels at the end")
    parser.add_argument("--batch", type=int, default=40, help="labels at a time")
    parser.add_argument("--start", type=int, default=80, help="labels at the beginning, drawn by chance")
    parser.add_argument("--write", action="store_true", help="put the table into docs/labelling.md")
    options = parser.parse_args()
    (texts, labels), (asked, gold) = rows("train.csv.gz"), rows("test.csv")
    begun = time.monotonic()
    train, test = (embed(t, model=options.model) for t in (texts, asked))
    print(f"vectors: {train.computed + test.computed} computed in {time.monotonic() - begun:.0f} s", flush=True)
    sizes = [*range(options.start, options.budget, options.batch), options.budget]
    hits: dict[str, list[Array]] = {name: [] for name in STRATEGIES}
    spent: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    seeds = range(1 if options.quick else 5)
    for seed in seeds:
        for name in STRATEGIES:
            right, seconds = course(name, seed, train.vectors, labels, test.vectors, gold, sizes)
            hits[name].append(right)
            spent[name] += seconds
        print(f"seed {seed}: " + ", ".join(f"{n} {area(h[-1].mean(axis=1), sizes):.4f}" for n, h in hits.items()), flush=True)
    areas = {name: [area(h, sizes) for h in held] for name, held in hits.items()}
    curves = {name: np.mean([h.mean(axis=1) for h in held], axis=0) for name, held in hits.items()}
    goal = float(curves["random"][-1])
    result = {
        "train_rows": len(texts),
        "test_rows": len(asked),
        "seeds": list(seeds),
        "sizes": sizes,
        "vectors_computed": train.computed + test.computed,
        "area": {name: [round(float(a.mean()), 4) for a in held] for name, held in areas.items()},
        "differences": {name: difference(held, areas["random"]) for name, held in areas.items() if name != "random"},
        "curves": {name: curve.round(4).tolist() for name, curve in curves.items()},
        "labels_for_random": {name: reached(curve, goal, sizes) for name, curve in curves.items()},
        "seconds_a_round": {name: round(float(np.median(s)), 3) for name, s in spent.items()},
    }
    print(f"\n{table(result)}\n")
    if options.write:
        page = HERE / "docs" / "labelling.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{table(result)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
