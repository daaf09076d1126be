"""What made training rows are worth where there are few: trec (6 classes) and tweets (3), 16 rows a class, MiniLM.

    LUTHIER_DATA=... python benchmarks/augment.py [--quick] [--seeds 10] [--tuned 2] [--write]

For each seed 16 rows of each class are drawn from the training file, and every way makes two rows of each of them (all four:
half a row by each). A logistic regression on frozen embeddings learns from the rows alone and from the rows with those that were made,
and both are scored on the same rows of the official test file (trec: 500; tweets: 1,000 drawn once). Differences are paired by seed: their
mean with a 95% t interval. With `--tuned N`, N seeds of trec are fine-tuned too (task classification, 10 epochs). Test rows are looked
at for one purpose alone: that none of their texts is made, which is asserted. Back-translation and paraphrase need a
translator or a writer, which do not come along, and are not measured. `--write` puts the tables into docs/augment.md. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

import luthier
from luthier.recipe import load_recipe
from luthier.security.artifacts import write_jsonl
from luthier.workflow import similar
from luthier.workflow.dataset import Dataset, dataset

HERE = Path(__file__).resolve().parents[1]
SHOTS, COPIES, EPOCHS = 16, 2.0, 10
TESTED = 1000
DATA: dict[str, dict[str, Any]] = {
    "trec": {"name": "trec_nltk", "train": "qc.zip/qc/train.txt", "test": "qc.zip/qc/test.txt", "format": "labelled", "label": "coarse"},
    "tweets": {"name": "tweet_sentiment_extraction", "train": "train.csv", "test": "test.csv", "label": "sentiment"},
}
ARMS: dict[str, list[dict[str, Any]]] = {
    "rows alone": [],
    "noise": [{"type": "noise", "share": COPIES}],
    "words": [{"type": "words", "share": COPIES}],
    "neighbours": [{"type": "neighbours", "share": COPIES}],
    "mixing": [{"type": "mixing", "share": COPIES}],
    "all four": [{"type": t, "share": COPIES / 4} for t in ("noise", "words", "neighbours", "mixing")],
}
ALONE = "rows alone"
BEGIN, END = "<!-- arms -->", "<!-- end of arms -->"


def drawn(name: str, seed: int, folder: Path) -> dict[str, str]:
    """The rows of a seed and all test rows, as files that every arm reads."""
    found = dataset(
        load_recipe({"data": DATA[name], "task": {"type": "few_shot", "shots": SHOTS}, "model": "minilm", "training": {"seed": seed}})
    )
    paths = {part: str(folder / f"{name}-{seed}-{part}.jsonl") for part in ("train", "test")}
    for part, path in paths.items():
        rows = found.prepared.parts[part]  # type: ignore[index]
        write_jsonl(Path(path), [{"text": r.text, "label": found.task.labels[r.target]} for r in rows])
    return paths


def grown(paths: dict[str, str], seed: int, arm: str) -> Dataset:
    """The parts of an arm; no made text stands in the test."""
    recipe = {"data": {**paths, "augment": ARMS[arm]}, "task": "few_shot", "model": "minilm", "training": {"seed": seed, "threads": 1}}
    found = dataset(load_recipe(recipe))
    train, held = found.prepared.parts["train"], {r.key for r in found.prepared.parts["test"]}
    assert not held & {r.key for r in train[len(train) - len(found.prepared.made) :]}
    return found


def frozen(name: str, seeds: range, folder: Path, embedder: Any, log: Any) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Accuracy of the logistic regression, and rows made for each row, by arm and seed."""
    accuracy: dict[str, list[float]] = {arm: [] for arm in ARMS}
    shares: dict[str, list[float]] = {arm: [] for arm in ARMS}
    test = None
    for seed in seeds:
        paths = drawn(name, seed, folder)
        vectors: dict[str, NDArray[Any]] = {}
        for arm in ARMS:
            parts = grown(paths, seed, arm).prepared
            train = parts.parts["train"]
            if test is None:
                rows = parts.parts["test"]
                places = sorted(random.Random(0).sample(range(len(rows)), min(TESTED, len(rows))))
                test = embedder.vectors([rows[i].text for i in places]), np.array([rows[i].target for i in places])
            new = list(dict.fromkeys(r.text for r in train if r.text not in vectors))
            if new:
                vectors |= dict(zip(new, embedder.vectors(new), strict=True))
            learned = LogisticRegression(max_iter=2000, C=10.0).fit(np.stack([vectors[r.text] for r in train]), [r.target for r in train])
            accuracy[arm].append(float((learned.predict(test[0]) == test[1]).mean()))
            shares[arm].append(len(parts.made) / max(1, len(train) - len(parts.made)))
        log(f"{name} seed {seed}: " + ", ".join(f"{arm} {accuracy[arm][-1]:.4f}" for arm in ARMS))
    return accuracy, shares


