"""The first recipe for a file: what the facts say of task, columns, model, method and limits, each value with its reason.

Enters: a file, and what a user says of it. Leaves: a `First`: the text of a recipe that `luthier check` accepts, and its values.
Nothing is written here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.data.profile import Profile, profile
from luthier.data.repeats import Repeats, repeats
from luthier.data.sources.inputs import Input
from luthier.data.sources.source import survey
from luthier.errors import DataError
from luthier.recipe.imports.draft import Told
from luthier.recipe.imports.write import nested, on_one_line, sections
from luthier.recipe.load import load_recipe
from luthier.recipe.sections import Data
from luthier.workshop.columns import GROUPS
from luthier.workshop.guess import Guess, guess
from luthier.workshop.lengths import Tokens, tokens_of
from luthier.workshop.reading import Opened, open_files
from luthier.workshop.report import MEASURED, classes, is_paired, model_for, read_by, thinned

MANY = 20_000
"""Training rows above which a first recipe takes so many."""
FEWEST = 5
"""Rows below which there is nothing to share out."""
SPARE = 0.9
"""Share of the bad rows that a recipe allows from which on it should allow more."""
UNEVEN = 10
"""How much larger the largest class is than the smallest, where it is worth a word."""
PARTS = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""What stands in a file's name in place of `train`."""
SIZES = {"minilm": "an encoder of 22 million weights that ships with Luthier", "starter": "a small decoder that ships with Luthier"}
CONVERSED = ("chat", "preference")


@dataclass(frozen=True)
class First:
    """The recipe as text with comments, the task it is for, and each value with its reason."""

    text: str
    guess: Guess
    values: dict[str, Told]


def first_recipe(file: str, *, folder: Path, text: Sequence[str] = (), label: str | None = None, model: str | None = None) -> First:
    """A recipe for a file, that will lie in `folder`. Raises DataError for a file that cannot be used, or that recipes do not read."""
    given = open_files([file])
    _refuse_foreign(given, file)
    found = profile(given.stream)
    if found.rows < FEWEST:
        remedy = "give more rows; of text files data.separator says what stands between texts, where a file is not one"
        raise DataError(f"holds {found.rows} rows: too few to train, validate and test on", where=file, remedy=remedy)
    meant = guess(found, text=text, label=label)
    chosen = model or model_for(meant)
    rows = found.drawn()
    read = [read_by(meant, row) for row in rows]
    counted = tokens_of([read[i] for i in thinned(read, MEASURED)], model=chosen, paired=is_paired(meant))
    same = repeats(given.stream, texts=meant.texts, target=meant.target, near=False)
    values = {"data.train": Told(_train(given, file, folder), f"{found.rows:,} rows in {len(found.columns)} columns")}
    values |= _beside(given, meant, file, folder)
    values |= given.values
    values |= {p: t for p, t in meant.values.items() if p.startswith("data.")}
    values |= _limits(found, meant, same, counted)
    values["task.type"] = Told(meant.task, meant.because)
    values |= {p: t for p, t in meant.values.items() if p.startswith("task.")}
    values["model.name"] = Told(chosen, SIZES.get(chosen, "as asked"))
    values["method.type"] = _method(meant, chosen, model)
    load_recipe(nested(values))  # refused here rather than by the user's first command
    head = _head(file, found, meant, counted, classes(meant, rows))
    return First("\n".join([*head, *sections(values)]) + "\n", meant, values)


def _refuse_foreign(given: Opened, file: str) -> None:
    """Raise DataError for what the workshop reads and recipes do not."""
    known = Data.model_fields["format"].annotation
    source = next((s for s in given.stream.sources if s.input.path is None or s.format not in str(known)), None)
    if source is not None:
        raise DataError(
            f"is read by the data workshop, but not by recipes ({source.format})",
            where=source.name,
            remedy=f"luthier data clean {file} --to jsonl --out cleaned, and then luthier init cleaned/{source.input.part}.jsonl",
        )


def _train(given: Opened, file: str, folder: Path) -> str | list[str]:
    """What data.train names: the file or folder itself, or the members of an archive."""
    if Path(file).is_dir():
        return _from(Path(file), folder)
    names = [_from(s.input.path, folder) for s in given.stream.sources if s.input.path is not None]
    return names[0] if len(names) == 1 else names


def _from(path: Path, folder: Path) -> str:
    """A path as the recipe should name it: relative where it lies under the recipe's folder."""
    path, folder = path.resolve(), folder.resolve()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)


