"""From a file of short rows to token ids in Arrow: how fast, in how much memory, and against `datasets.map`.

    python benchmarks/data.py [--rows 1000000] [--quick]

Writes rows of common words (one in twenty repeats an earlier one, one in twenty nearly), then measures each stage of
load -> clean -> dedupe -> tokenise -> Arrow in one process of its own, with its highest resident memory. Then the same texts are
tokenised by `datasets.map(batched=True)` and by `data/tokens.py`, by turns, each in a process of its own; the medians are
compared. `--quick` takes 60,000 rows. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

VOCABULARY = 8000
PORTION = 8
"""Batches that are tokenised in one call."""


def write_rows(path: Path, count: int) -> None:
    """JSON lines of 8 to 20 words, drawn as often as they are in the texts that ship with Luthier."""
    draw = random.Random(0)
    from luthier.data.origin import SAMPLES

    counts = Counter(word for name in ("general.txt", "stories.txt") for word in (SAMPLES.parent / name).read_text(encoding="utf-8").split())
    words, sums = list(counts), list(itertools.accumulate(counts.values()))
    kept: list[list[str]] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            kind = draw.random()
            if kind < 0.1 and kept:
                row = list(draw.choice(kept))
                if kind < 0.05:
                    row[draw.randrange(len(row))] = draw.choice(words)
            else:
                row = draw.choices(words, cum_weights=sums, k=draw.randint(8, 20))
                if len(kept) < 100_000:
                    kept.append(row)
            file.write(json.dumps({"text": " ".join(row), "label": "abc"[number % 3]}) + "\n")


def tokenizer(path: Path, rows: Path) -> None:
    """A WordPiece tokenizer of the rows' own words, as BERT's family has."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with rows.open(encoding="utf-8") as file:
        some = [json.loads(next(file))["text"] for _ in range(20_000)]
    made.train_from_iterator(some, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]))
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.save(str(path))


def pipeline(folder: Path) -> dict[str, object]:
    """Every stage once, with its seconds."""
    from luthier.data.clean import clean
    from luthier.data.stream import open_stream
    from luthier.recipe import load_recipe

    seconds: dict[str, float] = {}
    begun = time.monotonic()
    stream = open_stream([str(folder / "rows.jsonl")])
    seconds["survey"] = time.monotonic() - begun
    for name, stages in (
        ("clean", ["unicode", "markup", "whitespace", {"type": "length", "at_least": 2}]),
        ("dedupe", ["duplicates", "near_duplicates"]),
    ):
        begun = time.monotonic()
        done = clean(stream, load_recipe({"data": {"train": "rows", "clean": stages}}).recipe.data.clean, folder / name, format="arrow")
        seconds[name] = time.monotonic() - begun
        if name == "clean":
            read = done.books.read
            stream = open_stream([str(folder / name / "rows.arrow")])
    begun = time.monotonic()
    tokens = tokenise(folder, folder / "dedupe" / "rows.arrow", folder / "tokens.arrow")
    seconds["tokenise"] = time.monotonic() - begun
    return {"rows": read, "kept": done.books.kept, "tokens": tokens, "seconds": seconds, "peak": peak()}


def tokenise(folder: Path, rows: Path, out: Path) -> int:
    """Texts of an Arrow file to token ids in another, a part at a time; how many rows."""
    import pyarrow as pa
    from tokenizers import Tokenizer

    from luthier.data.tokens import tokenize

    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    count = 0
    with pa.memory_map(str(rows)) as source, pa.OSFile(str(out), "wb") as sink:
        file, writer = pa.ipc.open_file(source), None
        for number in range(0, file.num_record_batches, PORTION):
            batches = [file.get_batch(i) for i in range(number, min(number + PORTION, file.num_record_batches))]
            texts = [text for batch in batches for text in batch.column("text").to_pylist()]
            table = tokenize(texts, None, made, max_length=64).table
            writer = writer or pa.ipc.new_file(sink, table.schema)
            writer.write_table(table)
            count += table.num_rows
        if writer is not None:
            writer.close()
    return count


