"""Questions and passages: the answer found in the passage, and the passage found for the question; XQuAD (English) and QED.

    LUTHIER_DATA=../shared/data python benchmarks/questions.py [--quick] [--threads N] [--sets xquad,qed] [--tasks embedding,span]

Four trainings of MiniLM, each on its own split by passage: `span` (exact match, F1) and `embedding` (recall@1 and @5, with BM25
and the untrained model beside it). QED's rows are Natural Questions with their paragraph; 1,500 of them are drawn here, and laid
out as SQuAD has them. `--quick` trains on 300 rows in one pass. The last line is one JSON object of the test scores.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import luthier

ROWS = 1500
SCORES = {"embedding": ("recall@1", "recall@5", "mrr"), "span": ("exact_match", "f1")}


def qed(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows with a question, a paragraph and the short answers in it; those without an answer are left out."""
    for path in sorted(folder.glob("nq-train-*.jsonlines*")):
        data = path.read_bytes()
        for line in (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8").splitlines():
            row = json.loads(line)
            text, spans = row["paragraph_text"], row["answer_spans"] or ()
            answers = [{"text": text[a:b], "answer_start": a} for a, b in spans if text[a:b].strip()]
            if answers:
                yield {"question": row["question_text"], "context": text, "title": row["title_text"], "answers": answers}


def recipe(task: str, data: dict[str, Any], folder: str, overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    columns = (
        {"text": "context", "text_pair": "question", "label": "answers"} if task == "span" else {"text": "question", "text_pair": "context"}
    )
    made = {"data": data | columns, "task": task, "model": {"name": "minilm", "max_length": 384 if task == "span" else 256}}
    return made | {"output": {"folder": folder, "name": task}}, overrides


def shown(scores: dict[str, Any], names: tuple[str, ...]) -> str:
    return "  ".join(f"{n} {scores[n]['value']:.3f} [{scores[n]['low']:.3f}, {scores[n]['high']:.3f}]" for n in names if n in scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--sets", default="xquad,qed")
    parser.add_argument("--tasks", default="embedding,span")
    options = parser.parse_args()
    epochs = {"span": 1 if options.quick else 4, "embedding": 1 if options.quick else 2}
    overrides = [f"training.threads={options.threads}"] if options.threads else []
    overrides += ["data.limit=300", "evaluation.bootstrap=200"] if options.quick else []
    source, figures = Path(os.environ["LUTHIER_DATA"]), dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(qed(source / "qed"))
        random.Random(0).shuffle(rows)
        path = Path(folder) / "qed.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in rows[:ROWS]), encoding="utf-8")
        sets: dict[str, dict[str, Any]] = {"xquad": {"name": "xquad", "train": "xquad.en.json"}, "qed": {"train": str(path)}}
        if unknown := {*options.sets.split(",")} - {*sets} | {*options.tasks.split(",")} - {*SCORES}:
            parser.error(f"there is no {', '.join(sorted(unknown))}")
        wanted = [(n, t) for n in sets for t in SCORES if n in options.sets.split(",") and t in options.tasks.split(",")]
        for name, task in wanted:
            names = SCORES[task]
            made, changes = recipe(task, sets[name], f"{folder}/{name}", [*overrides, f"training.epochs={epochs[task]}"])
            methods = luthier.train(made, overrides=changes).scores["methods"]
            for method, scores in methods.items():
                print(f"{name:<6} {task:<10} {method:<10} {shown(scores, names)}", flush=True)
                figures |= {f"{name}_{task}_{method}_{n}": round(scores[n]["value"], 4) for n in names if n in scores}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
