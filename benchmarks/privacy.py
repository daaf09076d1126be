"""Personal data found in sentences with known spans, and what is found where there should be nothing.

    LUTHIER_DATA=... python benchmarks/privacy.py [--names RUN_OR_FILE] [--write]

The 1,500 sentences of presidio-research (`dirty_presidio_synth`) are read with the default options: no network, no model. A gold span
is found exactly where type and both borders are right, in part where a find of its type touches it; `letters` is the share of its
letters and digits that such finds cover. A find is right where a gold span of its type has its borders, or touches it. Types that
Luthier does not look for are in the table with what was not looked for. Masked text is checked against the original, character by
character. Then ordinary texts are read, where a find is mostly none. `--write` puts the tables into docs/privacy.md. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from luthier.data.ethics import Ethics, wilson
from luthier.data.rows import read
from luthier.security.pii import Span, find
from luthier.security.pii.pseudonym import mask, rewrite

HERE = Path(__file__).resolve().parents[1]
OURS = {
    "EMAIL_ADDRESS": ("email",), "CREDIT_CARD": ("card",), "IBAN_CODE": ("iban",), "IP_ADDRESS": ("ip",), "PHONE_NUMBER": ("phone",), "US_SSN": ("us_ssn",),
    "US_DRIVER_LICENSE": ("driver_license",), "STREET_ADDRESS": ("address",), "ZIP_CODE": ("address",), "DATE_TIME": ("birth_date",), "PERSON": ("name",),
}  # fmt: skip
NEEDED = ("EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS")
ORDINARY = {
    "banking77": "train.csv", "tweet_sentiment_extraction": "train.csv", "twitter_financial": "sent_train.csv", "medquad": "medquad.jsonl", "gsm8k": "train.jsonl",
}  # fmt: skip
ROWS = 4000


def kept(text: str, spans: list[Span]) -> bool:
    """Whether the masked text is the original with each find, and nothing else, replaced."""
    masked, place, at = rewrite(text, spans, mask), 0, 0
    for span in spans:
        before, shown = text[place : span.start], f"[{span.type.upper()}]"
        if masked[at : at + len(before) + len(shown)] != before + shown:
            return False
        place, at = span.end, at + len(before) + len(shown)
    return masked[at:] == text[place:]


def counted(rows: list[dict[str, Any]], found: list[list[Span]]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Recall by gold type, precision by ours."""
    gold: dict[str, Counter[str]] = {}
    ours: dict[str, Counter[str]] = {}
    for row, spans in zip(rows, found, strict=True):
        text = row["full_text"]
        known = [(g["start_position"], g["end_position"], g["entity_type"]) for g in row["spans"]]
        for start, end, kind in known:
            same = [s for s in spans if s.type in OURS.get(kind, ())]
            letters = {i for i in range(start, end) if text[i].isalnum()}
            covered = letters & {i for s in same for i in range(s.start, s.end)}
            gold.setdefault(kind, Counter()).update(
                n=1,
                exact=any((s.start, s.end) == (start, end) for s in same),
                part=bool(covered),
                letters=len(letters),
                covered=len(covered),
            )
        for span in spans:
            same = [(a, b) for a, b, kind in known if span.type in OURS.get(kind, ())]
            touching = any(a < span.end and span.start < b for a, b in same)
            ours.setdefault(span.type, Counter()).update(n=1, exact=(span.start, span.end) in same, part=touching)
    recall = {
        k: {"n": c["n"], "exact": c["exact"] / c["n"], "part": c["part"] / c["n"], "letters": c["covered"] / c["letters"]}
        for k, c in gold.items()
    }
    precision = {k: {"n": c["n"], "exact": c["exact"] / c["n"], "part": c["part"] / c["n"]} for k, c in ours.items()}
    return recall, precision


