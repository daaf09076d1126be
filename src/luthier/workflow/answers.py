"""Prompts to pairs of answers for people to judge, written ahead of them and kept in the store.

Enters: a file of prompts, and one model or two. Leaves: pairs, in the order of the prompts. A pair that was made before, of the
same prompt, weights and sampling, is taken from the store, so that everybody judges the same; then no model is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.data.rows import FORMATS, read
from luthier.errors import DataError, LuthierError
from luthier.feedback.store import Made, Store, item_of, judged
from luthier.models.source import Source, fingerprint
from luthier.tasks.conversation import conversation
from luthier.tasks.language import text_fault

if TYPE_CHECKING:
    from luthier.inference.sampling import Sampling
    from luthier.inference.writer import Writer

Prompt = str | list[dict[str, Any]]
COLUMNS = ("prompt", "messages", "conversations", "question", "instruction", "text")
"""Where prompts are looked for, in this order."""
BATCH = 4
"""Prompts that are answered together; while one batch is judged, the next is written."""


class Prompts(NamedTuple):
    """Prompts, each once, and what was left out of the file."""

    prompts: list[Prompt]
    notes: list[str]


class Written(NamedTuple):
    """An answer, and why it ended: stop or length."""

    text: str
    finish: str


def read_prompts(path: Path, *, column: str | None = None) -> Prompts:
    """The prompts of a file: one a line in a text file, else a column of texts or of messages (up to the last that is not an answer).

    Raises DataError for a file without any.
    """
    plain = any(FORMATS.get(s.lower()) == "text" for s in path.suffixes)
    rows = read(path, separator="\n") if plain else read(path)
    names = [column] if column else ["text"] if plain else [c for c in COLUMNS if c in rows.columns][:1]
    if not names or names[0] not in rows.columns:
        raise DataError(
            f"has no column {column!r}" if column else "has no column of prompts known here",
            where=str(path),
            remedy=f"name one of its columns with --column: {', '.join(rows.columns[:8])}",
        )
    found: dict[str, Prompt] = {}
    unusable = 0
    for row in rows.rows:
        prompt = _prompt(row.values.get(names[0]))
        if prompt is None:
            unusable += 1
        else:
            found.setdefault(json.dumps(prompt, sort_keys=True), prompt)
    left = {
        "unreadable": len(rows.quarantined),
        "empty or no prompt": unusable,
        "a prompt that stands there already": len(rows.rows) - unusable - len(found),
    }
    if not found:
        raise DataError(
            "holds no prompts", where=str(path), remedy="give one prompt a line (.txt), or a column named prompt (.jsonl, .csv)"
        )
    return Prompts(list(found.values()), [f"{path.name}: {count} left out: {why}" for why, count in left.items() if count])


def _prompt(cell: Any) -> Prompt | None:
    """A text, or the messages before an answer; None for what is neither."""
    if isinstance(cell, str) and cell.lstrip()[:1] == "[":
        try:
            cell = json.loads(cell)
        except ValueError:
            return cell.strip()
    if isinstance(cell, list):
        asked = list(cell)
        while asked and isinstance(asked[-1], dict) and asked[-1].get("role", asked[-1].get("from")) in ("assistant", "gpt"):
            asked.pop()
        whole = conversation({"messages": [*asked, {"role": "assistant", "content": "."}]}, "messages", names={}, system=None)
        return None if isinstance(whole, str) else whole.messages[:-1]
    return None if text_fault(cell) else cell.strip()


@dataclass
class Author:
    """A model that answers; loaded when it first does."""

    name: str
    source: Source
    notes: list[str] = field(default_factory=list)
    """What is to be said of the model once it is loaded."""
    _writer: Writer | None = None

    @property
    def digest(self) -> dict[str, Any]:
        """What its weights are: hashes of the files, or id and commit."""
        found = fingerprint(self.source, self.source.revision)
        return found.get("sha256", found)

    def write(self, prompts: Sequence[Prompt], wishes: Sequence[Sampling]) -> list[list[Written] | str]:
        """The answers to each prompt, or why there are none."""
        if self._writer is None:
            from luthier.inference.writer import Writer

            self._writer = Writer(self.source)
            self.notes += self._writer.loaded.notes
        try:
            found = self._writer.write(prompts, wishes)
        except LuthierError as error:
            if len(prompts) == 1:
                return [error.fault.message]
            return [answer for p, w in zip(prompts, wishes, strict=True) for answer in self.write([p], [w])]
        return [[Written(w.text.strip(), w.finish) for w in answers] for answers in found]


class Duel:
    """Pairs of answers by one model, drawn twice, or by two."""

    def __init__(self, store: Store, first: Author, second: Author | None, sampling: Sampling, *, batch: int = BATCH) -> None:
        """`sampling.seed` decides what is drawn, `batch` is how many prompts are answered together.

        Raises LuthierError where both answers would be one.
        """
        if second is None and sampling.temperature == 0:
            raise LuthierError(
                "two answers of one model are the same at temperature 0",
                where="--temperature",
                remedy="set it above 0, or name another model with --against",
            )
        self.store, self.authors, self.sampling = store, (first, second or first), sampling
        self.failed: dict[str, str] = {}
        """request -> why there is no pair."""
        self._alone, self._batch = second is None, batch
        self._asked = {"models": [a.digest for a in self.authors], "sampling": asdict(sampling)}

    def request(self, prompt: Prompt) -> str:
        """What a pair for a prompt depends on, as a hash."""
        return item_of({"prompt": prompt, **self._asked})

    def pairs(self, prompts: Sequence[Prompt]) -> Generator[Made, None, None]:
        """Each prompt's pair. The next batch is written while this one is looked at; what was written is kept, also on leaving."""
        requests = [self.request(p) for p in prompts]
        missing = [(r, p) for r, p in zip(requests, prompts, strict=True) if self.store.made(r) is None]
        batches = deque(missing[i : i + self._batch] for i in range(0, len(missing), self._batch))
        coming: deque[tuple[list[tuple[str, Prompt]], Future[list[Pair | str]]]] = deque()
        with ThreadPoolExecutor(1) as pool:

            def ahead() -> None:
                if batches:
                    batch = batches.popleft()
                    coming.append((batch, pool.submit(self._write, [p for _, p in batch])))

            try:
                ahead()
                for request in requests:
                    while (made := self.store.made(request)) is None and request not in self.failed:
                        batch, future = coming[0]
                        found = future.result()
                        coming.popleft()
                        ahead()
                        self._keep(batch, found)
                    if made is not None:
                        yield made
            finally:
                for batch, future in coming:
                    if not future.cancel() and future.exception() is None:
                        self._keep(batch, future.result())

    def _write(self, prompts: list[Prompt]) -> list[Pair | str]:
        """A pair for each prompt, or why there is none. The seeds depend on the prompt, so that answers to several are unlike."""
        from dataclasses import replace

        seeds = [_seed(self.sampling.seed or 0, p) for p in prompts]
        if self._alone:
            both = self.authors[0].write(prompts, [replace(self.sampling, seed=s, candidates=2) for s in seeds])
            return [found if isinstance(found, str) else Pair(found, [s, s + 1]) for found, s in zip(both, seeds, strict=True)]
        sides = [a.write(prompts, [replace(self.sampling, seed=s + i) for s in seeds]) for i, a in enumerate(self.authors)]
        made: list[Pair | str] = []
        for one, other, seed in zip(*sides, seeds, strict=True):
            fault = one if isinstance(one, str) else other if isinstance(other, str) else None
            made.append(fault if fault is not None else Pair([one[0], other[0]], [seed, seed + 1]))  # type: ignore[list-item]
        return made

    def _keep(self, batch: Sequence[tuple[str, Prompt]], found: Sequence[Pair | str]) -> None:
        for (request, prompt), pair in zip(batch, found, strict=True):
            if isinstance(pair, str):
                self.failed[request] = pair
                continue
            content = judged(prompt, *(a.text for a in pair.answers))
            order = [0, 1] if content["answers"][0] == pair.answers[0].text else [1, 0]
            source = {
                "models": [self.authors[i].name for i in order],
                "seeds": [pair.seeds[i] for i in order],
                "finish": [pair.answers[i].finish for i in order],
                "sampling": self._asked["sampling"],
            }
            self.store.keep(request, content, source=source)


class Pair(NamedTuple):
    """Two answers to a prompt, and the seeds that they were drawn with."""

    answers: list[Written]
    seeds: list[int]


def _seed(seed: int, prompt: Prompt) -> int:
    """A seed of a prompt's own, below 2**62."""
    return int.from_bytes(hashlib.sha256(f"{seed}\x1f{json.dumps(prompt, sort_keys=True)}".encode()).digest()[:8], "big") >> 2
