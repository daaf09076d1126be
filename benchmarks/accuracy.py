"""What the shipped recipes reach on real data, defaults untouched; prints a table and one JSON object.

    LUTHIER_DATA=../shared/data python benchmarks/accuracy.py [--quick] [--only NAME ...]

Data sets that are not yet rows (CUAD's wide table, star ratings and question-sentence pairs inside
instruction data) are derived here first. `--quick` trains the symptom recipe alone.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import itertools

import luthier
from luthier.workflow.events import Event, Note, Stage

RECIPES = Path(__file__).parent.parent / "recipes"
INSTRUCTION = "Is the sentiment of this tweet negative, neutral or positive? {text} The sentiment is"


def read(path: Path) -> str:
    packed = path.with_name(path.name + ".gz")
    data = packed.read_bytes() if packed.exists() else path.read_bytes()
    return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")


def clauses(source: Path) -> Iterator[dict[str, str]]:
    """CUAD's wide table (a contract a row) as one excerpt a row with its clause category."""
    for row in csv.DictReader(read(source / "cuad_clauses" / "master_clauses.csv").splitlines(keepends=True)):
        for column, cell in row.items():
            if f"{column}-Answer" not in row or column == "Document Name" or not cell or cell == "[]":
                continue
            for excerpt in re.findall(r"'((?:[^'\\]|\\.|'(?=[^,\]]))*)'", cell):
                if len(excerpt.split()) >= 5:
                    yield {"text": excerpt.replace("\\n", " "), "label": column}


def stars(source: Path) -> Iterator[dict[str, str]]:
    """App reviews with their star rating."""
    for line in read(source / "t0_instructions" / "t0.jsonl").splitlines():
        row = json.loads(line)
        quoted = re.search(r'"(.*)"', row["prompt"], re.S)
        rating = re.search(r"[1-5]", row["completion"])
        if row["template"] in ("app_reviews_convert_to_rating", "app_reviews_convert_to_star_rating") and quoted and rating:
            yield {"text": quoted[1], "label": rating[0]}


def answers(source: Path) -> Iterator[dict[str, str]]:
    """A question with a sentence of its passage: does the sentence hold the answer?"""
    for shard in sorted((source / "qed").glob("nq-train-*")):
        for line in read(shard.with_suffix("") if shard.suffix == ".gz" else shard).splitlines():
            row = json.loads(line)
            starts = [*row["sentence_starts"], len(row["paragraph_text"])]
            spans = row["answer_spans"]
            if len(starts) < 3 or not spans:
                continue
            for begin, end in itertools.pairwise(starts):
                held = any(begin <= span[0] < end for span in spans)
                yield {
                    "text": row["question_text"],
                    "pair": row["paragraph_text"][begin:end].strip(),
                    "label": "answer" if held else "no answer",
                }


def derive(make: Iterator[dict[str, str]], path: Path) -> Path:
    rows = [r for r in make if all(v.strip() for v in r.values())]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def gpt2(source: Path, folder: Path) -> Path:
    """A GPT-2 of four narrow layers with random weights and the real GPT-2 tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    torch.manual_seed(0)
    names = source / "gpt2_bpe" / "gpt2_vocab.json", source / "gpt2_bpe" / "gpt2_merges.txt"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(read(names[0]), encoding="utf-8")
    (folder / "merges.txt").write_text(read(names[1]), encoding="utf-8")
    tokenizer = GPT2TokenizerFast.from_pretrained(folder, model_max_length=256)
    GPT2LMHeadModel(GPT2Config(n_layer=4, n_embd=256, n_head=8, n_positions=256)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def finance(source: Path, path: Path) -> Path:
    """The published training part: the first 9,543 rows."""
    rows = list(csv.reader(read(source / "twitter_financial" / "sent_train.csv").splitlines(keepends=True)))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows[: 9_543 + 1])
    return path


def jobs(source: Path, work: Path) -> dict[str, tuple[object, list[str]]]:
    """name -> (recipe, overrides)"""
    model = gpt2(source, work / "gpt2")
    tweets = ["model.name=" + str(model), "training.learning_rate=1e-3", "evaluation.baselines=[majority]"]
    return {
        "symptom2disease": (RECIPES / "symptoms.yaml", []),
        "tweets": (RECIPES / "tweets.yaml", []),
        "banking77": (RECIPES / "banking.yaml", []),
        "goemotions": (RECIPES / "emotions.yaml", []),
        "twitter_financial": (RECIPES / "finance.yaml", ["data.name=null", "data.origin=null", f"data.train={finance(source, work / 'finance.csv')}",
                                                         f"data.test={source / 'twitter_financial' / 'sent_valid.csv'}"]),
        "cuad_clauses": ({"data": {"train": str(derive(clauses(source), work / "clauses.csv")), "duplicates": "drop"},
                          "model": {"name": "minilm", "max_length": 256}}, ["training.epochs=3", "data.limit=3000"]),
        "app_stars (regression)": ({"data": {"train": str(derive(stars(source), work / "stars.csv")), "duplicates": "drop"},
                                    "task": {"kind": "regression"}}, []),
        "qed_answers (pairs)": ({"data": {"train": str(derive(answers(source), work / "answers.csv")), "text_pair": "pair", "limit": 6000}}, []),
        "tweets, GPT-2 shape": (RECIPES / "tweets.yaml", tweets),
        "tweets, GPT-2 shape, instruction": (RECIPES / "tweets.yaml", [*tweets, f"task.prompt={json.dumps(INSTRUCTION)}"]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the symptom recipe alone, under 3 minutes")
    parser.add_argument("--only", nargs="*", help="names to run")
    options = parser.parse_args()
    source = Path(os.environ.get("LUTHIER_DATA", "../shared/data")).resolve()
    if not source.is_dir():
        sys.exit(f"no data in {source}: set LUTHIER_DATA")
    os.environ["LUTHIER_DATA"] = str(source)
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, (recipe, overrides) in jobs(source, work).items():
            if (options.quick and name != "symptom2disease") or (options.only and name not in options.only):
                continue
            begun = time.perf_counter()
            run = luthier.train(recipe, overrides=[*overrides, f"output.folder={work / 'runs'}"], listener=say)
            figures[name] = show(name, run, time.perf_counter() - begun)
    print(json.dumps(figures))


def say(event: Event) -> None:
    if isinstance(event, Note | Stage):
        print(f"    {event}", file=sys.stderr, flush=True)


def show(name: str, run: luthier.Run, seconds: float) -> dict[str, object]:
    scores, facts = run.scores, run.facts
    metric, plan = scores["metric"], facts["plan"]
    train = facts["data"]["summary"]["train"]
    print(
        f"\n{name}: {train} training rows, {plan['epochs']:g} epochs, learning rate {plan['learning_rate']:g}, {seconds:.0f} s", flush=True
    )
    found = {}
    for method, values in scores["methods"].items():
        value = values[metric]
        found[method] = round(value["value"], 4)
        others = " ".join(f"{k} {values[k]['value']:.3f}" for k in ("f1_macro", "rmse", "ece") if k in values)
        print(f"  {method:<9}{metric} {value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}] n={value['n']}  {others}", flush=True)
    return {"metric": metric, **found, "seconds": round(seconds)}


if __name__ == "__main__":
    main()
