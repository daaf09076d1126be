"""The starter model, measured and put into the package: bf16 weights, tokenizer, and its card.

    python recipes/starter/finish.py PRETRAINED CHAT DATA OUT [--stories260k FOLDER]

PRETRAINED and CHAT are the two runs, DATA what prepare.py made, OUT the folder to write
(src/luthier/starters/model). The card holds what is measured here, samples as they come, none chosen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
import math
import struct
import sys
from pathlib import Path
from typing import Any

import torch

from luthier.data.prepare import Record
from luthier.evaluation.intervals import with_intervals
from luthier.inference.generate import Sampling
from luthier.inference.predict import outputs
from luthier.inference.writer import Writer
from luthier.recipe.sections import Data
from luthier.recipe.tasks.causal import CausalOptions
from luthier.runs.store import Run
from luthier.tasks.causal import Causal

ANIMALS = ("cat", "dog", "bird", "rabbit", "bear", "fish", "frog", "duck", "mouse", "fox")
SEEDS = (1, 2)
ASK = "Tell me a short story about {}."
SEPARATOR = "<|endoftext|>"


def texts_of(path: Path) -> list[str]:
    """Documents of a file, or of every file of a folder."""
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    return [t.strip("\n") for f in files for t in f.read_text(encoding="utf-8").split(SEPARATOR) if t.strip()]


def bits_per_byte(writer: Writer, texts: list[str]) -> dict[str, float]:
    """Over all bytes of the texts, with a 95% interval over documents."""
    task = Causal(CausalOptions(), Data(train=["none"]))
    records = [Record(t, None, None, "", i) for i, t in enumerate(texts)]
    tokens = task.encode(records, writer.tokenizer, config=writer.config, max_length=writer.max_length).tokens
    layout = writer.loaded.layout
    found = outputs(writer.loaded.model, tokens, layout, answer=task.answer(layout), max_tokens=8192)
    return dict(with_intervals(task.scores, task.gold(records), found, resamples=500)["bits_per_byte"])


def xz(texts: list[str], primer: list[str]) -> tuple[float, float]:
    """Bits per byte of `xz -9` alone, and when it has read the primer before."""
    data, before = "\n".join(texts).encode(), "\n".join(primer).encode()
    size, both, first = (len(lzma.compress(d, preset=9)) for d in (data, before + data, before))
    return 8 * size / len(data), 8 * (both - first) / len(data)


def stories260k(folder: Path, texts: list[str]) -> float:
    """Bits per byte of the reference model on stories, by its own tokenizer."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.inference.test_stories import stories

    model, _ = stories()
    raw, at, pieces, scores = (folder / "tok512.bin").read_bytes(), 4, [], []
    while at < len(raw):
        score, length = struct.unpack("fi", raw[at : at + 8])
        pieces.append(raw[at + 8 : at + 8 + length].decode())
        scores.append(score)
        at += 8 + length
    ids = {p: i for i, p in enumerate(pieces)}
    nats = total = 0.0
    for text in texts:
        tokens = [1, *encode(" " + text, ids, scores)]
        total += len(text.encode())
        for start in range(0, len(tokens) - 1, 511):
            window = torch.tensor([tokens[start : start + 512]])
            with torch.no_grad():
                logits = model(window).logits[0, :-1]
            nats += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
    return nats / math.log(2) / total