def _beside(given: Opened, meant: Guess, file: str, folder: Path) -> dict[str, Told]:
    """Validation and test files that stand beside a training file and have the columns that are needed."""
    path = Path(file)
    if "train" not in path.name or not path.is_file():
        return {}
    found: dict[str, Told] = {}
    needed = {*meant.texts, *meant.target}
    for part, words in PARTS.items():
        names = [path.name.replace("train", word) for word in words]
        other = next((o for n in names for m in (n, n.removesuffix(".gz"), f"{n}.gz") if (o := path.with_name(m)).is_file()), None)
        if other is None:
            continue
        source = survey(Input(other, str(other), part), given.reading)
        if needed & set(given.stream.schema.names) <= set(source.schema.names):
            found[f"data.{part}"] = Told(_from(other, folder), "stands beside the training file")
    return found


def _limits(found: Profile, meant: Guess, same: Repeats, counted: Tokens) -> dict[str, Told]:
    """What is left out or allowed, where the facts ask for it."""
    values: dict[str, Told] = {}
    if same.same > same.conflicting:
        values["data.duplicates"] = Told("drop", f"{same.same:,} rows repeat the text of another")
    group = next((n for n in found.columns if n.lower() in GROUPS and n not in (*meant.texts, *meant.target)), None)
    if group is not None:
        count = found.columns[group].distinct or 0
        if 2 < count < found.rows and not found.columns[group].missing:
            values["data.group"] = Told(group, f"{count:,} different values: rows of one stay on one side of the split")
    if found.rows > MANY:
        values["data.limit"] = Told(MANY, f"for a first training; take it out to train on all of about {found.rows:,} rows")
    bad = found.quarantined + sum(found.columns[n].missing for n in _needed(meant) if n in found.columns)
    long = counted.longer / max(len(counted.counts), 1) if meant.task in CONVERSED else 0.0
    if long:
        what = f"{long:.1%} of the rows are longer than the {counted.reads} tokens that {counted.model} reads: their answers are cut"
        values["data.accept"] = Told(["answers-truncated"], what)
    share = bad / (found.rows + found.quarantined) + long
    default = Data.model_fields["max_bad_share"].default
    if share > SPARE * default:
        wanted = min(0.99, math.ceil(100 * (1.25 * share + 0.02)) / 100)
        why = (
            f"{bad:,} rows cannot be read or lack a needed value" if bad else "rows whose questions fill what the model reads are set aside"
        )
        values["data.max_bad_share"] = Told(wanted, why)
    return values


def _needed(meant: Guess) -> tuple[str, ...]:
    """Columns without which a row cannot be used."""
    return (*(n for n in meant.texts if n not in meant.optional), *meant.target)


def _method(meant: Guess, chosen: str, asked: str | None) -> Told:
    if meant.task == "preference":
        return Told("lora", "adapters beside frozen weights: the start, which preferences are held to, stays at hand")
    if asked is not None and asked not in SIZES and meant.writes:
        return Told("lora", "adapters beside frozen weights: a large model trains so in less memory")
    return Told("full", f"all weights train: {chosen} is small enough" if chosen in SIZES else "all weights train; lora needs less memory")


def _head(file: str, found: Profile, meant: Guess, counted: Tokens, counts: dict[str, int]) -> list[str]:
    """What the recipe says of itself."""
    middle = sorted(counted.counts)[len(counted.counts) // 2]
    lines = [
        f"Written by luthier init for {Path(file).name}. Every value says why it is there; take out or change what you know better.",
        f"{meant.task} ({meant.kind}): {meant.because}.",
        *([f"The rows would do for {'; or '.join(meant.others)}."] if meant.others else []),
        f"Half of the rows have up to {middle} tokens of {counted.model}, the longest {max(counted.counts)}"
        + (
            f"; it reads {counted.reads}, and {counted.longer / max(len(counted.counts), 1):.1%} of them are longer."
            if counted.reads
            else "."
        ),
    ]
    if len(counts) > 1 and max(counts.values()) > UNEVEN * min(counts.values()) and meant.kind == "one label":
        lines.append("The largest class has more than ten times the rows of the smallest; task.class_weights: balanced may help.")
    return [f"# {on_one_line(line)}" for line in lines]


def told(first: First) -> Sequence[tuple[str, str, str]]:
    """(path, value, why) of each value, for people."""
    return [(path, str(t.value), on_one_line(t.origin)) for path, t in first.values.items()]
