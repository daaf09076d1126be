"""The starter model's data: public-domain books, TinyStories and permissive instructions, as plain files.

    python recipes/starter/prepare.py DATA OUT

DATA holds the folders classic_books, tinystories_sample, t0_instructions, dolly_sample and self_instruct.
OUT gets books/ and stories/ (train, validation, test) for pre-training, and chat/ for instructions. The
same input gives the same files, to the byte.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SEPARATOR = "<|endoftext|>"
HELD_OUT = {"test": ["The Secret Garden", "The Time Machine", "Black Beauty"], "validation": ["Peter Pan"]}
SHARES = (("test", 0.08), ("validation", 0.03))


def text_of(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", errors="replace").replace("\r\n", "\n")


def part_of(text: str) -> str:
    """A part drawn from the text itself."""
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    for part, share in SHARES:
        if place < share:
            return part
        place -= share
    return "train"


def books(data: Path, out: Path) -> None:
    for path in sorted((data / "classic_books").glob("*/*.md*")):
        title = path.name.split(".md")[0]
        part = next((p for p, titles in HELD_OUT.items() if title in titles), "train")
        text = re.sub(r"\n{3,}", "\n\n", re.sub(r"(?m)^#+ *|[_*]{1,2}", "", text_of(path))).strip()
        target = out / "books" / part / f"{path.parent.name} - {title}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text + "\n", encoding="utf-8")


def read_stories(data: Path) -> list[str]:
    found = next((data / "tinystories_sample").glob("tinystories_sample.txt*"))
    stories = [re.sub(r"\n+", "\n\n", s.strip()) for s in text_of(found).split(SEPARATOR)[:-1]]  # the last is cut
    return [s for s in dict.fromkeys(stories) if s and "\ufffd" not in s]


def stories(data: Path, out: Path) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for story in read_stories(data):
        parts[part_of(story)].append(story)
    for part, found in parts.items():
        target = out / "stories" / f"{part}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"\n{SEPARATOR}\n".join(found) + "\n", encoding="utf-8")
    return parts


ANIMALS = (
    "cat", "dog", "bird", "rabbit", "bear", "fish", "frog", "duck", "mouse", "fox", "lion", "monkey", "squirrel", "horse", "cow", "pig",
    "bee", "butterfly", "turtle", "owl", "elephant", "tiger", "hen", "sheep", "wolf", "snail", "deer", "goat", "puppy", "kitten",
)  # fmt: skip
PLURALS = {
    "mouse": "mice",
    "fish": "fish",
    "wolf": "wolves",
    "sheep": "sheep",
    "deer": "deer",
    "fox": "foxes",
    "butterfly": "butterflies",
    "puppy": "puppies",
}
ASKS = (
    "Tell me a short story about {a}.", "Write a short story about {a}.", "Can you tell me a story about {a}?", "I want a story about {a}.",
    "Please write a little story about {a}.", "A story about {a}, please.", "Make up a short story about {a}.",
)  # fmt: skip
SWAPS, LONGEST_STORY, EARLY, T0_ROWS = 9, 1000, 200, 1000


def plural(animal: str) -> str:
    return PLURALS.get(animal, f"{animal}s")


def with_article(animal: str) -> str:
    return f"{'an' if animal[0] in 'aeiou' else 'a'} {animal}"


def hero(story: str) -> str | None:
    """The animal a story is about: named three times or more, and more often than any other."""
    words = re.findall(r"[a-z]+", story.lower())
    counts = {a: sum(words.count(w) for w in {a, plural(a)}) for a in ANIMALS}
    best = max(counts, key=lambda a: counts[a])
    others = sum(n for a, n in counts.items() if a != best)
    return best if counts[best] >= 3 and others == 0 else None


def recast(story: str, old: str, new: str) -> str:
    """The story with another animal in the part."""

    def put(match: re.Match[str]) -> str:
        article, word = match.group(1) or "", match.group(2)
        other = plural(new) if word.lower() == plural(old) and plural(old) != old else new
        if article.strip().lower() in ("a", "an"):
            fitting = "an" if other[0] in "aeiou" else "a"
            article = (fitting.capitalize() if article[0].isupper() else fitting) + " "
        return article + (other.capitalize() if word[0].isupper() else other)

    return re.sub(rf"\b((?:[Aa]n? )?)({old}|{plural(old)})\b", put, story, flags=re.IGNORECASE)


def about_animals(stories: list[str], draw: random.Random, *, swaps: int) -> Iterator[tuple[str, str]]:
    for story in stories:
        animal = hero(story)
        if animal is None or len(story) > LONGEST_STORY or animal not in story[:EARLY].lower():
            continue
        others = draw.sample([a for a in ANIMALS if a != animal], swaps)
        for name in [animal, *others]:
            yield draw.choice(ASKS).format(a=with_article(name)), story if name == animal else recast(story, animal, name)


def about_names(stories: list[str], draw: random.Random) -> Iterator[tuple[str, str]]:
    """Stories about somebody who is named in the first sentence."""
    for story in stories:
        found = re.search(r"\b(girl|boy|man|woman|bird|bear|dog|cat|bunny)\s+named (\w+)", story[:160])
        if found and len(story) <= LONGEST_STORY:
            yield draw.choice(ASKS).format(a=f"{with_article(found.group(1))} named {found.group(2)}"), story


def instructions(data: Path, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Short rows of T0's permissive sets, Dolly and Self-Instruct."""
    t0 = [json.loads(line.replace(SEPARATOR, "")) for line in text_of(data / "t0_instructions" / "t0.jsonl.gz").split("\n") if line]
    short = [
        (r["prompt"].strip(), r["completion"].strip()) for r in t0 if len(r["prompt"]) < 700 and 2 < len(r["completion"].strip()) < 300
    ]
    yield from draw.sample(short, min(T0_ROWS, len(short)))
    for line in text_of(data / "dolly_sample" / "dolly.jsonl").splitlines():
        row = json.loads(line)
        asked = row["prompt"].split("### Instruction:\n")[-1].split("\n\n### Response:")[0].strip()
        if len(asked) + len(row["answer"]) < 1200:
            yield asked, row["answer"].strip()
    for line in text_of(data / "self_instruct" / "data" / "seed_tasks.jsonl").splitlines():
        row = json.loads(line)
        for instance in row["instances"][:1]:
            asked = "\n\n".join(filter(None, [row["instruction"].strip(), instance["input"].strip()]))
            if len(instance["output"]) > 0 and len(asked) + len(instance["output"]) < 1200:
                yield asked, instance["output"].strip()


def chats(data: Path, out: Path, parts: dict[str, list[str]]) -> None:
    draw = random.Random("chats")
    for part, found in parts.items():
        rows = [*about_animals(found, draw, swaps=SWAPS if part == "train" else 0), *about_names(found, draw)]
        if part == "train":
            rows += [r for r in instructions(data, draw) if all(r)]
        draw.shuffle(rows)
        target = out / "chat" / f"{part}.jsonl"
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"prompt": asked, "completion": answer}, ensure_ascii=False) for asked, answer in rows]
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"chat/{part}: {len(rows)} rows")


def main(data: Path, out: Path) -> None:
    books(data, out)
    parts = stories(data, out)
    chats(data, out, parts)
    for folder in ("books/train", "books/validation", "books/test"):
        files = sorted((out / folder).glob("*.txt"))
        print(f"{folder}: {len(files)} books, {sum(f.stat().st_size for f in files):,} bytes")
    print("stories: " + ", ".join(f"{part} {len(found)}" for part, found in parts.items()))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
