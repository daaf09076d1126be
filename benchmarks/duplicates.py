"""Near duplicates and leaks that were planted in real texts: how many are found, how many that are found are none, how fast.

    LUTHIER_DATA=../shared/data python benchmarks/duplicates.py [--quick] [--rows 100000] [--parts near,symptoms,passages]

`near`: rows of 20 to 45 words from classic books, to which a twentieth is added that repeats another row in other case, in other
punctuation, with two pairs of words exchanged, or cut off by up to 15%. What ought to be found are these pairs, and all others whose
words have a Jaccard similarity of 0.8 (searched exactly, with a prefix filter). In a process of its own, with its highest memory.

`symptoms`: symptom2disease, shared out by `luthier data split`. Its exact duplicates; how many of them stand on two sides; then 100 of its test
rows, written otherwise, go into the rows for training: changed in case and punctuation, with words exchanged, with words replaced
(a list of everyday ones), and with sentences turned about and replaced words. Reported by kind: how many `leaks` finds by words, and how many
with `--close` too; and of the training rows that nobody planted, how many these settings call a leak.

`passages`: the T0 prompts, of which many ask about the same passage: of the runs of 40 words that rows share (one in 32, drawn by its hash;
what stands in a hundredth of the rows is an instruction), how many stand on two sides of a split, and of one by chance.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

DATA = Path(os.environ.get("LUTHIER_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
THRESHOLD, CLOSE = 0.8, 0.9
PASSAGE = 40
"""Words in a row that two rows share only where they have a passage in common."""
KINDS = ("case", "punctuation", "exchanged", "cut")

# ── near duplicates among many ─────────────────────────────────────────────────────────────────────


def book_words() -> list[str]:
    found: list[str] = []
    for path in sorted(p for p in (DATA / "classic_books").rglob("*") if p.is_file() and p.name != "SOURCE.md"):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found += raw.decode("utf-8", "replace").split()
    return found


def planted_rows(count: int, seed: int) -> tuple[list[str], dict[tuple[int, int], str]]:
    """Rows, and the pairs that were planted among them, the earlier first, by kind."""
    draw, words = random.Random(seed), book_words()
    own, at = [], 0
    for _ in range(count - count // 20):
        if at + 45 > len(words):
            draw.shuffle(words)
            at = 0
        length = draw.randint(20, 45)
        own.append(" ".join(words[at : at + length]))
        at += length
    sources = draw.sample(range(len(own)), count // 20)
    made = [altered(own[i], KINDS[n % 4], draw) for n, i in enumerate(sources)]
    order = list(range(count))
    draw.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    rows = [own[i] if i < len(own) else made[i - len(own)] for i in order]
    pairs = [(min(a, b), max(a, b)) for n, i in enumerate(sources) for a, b in [(place[i], place[len(own) + n])]]
    return rows, {pair: KINDS[n % 4] for n, pair in enumerate(pairs)}


def altered(text: str, kind: str, draw: random.Random) -> str:
    if kind == "case":
        return draw.choice([text.upper(), text.lower(), text.title()])
    if kind == "punctuation":
        return draw.choice([re.sub(r"[^\w\s]", "", text), text.replace(" ", " , ", 3) + "!!", re.sub(r"[^\w\s]", " ", text)])
    if kind == "cut":
        return text[: math.ceil(len(text) * draw.uniform(0.85, 0.97))]
    words = text.split()
    for _ in range(2):
        a, b = draw.sample(range(len(words)), 2)
        words[a], words[b] = words[b], words[a]
    return " ".join(words)


def exact_pairs(rows: list[str]) -> set[tuple[int, int]]:
    """All pairs with a Jaccard similarity of words of at least 0.8: such a pair shares one of each one's rarest words."""
    from luthier.data.near import words_of

    sets = [frozenset(words_of(row)) for row in rows]
    counts = Counter(word for own in sets for word in own)
    index: dict[str, list[int]] = defaultdict(list)
    found = set()
    for j, own in enumerate(sets):
        ordered, seen = sorted(own, key=lambda word: (counts[word], word)), set()
        for word in ordered[: len(ordered) - math.ceil(THRESHOLD * len(ordered)) + 1]:
            for i in index[word]:
                if i not in seen:
                    seen.add(i)
                    shared = len(sets[i] & own)
                    if shared >= THRESHOLD * (len(sets[i]) + len(own) - shared):
                        found.add((i, j))
            index[word].append(j)
    return found