def tuned(name: str, seeds: range, folder: Path, log: Any) -> dict[str, list[float]]:
    """Accuracy of fine-tuning on the same rows, epochs as many for all arms."""
    accuracy: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        paths = drawn(name, seed, folder)
        for arm in ARMS:
            run = luthier.train(
                {
                    "data": {**paths, "validation": paths["test"], "augment": ARMS[arm]},
                    "model": "minilm",
                    "training": {"seed": seed, "threads": 1, "epochs": EPOCHS, "rehearsal": False},
                    # validation rows choose nothing: the last weights are kept
                    "evaluation": {"base_model": False, "baselines": [], "restore_best": False, "every": 100_000, "general_probe": False},
                    "output": {"folder": str(folder / "runs")},
                }
            )
            accuracy[arm].append(float(run.scores["methods"]["model"]["accuracy"]["value"]))
            log(f"{name} tuned, seed {seed}: {arm} {accuracy[arm][-1]:.4f}")
    return accuracy


def difference(a: list[float], b: list[float]) -> dict[str, Any]:
    """a minus b, paired by seed: mean and 95% t interval."""
    from scipy.stats import t

    gaps = np.array(a) - np.array(b)
    found: dict[str, Any] = {"mean": round(float(gaps.mean()), 4), "each": gaps.round(4).tolist()}
    if len(gaps) > 1:
        half = float(t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps)))
        found["interval"] = [round(float(gaps.mean()) - half, 4), round(float(gaps.mean()) + half, 4)]
    return found


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| data, learner | rows that learn | accuracy | minus rows alone [95% over seeds] |", "|---|---|---|---|"]
    for title, found in results.items():
        for arm in ARMS:
            gap = found["differences"].get(arm)
            bounds = gap.get("interval") if gap else None
            told = f"{gap['mean']:+.4f}" + (f" [{bounds[0]:+.4f}, {bounds[1]:+.4f}]" if bounds else "") if gap else ""
            lines.append(f"| {title} | {arm} | {np.mean(found['accuracy'][arm]):.4f} | {told} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), help="which data")
    parser.add_argument("--tuned", type=int, default=0, help="seeds of trec that are fine-tuned too")
    parser.add_argument("--write", action="store_true", help="put the table into docs/augment.md")
    options = parser.parse_args()
    seeds, begun = range(2 if options.quick else options.seeds), time.monotonic()
    embedder = similar.Embedder("minilm")
    real, similar.Embedder = similar.Embedder, lambda source: embedder  # type: ignore[assignment, misc]  # loaded once

    def log(text: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {text}", flush=True)

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in options.data:
            accuracy, shares = frozen(name, seeds, folder, embedder, log)
            results[f"{name}, frozen embeddings, {len(seeds)} seeds"] = {"accuracy": accuracy, "shares": shares}
        if options.tuned:
            shares = results[f"trec, frozen embeddings, {len(seeds)} seeds"]["shares"]
            results[f"trec, fine-tuned, {options.tuned} seeds"] = {
                "accuracy": tuned("trec", range(options.tuned), folder, log),
                "shares": shares,
            }
    for found in results.values():
        found["differences"] = {arm: difference(found["accuracy"][arm], found["accuracy"][ALONE]) for arm in ARMS if arm != ALONE}
    similar.Embedder = real  # type: ignore[misc]
    print(f"\n{table(results)}\n")
    if options.write:
        page = HERE / "docs" / "augment.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
