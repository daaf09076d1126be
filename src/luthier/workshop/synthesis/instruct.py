"""Further tasks like some seed tasks (Wang et al., Self-Instruct, ACL 2023), with their answers in the same reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.data.rows import Row
from luthier.recipe.synthesis.instruct import InstructOptions
from luthier.workshop.synthesis.kind import ROUND, Ask, Candidate, Unchosen, columns, draw_of, listed, objects, origin, request_of, said

PROMPT = """Here are tasks for an assistant, each a JSON object on a line of its own:

{examples}

Write {count} new tasks in the same form, with their answers. Let them differ from these and from one another in subject, in kind and \
in wording. Reply with the {count} JSON objects alone, one a line."""


class Instruct(Unchosen):
    """Each request shows other tasks: two of three from the file, the others made before."""

    def __init__(self, options: InstructOptions, rows: Sequence[Row]) -> None:
        """Raises DataError for columns that are not there."""
        self.options = options
        self._seeds = columns(rows, {options.instruction: "instruction", options.output: "output"})
        self.usable = len(self._seeds)

    def asks(self, number: int, made: Sequence[Candidate]) -> list[Ask]:
        o, found = self.options, list[Ask]()
        for i in range(ROUND):
            draw = draw_of(o, "instruct", number, i)
            new = draw.sample(list(made), min(len(made), o.examples // 3))
            seeds = draw.sample(self._seeds, min(len(self._seeds), o.examples - len(new)))
            shown = [self._task(s.values) for s in seeds] + [c.row for c in new]
            draw.shuffle(shown)
            prompt = PROMPT.format(examples=listed(shown), count=o.per_request)
            found.append(Ask((request_of(o, prompt, number, i),), tuple(map(origin, seeds))))
        return found

    def read(self, ask: Ask, texts: Sequence[str]) -> list[Candidate]:
        o, found = self.options, list[Candidate]()
        for value in objects(texts[0]):
            row = {name: said(value.get(name)) for name in (o.instruction, o.input, o.output)}
            if row[o.instruction] and row[o.output]:
                found.append(Candidate(row, f"{row[o.instruction]}\n{row[o.input]}".strip(), ask.about))
        return found

    def text(self, row: dict[str, Any]) -> str | None:
        if not isinstance(row.get(self.options.instruction), str):
            return None
        return f"{row[self.options.instruction]}\n{said(row.get(self.options.input))}".strip()

    def _task(self, values: dict[str, Any]) -> dict[str, str]:
        return {name: said(values.get(name)) for name in (self.options.instruction, self.options.input, self.options.output)}