def search(path: Path) -> None:
    """The child: reads rows, finds pairs; prints seconds, MiB, and the pairs into a file beside."""
    from luthier.data.near import Texts

    rows = json.loads(path.read_text(encoding="utf-8"))
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    texts = Texts()
    texts.add(rows)
    pairs = texts.pairs(threshold=THRESHOLD)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (path.parent / "pairs.json").write_text(json.dumps([pairs.first.tolist(), pairs.second.tolist()]), encoding="utf-8")
    print(json.dumps({"seconds": seconds, "peak_mib": peak / 1024, "rows_mib": before / 1024}))


def near(count: int, seed: int = 0) -> dict[str, Any]:
    rows, planted = planted_rows(count, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        done = subprocess.run([sys.executable, __file__, "--search", str(path)], capture_output=True, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        found = set(zip(*json.loads((path.parent / "pairs.json").read_text(encoding="utf-8")), strict=True))
    truth = exact_pairs(rows) | set(planted)
    recall, precision = len(found & truth) / len(truth), len(found & truth) / len(found)
    by_kind = {k: sum(p in found for p, kind in planted.items() if kind == k) / sum(v == k for v in planted.values()) for k in KINDS}
    print(f"near duplicates among {len(rows):,} rows: {len(truth):,} pairs, recall {recall:.4f}, precision {precision:.4f}, "
          f"{figures['seconds']:.1f} s, {figures['peak_mib']:.0f} MiB")  # fmt: skip
    print("  recall by kind: " + ", ".join(f"{kind} {value:.3f}" for kind, value in by_kind.items()), flush=True)
    return {
        "near_rows": len(rows), "near_recall": round(recall, 4), "near_precision": round(precision, 4),
        "near_seconds": round(figures["seconds"], 1), "near_peak_mib": round(figures["peak_mib"]),
    }  # fmt: skip


# ── leaks between training and test ────────────────────────────────────────────────────────────────

EVERYDAY = {
    "have": "I've got", "experiencing": "noticing", "feel": "am feeling", "feeling": "sensing", "pain": "ache", "skin": "body's surface",
    "also": "in addition", "really": "very", "very": "extremely", "often": "frequently", "lot": "great deal", "because": "since",
    "trouble": "difficulty", "hard": "difficult", "tired": "exhausted", "been": "lately been", "there": "here", "are": "seem",
    "rash": "eruption", "red": "reddish", "itchy": "itching", "severe": "bad", "constantly": "all the time", "high": "raised",
    "fever": "temperature", "stomach": "belly", "vomiting": "throwing up", "small": "little", "recently": "of late",
}  # fmt: skip
"""What people say instead."""
REWRITES = ("case and punctuation", "words exchanged", "words replaced", "turned about and replaced")


def rewritten(text: str, how: str, draw: random.Random) -> str:
    if how == REWRITES[0]:
        return altered(altered(text, "case", draw), "punctuation", draw)
    if how == REWRITES[1]:
        return altered(text, "exchanged", draw)
    words = " ".join(EVERYDAY.get(word, word) for word in text.split())
    if how == REWRITES[2]:
        return words
    parts = [part.strip() for part in re.split(r"[.;,]| and ", words) if part.strip()]
    return ", and ".join([*parts[1:], parts[0]]) if len(parts) > 1 else f"To say it plainly, {words}"


def symptoms(close: float) -> dict[str, Any]:
    import luthier.workshop.embed as vectors
    from luthier.data.close import Closeness
    from luthier.data.leakage import Held
    from luthier.data.split import content_key
    from luthier.workflow.similar import Embedder

    path = DATA / "symptom2disease" / "Symptom2Disease.csv"
    with path.open(encoding="utf-8", newline="") as file:
        given = [row["text"] for row in csv.DictReader(file)]
    repeated = len(given) - len({content_key(t) for t in given})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "parts"
        command = ["data", "split", str(path), "--by", "stratified", "--column", "label", "--to", "csv", "--out", str(out)]
        subprocess.run([sys.executable, "-m", "luthier.cli.main", *command], check=True, capture_output=True)
        parts = {}
        for part in ("train", "validation", "test"):
            with (out / f"{part}.csv").open(encoding="utf-8", newline="") as file:
                parts[part] = [row["text"] for row in csv.DictReader(file)]
    keys = {part: {content_key(t) for t in texts} for part, texts in parts.items()}
    across = len(keys["train"] & keys["test"]) + len(keys["train"] & keys["validation"]) + len(keys["validation"] & keys["test"])
    print(f"symptom2disease: {repeated} of {len(given):,} rows repeat another, {across} of them stand on two sides of a split")
    draw = random.Random(0)
    chosen = draw.sample(sorted(set(parts["test"])), 100)
    planted = [(REWRITES[n % 4], rewritten(text, REWRITES[n % 4], draw)) for n, text in enumerate(chosen)]
    embedder = Embedder("minilm")
    meant = Closeness(lambda texts: vectors.embed(texts, model=embedder).vectors, close)
    figures: dict[str, Any] = {"symptoms_repeated": repeated, "symptoms_across": across}
    for name, way in (("by words", None), (f"by words, and meaning from {close} on", meant)):
        held = Held(close=way)
        for number, text in enumerate(parts["test"]):
            held.add(text, f"test:{number}")
        caught = held.leaks([text for _, text in planted])
        own = len(held.leaks(parts["train"]))
        by_kind = {kind: sum(planted[i][0] == kind for i in caught) for kind in REWRITES}
        print(f"  {name}: {len(caught)} of 100 planted rows are caught (" + ", ".join(f"{k} {v}/25" for k, v in by_kind.items()) + ")")
        print(f"    and {own} of the {len(parts['train'])} rows for training that nobody planted", flush=True)
        key = "words" if way is None else "close"
        figures |= {f"planted_caught_{key}": len(caught), f"others_called_{key}": own}
    return figures


def passages() -> dict[str, Any]:
    path = DATA / "t0_instructions" / "t0.jsonl.gz"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "parts"
        command = ["data", "split", str(path), "--text", "prompt", "--to", "jsonl", "--out", str(out), "--json"]
        done = subprocess.run([sys.executable, "-m", "luthier.cli.main", *command], check=True, capture_output=True, text=True)
        groups = json.loads(done.stdout)["groups"]
        rows = []
        for part in ("train", "validation", "test"):
            rows += [(part, json.loads(line)["prompt"]) for line in (out / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]
    draw = random.Random(0)
    dealt = draw.choices(("train", "validation", "test"), (0.7, 0.1, 0.2), k=len(rows))
    owners: dict[int, set[int]] = defaultdict(set)
    for number, (_, text) in enumerate(rows):
        words = text.split()
        for start in range(len(words) - PASSAGE + 1):
            key = hash(tuple(words[start : start + PASSAGE]))
            if key % 32 == 0:
                owners[key].add(number)
    shared = [own for own in owners.values() if 1 < len(own) <= max(50, len(rows) // 100)]
    torn = sum(len({rows[i][0] for i in own}) > 1 for own in shared)
    by_chance = sum(len({dealt[i] for i in own}) > 1 for own in shared)
    print(f"T0: {len(rows):,} rows, {groups:,} groups; of {len(shared):,} runs of {PASSAGE} words that rows share, {torn} stand on two sides "
          f"of the split, {by_chance:,} of a split by chance", flush=True)  # fmt: skip
    return {"passages_shared": len(shared), "passages_torn": torn, "passages_torn_by_chance": by_chance}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--parts", default="near,symptoms,passages")
    parser.add_argument("--close", type=float, default=CLOSE)
    parser.add_argument("--search", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search:
        search(options.search)
        return
    figures: dict[str, Any] = {}
    if "near" in options.parts:
        figures |= near(20_000 if options.quick else options.rows)
    if "symptoms" in options.parts:
        figures |= symptoms(options.close)
    if "passages" in options.parts:
        figures |= passages()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