def table(recall: dict[str, dict[str, Any]], precision: dict[str, dict[str, Any]], *, names: bool) -> list[str]:
    lines = [
        "| gold type | ours | spans | recall, exact (95%) | recall, in part | letters covered | finds | precision, exact | precision, in part |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, r in sorted(recall.items(), key=lambda x: (x[0] not in OURS, -x[1]["exact"], x[0])):
        (own,) = OURS.get(kind, ("",))
        if not own or (own == "name" and not names):
            lines.append(f"| {kind} | not looked for | {r['n']} | | | | | | |")
            continue
        share, p = wilson(round(r["exact"] * r["n"]), r["n"]), precision.get(own, {"n": 0, "exact": 0.0, "part": 0.0})
        lines.append(
            f"| {kind} | {own} | {r['n']} | {r['exact']:.3f} ({share.low:.3f} to {share.high:.3f}) | {r['part']:.3f} | {r['letters']:.3f} | {p['n']} | {p['exact']:.3f} | {p['part']:.3f} |"
        )
    return lines


def ordinary(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Finds in the first rows of texts that mostly hold none, with texts a second."""
    lines, told = ["| data set | texts | characters each | finds | texts a second |", "|---|---|---|---|---|"], {}
    for name, file in ORDINARY.items():
        path = folder / name / file
        rows = read(path if path.exists() else path.with_name(path.name + ".gz")).rows[:ROWS]
        texts = [(k, v) for r in rows for k, v in r.values.items() if isinstance(v, str) and v]
        start = time.perf_counter()
        finds = Counter(s.type for label, text in texts for s in find(text, label=label))
        seconds = time.perf_counter() - start
        told[name] = {"texts": len(texts), "finds": dict(finds), "texts_per_second": round(len(texts) / seconds)}
        shown = ", ".join(f"{n} {kind}" for kind, n in finds.most_common()) or "none"
        lines.append(f"| {name} | {len(texts):,} | {sum(len(t) for _, t in texts) // len(texts)} | {shown} | {len(texts) / seconds:,.0f} |")
    return lines, told


def hurtful(folder: Path) -> tuple[list[str], dict[str, float]]:
    """Rows of GoEmotions with a hurtful word, by the emotion that people saw in them."""
    emotions = (folder / "goemotions" / "labels.txt").read_text(encoding="utf-8").split()
    path = folder / "goemotions" / "train.tsv"
    rows = read(path if path.exists() else path.with_name("train.tsv.gz"), columns=["text", "label", "id"]).rows[:15000]
    lines, told = ["| emotion | rows | with a hurtful word (95%) |", "|---|---|---|"], {}
    for emotion in ("anger", "disgust", "annoyance", "neutral", "joy", "gratitude"):
        ethics = Ethics()
        ethics.add([r.values["text"] for r in rows if r.values["label"] == str(emotions.index(emotion))])
        share = ethics.summary()["toxic"]["any word"]
        told[emotion] = share["value"]
        lines.append(f"| {emotion} | {ethics.rows} | {share['value']:.3f} ({share['low']:.3f} to {share['high']:.3f}) |")
    return lines, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default=None)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    folder = Path(os.environ["LUTHIER_DATA"]).expanduser()
    with gzip.open(folder / "dirty_presidio_synth" / "data" / "synth_dataset_v2.json.gz") as file:
        rows = json.load(file)
    texts = [r["full_text"] for r in rows]
    further: list[Any] = [()] * len(texts)
    if options.names:
        from luthier.workshop.privacy import finder

        further = list(finder(options.names)(texts))
    find("\u00e9")  # the table of look-alikes is made once
    start = time.perf_counter()
    found = [find(t, further=f) for t, f in zip(texts, further, strict=True)]
    seconds = time.perf_counter() - start
    recall, precision = counted(rows, found)
    intact = sum(kept(t, s) for t, s in zip(texts, found, strict=True))
    again = sum(bool(find(rewrite(t, s, mask))) for t, s in zip(texts, found, strict=True))
    spans_table = table(recall, precision, names=options.names is not None)
    quiet, quiet_told = ordinary(folder)
    hurt, hurt_told = hurtful(folder)
    parts = {"spans": spans_table, "ordinary": quiet, "hurtful": hurt}
    for lines in parts.values():
        print("\n".join(lines), end="\n\n")
    print(
        f"masked texts with every other character kept: {intact} of {len(texts)}; masked texts in which something is found again: {again}"
    )
    print(f"{len(texts) / seconds:,.0f} texts a second, {sum(map(len, texts)) / len(texts):.0f} characters each")
    if options.write:
        page = HERE / "docs" / "privacy.md"
        text = page.read_text(encoding="utf-8")
        for name, lines in parts.items():
            begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
            text = text[: text.index(begin)] + begin + "\n" + "\n".join(lines) + "\n" + text[text.index(end) :]
        page.write_text(text, encoding="utf-8")
    short = [k for k in NEEDED if recall[k]["exact"] < 0.95]
    told = {"recall": recall, "precision": precision, "intact": intact, "texts": len(texts), "ordinary": quiet_told, "hurtful": hurt_told}
    print(json.dumps({**told, "below_0.95": short}))
    if short or intact < len(texts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
