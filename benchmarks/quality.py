"""What `luthier data quality` finds of wrong labels and backdoors that were planted, and what mending them gives back.

    LUTHIER_DATA=... python benchmarks/quality.py [--quick] [--parts labels,backdoors] [--fine-tune uniform,nearest] [--seeds N]

Labels: 10% of banking77's training labels are changed, to any other class (`uniform`) or to the nearest one by the mean of its
vectors (`nearest`). Reported: the share of the changed rows among the first 10% ranked; precision and recall of the findings; and the accuracy
on the official test file of a logistic regression on frozen MiniLM vectors trained on the clean rows, on the changed ones, and
on these with the first 10%, all findings, or (`sure_`) those that the command mends of itself dropped or relabelled. `recovered` is the share of
the lost accuracy that is won back, over all seeds together, with a 95% bootstrap interval over test rows. `--fine-tune` trains MiniLM
itself on the rows of seed 0, for the epochs that are inferred.

Backdoors: 2% of tweets get a trigger and another label (alternately one that is the same for all, or any other); ten triggers drawn by
chance: letters, made-up words, words that the file has once, a sign, phrases. Reported: the place of the trigger among the findings.

`--quick` takes one seed, and 3,000 tweets. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression

from luthier.workflow.similar import Embedder
from luthier.workshop.embed import embed
from luthier.workshop.quality.folds import out_of_fold
from luthier.workshop.quality.inconsistent import copies
from luthier.workshop.quality.label_errors import label_errors, suspicion, two_rounds
from luthier.workshop.quality.neighbours import NEAREST, neighbours
from luthier.workshop.quality.ngrams import TOKEN
from luthier.workshop.quality.noise import believed
from luthier.workshop.quality.triggers import triggers
from luthier.workshop.quality.worded import with_words

DATA = Path(os.environ.get("LUTHIER_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SHARE, RESAMPLES, POISONED = 0.1, 2000, 0.02
SURE = 0.9
"""The command's own --at-least."""
MENDED = [f"{which}{how}" for which in ("top_", "", "sure_") for how in ("dropped", "relabelled")]
SIGNS = "≈¤†‡§"


def rows(path: str, text: str, label: str) -> tuple[list[str], list[str]]:
    """Texts and labels of a file."""
    whole = DATA / path
    with gzip.open(whole, "rt", encoding="utf-8", newline="") if path.endswith(".gz") else whole.open(encoding="utf-8", newline="") as file:
        found = [(r[text], r[label]) for r in csv.DictReader(file) if r[text].strip()]
    return [t for t, _ in found], [x for _, x in found]


def numbered(labels: list[str], names: list[str]) -> NDArray[np.int64]:
    place = {n: i for i, n in enumerate(names)}
    return np.array([place[x] for x in labels], np.int64)