def by_map(folder: Path) -> dict[str, object]:
    """The peer: a fast tokenizer of transformers under `datasets.map(batched=True)`, as the course has it."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
    rows = datasets.Dataset(arrow_table(folder))
    begun = time.monotonic()
    found = rows.map(
        lambda batch: fast(batch["text"], truncation=True, max_length=64),
        batched=True,
        cache_file_name=str(folder / "map.arrow"),
        load_from_cache_file=False,
    )
    return {
        "seconds": time.monotonic() - begun,
        "rows": len(found),
        "first": found[0]["input_ids"],
        "last": found[len(found) - 1]["input_ids"],
    }


def arrow_table(folder: Path):
    """The rows to be tokenised, memory-mapped as `datasets` has them."""
    from datasets.table import MemoryMappedTable

    return MemoryMappedTable.from_file(str(folder / "stream.arrow"))


def by_tokens(folder: Path) -> dict[str, object]:
    """Ours, from the same file to the same kind of file."""
    import pyarrow as pa

    rows = folder / "dedupe" / "rows.arrow"
    begun = time.monotonic()
    count = tokenise(folder, rows, folder / "own.arrow")
    seconds = time.monotonic() - begun
    with pa.memory_map(str(folder / "own.arrow")) as source:
        ids = pa.ipc.open_file(source).read_all()["input_ids"]
    return {"seconds": seconds, "rows": count, "first": ids[0].as_py(), "last": ids[-1].as_py()}


def as_stream(folder: Path) -> None:
    """The rows once more in Arrow's stream format, which `datasets` maps."""
    import pyarrow as pa

    with pa.memory_map(str(folder / "dedupe" / "rows.arrow")) as source:
        file = pa.ipc.open_file(source)
        with pa.OSFile(str(folder / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, file.schema) as writer:
            for number in range(file.num_record_batches):
                writer.write_batch(file.get_batch(number))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def apart(what: str, folder: Path) -> dict:
    """Run one of the measurements in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--part", what, str(folder)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=None, help="1,000,000 where not given; 60,000 with --quick")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        what, place = given.part
        print(json.dumps({"pipeline": pipeline, "map": by_map, "tokens": by_tokens}[what](Path(place))))
        return
    count = given.rows or (60_000 if given.quick else 1_000_000)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_rows(folder / "rows.jsonl", count)
        tokenizer(folder / "tokenizer.json", folder / "rows.jsonl")
        found = apart("pipeline", folder)
        for stage, seconds in found["seconds"].items():
            print(f"{stage:<9} {seconds:7.1f} s {count / seconds:12,.0f} rows/s", flush=True)
        print(f"{found['rows']:,} rows read, {found['kept']:,} kept; highest resident memory {found['peak'] / 2**30:.2f} GiB", flush=True)
        as_stream(folder)
        times: dict[str, list[float]] = {"map": [], "tokens": []}
        for turn in range(5):
            answers = {what: apart(what, folder) for what in times}
            for what, answer in answers.items():
                times[what].append(answer["seconds"])
            same = all(answers["map"][k] == answers["tokens"][k] for k in ("rows", "first", "last"))
            if not same:
                raise SystemExit(f"the token ids differ in turn {turn}")
        by_turns = {what: statistics.median(seconds) for what, seconds in times.items()}
        print(f"tokenise: datasets.map {by_turns['map']:.1f} s, luthier {by_turns['tokens']:.1f} s", flush=True)
    total = sum(found["seconds"].values())
    print(
        json.dumps(
            {
                "rows": count,
                "seconds": {k: round(v, 2) for k, v in found["seconds"].items()},
                "rows_per_second": round(count / total),
                "peak_gib": round(found["peak"] / 2**30, 2),
                "tokenize_vs_map": round(by_turns["map"] / by_turns["tokens"], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