def encode(text: str, ids: dict[str, int], scores: list[float]) -> list[int]:
    """llama2.c's encoding: characters (or bytes), then the best-scored pair is merged until none is known."""
    parts: list[str] = []
    for c in text:
        parts += [c] if c in ids else [f"<0x{b:02X}>" for b in c.encode()]
    while True:
        pairs = [(scores[ids[a + b]], -i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ids]
        if not pairs:
            return [ids.get(p, 0) for p in parts]
        i = -max(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def tell(writer: Writer) -> list[dict[str, Any]]:
    """A story about each animal for each seed, as it comes."""
    asked = [(a, s) for a in ANIMALS for s in SEEDS]
    told = writer.write([ASK.format(f"a {a}") for a, _ in asked], [Sampling(max_new_tokens=400, temperature=0.7, seed=s) for _, s in asked])
    return [
        {"animal": a, "seed": s, "text": w[0].text.strip(), "named": a in w[0].text.lower(), "stopped": w[0].finish == "stop"}
        for (a, s), w in zip(asked, told, strict=True)
    ]


def curve(run: Run) -> str:
    """The loss curve, in twenty lines."""
    log = run.lines("log.jsonl")
    size = max(1, len(log) // 20)
    rows = [log[i : i + size] for i in range(0, len(log) - size + 1, size)]
    top = max(sum(r["loss"] for r in part) / len(part) for part in rows)
    lines = []
    for part in rows:
        mean = sum(r["loss"] for r in part) / len(part)
        lines.append(f"{part[-1]['step']:>6}  {mean:.3f}  {'#' * round(50 * mean / top)}")
    return "\n".join(lines)


def card(pretrained: Run, chat: Run, figures: dict[str, Any], told: list[dict[str, Any]]) -> str:
    """The model card."""
    facts = pretrained.facts
    books, stories = figures["books"], figures["stories"]
    good = sum(t["named"] and t["stopped"] for t in told)
    tokens = facts["progress"]["tokens"]
    samples = "\n\n".join(
        f"**{t['animal']}, seed {t['seed']}** ({'named' if t['named'] else 'not named'}, "
        f"{'stopped by itself' if t['stopped'] else 'cut at 400 tokens'})\n\n> " + t["text"].replace("\n", "\n> ")
        for t in told
    )
    return f"""---
library_name: transformers
pipeline_tag: text-generation
language: en
license: apache-2.0
tags: [luthier]
---

# starter

A small Llama-architecture language model, {facts["parameters"]:,} parameters, context 512, made from nothing with Luthier to
learn, test and demonstrate fine-tuning offline on a laptop CPU. It tells simple stories. It knows next to nothing: do not
rely on anything it says.

## Data and licences

- 108 public-domain books in English (public domain in the USA; some translations and 20th-century authors may not be elsewhere),
  from mlschmitt/classic-books-markdown.
- 2,081 stories of TinyStories (Eldan and Li 2023; CDLA-Sharing-1.0), shown three times an epoch.
- For conversations: requests made from those stories (another animal put in the part of the first, by rule), 1,000 short rows of
  T0's permissive sets (CC BY, CC BY-SA, MIT and the like), 151 of Dolly (CC BY-SA 3.0), 175 seed tasks of Self-Instruct (Apache-2.0).
- Held out: The Secret Garden, The Time Machine, Black Beauty, and 166 stories.

The weights are Apache-2.0, as Luthier is; the licences above are those of the texts.

## Recipe

`recipes/starter/`: `prepare.py`, `pretrain.yaml` ({facts["progress"]["step"]:,} updates, {tokens / 1e6:.1f} million tokens,
{facts["progress"]["seconds"] / 60:.0f} minutes on two busy cores), `chat.yaml` ({chat.facts["progress"]["step"]} updates,
{chat.facts["progress"]["seconds"] / 60:.0f} minutes), `finish.py`. Tokenizer: byte-level BPE, 8,192 tokens, trained on the same texts.
One token, `<|end|>`, closes documents and turns.

Training loss of the pre-training (update, mean loss):

```
{curve(pretrained)}
```

## Bits per byte on held-out texts

| | books | stories |
|---|---|---|
| starter, after pre-training | {figures["pretrained_books"]["value"]:.3f} | {figures["pretrained_stories"]["value"]:.3f} |
| **starter**, as shipped | {books["value"]:.3f} [{books["low"]:.3f}, {books["high"]:.3f}] | {stories["value"]:.3f} [{stories["low"]:.3f}, {stories["high"]:.3f}] |
| `xz -9` | {figures["xz_books"]:.2f} | {figures["xz_stories"]:.2f} ({figures["xz_stories_primed"]:.2f} primed with the training stories) |
| stories260k (260 thousand parameters, all of TinyStories) | | {figures["stories260k"]:.3f} |

## Stories about ten animals, two seeds, temperature 0.7, all twenty as they came

"{ASK.format("a ...")}" The animal is named and the story stops by itself in {good} of {len(told)}.

{samples}

## Limits

Many of its stories are its training stories, recalled with another animal in the part. It repeats itself, loses its
thread, and takes over the views of books a century old. It was not trained to refuse anything.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pretrained", "chat", "data", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--stories260k", type=Path, help="folder of the reference model")
    options = parser.parse_args()
    pretrained, chat = Run(options.pretrained), Run(options.chat)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    writer = Writer.open(chat.model)
    writer.loaded.model.to(torch.bfloat16).save_pretrained(out)
    writer.tokenizer.save_pretrained(out)
    books, stories = texts_of(options.data / "books" / "test"), texts_of(options.data / "stories" / "test.txt")
    primer = texts_of(options.data / "stories" / "train.txt")
    before, shipped = Writer.open(pretrained.model), Writer.open(out)
    figures: dict[str, Any] = {
        "books": bits_per_byte(shipped, books),
        "stories": bits_per_byte(shipped, stories),
        "pretrained_books": bits_per_byte(before, books),
        "pretrained_stories": bits_per_byte(before, stories),
        "xz_books": xz(books, [])[0],
        "stories260k": stories260k(options.stories260k, stories) if options.stories260k else float("nan"),
    }
    figures["xz_stories"], figures["xz_stories_primed"] = xz(stories, primer)
    told = tell(shipped)
    figures["named_and_stopped"] = sum(t["named"] and t["stopped"] for t in told)
    (out / "README.md").write_text(card(pretrained, chat, figures, told), encoding="utf-8")
    size = sum(f.stat().st_size for f in out.iterdir())
    print(json.dumps({**figures, "size_mib": size / 2**20}))


if __name__ == "__main__":
    main()