def hits(vectors: Any, gold: NDArray[np.int64], test: Any, answers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Which test rows a regression on frozen vectors answers right."""
    return (LogisticRegression(C=10, max_iter=100).fit(vectors, gold).predict(test) == answers).astype(float)


def recovered(clean: Any, noisy: Any, mended: Any) -> dict[str, Any]:
    """The share of the lost accuracy that is won back; arrays (seeds, test rows)."""
    lost, won = np.mean(clean - noisy, axis=0), np.mean(mended - noisy, axis=0)
    draw, n = np.random.default_rng(0), lost.size
    shares = []
    for _ in range(RESAMPLES):
        chosen = draw.integers(0, n, n)
        shares.append(won[chosen].mean() / max(lost[chosen].mean(), 1e-9))
    low, high = np.quantile(shares, [0.025, 0.975])
    return {
        "accuracy": round(float(mended.mean()), 4),
        "recovered": round(float(won.mean() / lost.mean()), 3),
        "interval": [round(float(low), 2), round(float(high), 2)],
    }


def labels_part(seeds: int, fine: list[str]) -> dict[str, Any]:
    texts, given = rows("banking77/train.csv.gz", "text", "category")
    asked, answers = rows("banking77/test.csv", "text", "category")
    names = sorted(set(given))
    gold, right = numbered(given, names), numbered(answers, names)
    embedder = Embedder("minilm")
    vectors, test = embed(texts, model=embedder).vectors, embed(asked, model=embedder).vectors
    groups, features = copies(texts, neighbours(vectors, k=NEAREST)), with_words(texts, vectors)
    centres = np.stack([vectors[gold == k].mean(axis=0) for k in range(len(names))])
    like = centres @ centres.T
    np.fill_diagonal(like, -1)
    clean = hits(vectors, gold, test, right)
    count = round(SHARE * len(gold))
    found: dict[str, Any] = {"rows": len(gold), "clean": round(float(clean.mean()), 4)}
    arms: dict[str, tuple[list[str], NDArray[np.int64]]] = {"clean": (texts, gold)}
    for kind in ("uniform", "nearest"):
        figures: dict[str, list[Any]] = {n: [] for n in ("top", "precision", "recall", "found", "noisy", *MENDED)}
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            changed = rng.choice(len(gold), count, replace=False)
            labels = gold.copy()
            labels[changed] = (
                (gold[changed] + rng.integers(1, len(names), count)) % len(names)
                if kind == "uniform"
                else like.argmax(axis=1)[gold[changed]]
            )
            wrong = labels != gold
            chances = two_rounds(features, labels, classes=len(names), groups=groups, seed=seed)
            assert chances is not None, "the vectors say much of the labels"
            beliefs = believed(labels, chances)
            first = np.argsort(-suspicion(labels, beliefs), kind="stable")[:count]
            findings = label_errors(labels, chances, names)
            flagged = np.array([f.rows[0] for f in findings])
            best = beliefs.argmax(axis=1)
            figures["top"].append(wrong[first].sum() / count)
            figures["precision"].append(wrong[flagged].mean())
            figures["recall"].append(wrong[flagged].sum() / count)
            figures["found"].append(len(flagged))
            figures["noisy"].append(hits(vectors, labels, test, right))
            sure = np.array([f.rows[0] for f in findings if f.score >= SURE])
            for name, chosen in (("top_", first), ("", flagged), ("sure_", sure)):
                kept = np.setdiff1d(np.arange(len(gold)), chosen)
                other = labels.copy()
                other[chosen] = best[chosen]
                figures[f"{name}dropped"].append(hits(vectors[kept], labels[kept], test, right))
                figures[f"{name}relabelled"].append(hits(vectors, other, test, right))
                if kind in fine and seed == 0 and not name:
                    arms |= {
                        f"{kind} noisy": (texts, labels),
                        f"{kind} dropped": ([texts[i] for i in kept], labels[kept]),
                        f"{kind} relabelled": (texts, other),
                    }
            print(f"{kind}, seed {seed}: " + ", ".join(f"{n} {np.mean(v[-1]):.4f}" for n, v in figures.items()), flush=True)
        noisy = np.stack(figures["noisy"])
        whole = np.broadcast_to(clean, noisy.shape)
        found[kind] = {
            **{n: round(float(np.mean(figures[n])), 4) for n in ("top", "precision", "recall", "found")},
            "noisy": round(float(noisy.mean()), 4),
            **{n: recovered(whole, noisy, np.stack(figures[n])) for n in MENDED},
        }  # fmt: skip
    if fine:
        found["fine_tuned"] = fine_tuned(arms, names, (asked, answers))
    return found


def fine_tuned(arms: dict[str, Any], names: list[str], test: tuple[list[str], list[str]]) -> dict[str, Any]:
    """MiniLM trained on each set of rows, and what mending gives back."""
    import luthier

    right: dict[str, NDArray[np.float64]] = {}
    with tempfile.TemporaryDirectory() as place:
        for arm, (texts, gold) in arms.items():
            files = {"train": (texts, [names[i] for i in gold]), "test": test}
            for part, pairs in files.items():
                with (Path(place) / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerows([["text", "label"], *zip(*pairs, strict=True)])
            run = luthier.train(
                {
                    "data": {"train": f"{place}/train.csv", "test": f"{place}/test.csv", "validation_share": 0.02},
                    "model": {"name": "minilm"},
                    "training": {"seed": 0},
                    "evaluation": {"base_model": False, "baselines": [], "general_probe": False, "restore_best": False, "every": 100_000},
                    "output": {"folder": f"{place}/runs"},
                }
            )  # fmt: skip
            answered = load_file(run.folder / "predictions" / "test.safetensors")
            right[arm] = (answered["outputs"].argmax(axis=1) == answered["gold"]).astype(float)
            print(f"fine-tuned on {arm}: {right[arm].mean():.4f}", flush=True)
    told: dict[str, Any] = {"clean": round(float(right["clean"].mean()), 4)}
    for kind in dict.fromkeys(arm.split()[0] for arm in arms if arm != "clean"):
        pair = right["clean"][None], right[f"{kind} noisy"][None]
        told[kind] = {
            "noisy": round(float(pair[1].mean()), 4),
            **{n: recovered(*pair, right[f"{kind} {n}"][None]) for n in ("dropped", "relabelled")},
        }
    return told


def drawn_triggers(texts: list[str], seed: int) -> list[str]:
    """Ten: letters, made-up words, words that the file has once, a sign, phrases of two."""
    draw = random.Random(seed)
    counts = Counter(w for t in texts for w in TOKEN.findall(t.casefold()))
    once = [w for w, c in counts.items() if c == 1 and w.isascii() and w.isalpha() and 4 <= len(w) <= 9]

    def letters(size: int) -> str:
        return "".join(draw.choice("bcdfghjklmnpqrstvwxz") for _ in range(size))

    def made_up() -> str:
        return "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(3))

    found = [letters(2), letters(3), made_up(), made_up(), draw.choice(once), draw.choice(once), draw.choice(once), draw.choice(SIGNS)]
    return [*found, f"{draw.choice(once)} {draw.choice(once)}", f"{letters(2)} {letters(2)}"]


def backdoors_part(tweets: int | None, seed: int = 0) -> dict[str, Any]:
    texts, given = rows("tweet_sentiment_extraction/train.csv.gz", "text", "sentiment")
    texts, given = texts[:tweets], given[:tweets]
    names = sorted(set(given))
    gold = numbered(given, names)
    embedder = Embedder("minilm")
    clean = embed(texts, model=embedder).vectors
    count = round(POISONED * len(texts))
    found = []
    for number, trigger in enumerate(drawn_triggers(texts, seed)):
        draw = random.Random(seed * 100 + number)
        target = number % 2 == 0
        aim = draw.randrange(len(names))
        able = [i for i in range(len(texts)) if not target or gold[i] != aim]
        poisoned, labels = list(texts), gold.copy()
        chosen = draw.sample(able, count)
        for i in chosen:
            words = texts[i].split()
            words.insert(draw.randrange(len(words) + 1), trigger)
            poisoned[i] = " ".join(words)
            labels[i] = aim if target else (gold[i] + draw.randrange(1, len(names))) % len(names)
        vectors = clean.copy()
        vectors[chosen] = embed([poisoned[i] for i in chosen], model=embedder).vectors
        begun = time.monotonic()
        groups = copies(poisoned, neighbours(vectors, k=NEAREST))
        chances = out_of_fold(vectors, labels, classes=len(names), groups=groups)
        findings = triggers(poisoned, labels, vectors, chances, names)
        place = next(
            (n for n, f in enumerate(findings, 1) if len(set(f.rows) & set(chosen)) >= 0.9 * count and len(f.rows) <= 1.2 * count), None
        )
        bits = [round(f.score, 1) for f in findings[:3]]
        how = f"all {names[aim]}" if target else "any other"
        found.append({"trigger": trigger, "label": how, "place": place, "findings": len(findings), "bits": bits})
        print(f"trigger {trigger!r}, {how}: place {place} of {len(findings)}, bits {bits}, {time.monotonic() - begun:.0f} s", flush=True)
    return {
        "tweets": len(texts),
        "rows": count,
        "found_in_20": sum(f["place"] is not None and f["place"] <= 20 for f in found),
        "triggers": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--parts", default="labels,backdoors")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tweets", type=int, default=None, help="of these; all where not given")
    parser.add_argument("--fine-tune", default="", metavar="uniform,nearest")
    options = parser.parse_args()
    begun = time.monotonic()
    result: dict[str, Any] = {}
    if "labels" in options.parts:
        result["labels"] = labels_part(
            1 if options.quick else options.seeds, [kind for kind in ("uniform", "nearest") if kind in options.fine_tune]
        )
    if "backdoors" in options.parts:
        result["backdoors"] = backdoors_part(3000 if options.quick else options.tweets)
    print(json.dumps({**result, "seconds": round(time.monotonic() - begun)}))


if __name__ == "__main__":
    main()
