"""A saved model, ready to answer: texts in, predictions out.

Enters: a model folder that Luthier wrote. Leaves: a `Predictor`, which applies the same prompt,
tokenisation and length as training did, and so gives the same answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.prepare import Record
from luthier.data.tokens import Encoded, tokenize
from luthier.errors import DataError, ModelError
from luthier.inference.predict import combining, outputs
from luthier.models import host as machine
from luthier.models import load as loading
from luthier.models.source import Source, check_folder
from luthier.recipe.sections import Data, Model
from luthier.registry import TASK_OPTIONS, TASKS


def read_card(folder: Path) -> dict[str, Any]:
    """What `luthier.json` of a model folder says. Raises ModelError when Luthier did not write it."""
    try:
        card = json.loads((folder / "luthier.json").read_text(encoding="utf-8"))
        return {k: card[k] for k in ("task", "state", "max_length", "text", "text_pair", "head")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"was not written by Luthier: {error}", where=str(folder), remedy="give a run or its model folder") from None


def restore_task(card: dict[str, Any]) -> Any:
    """The task of a saved model, with its label space."""
    options = TASK_OPTIONS.load(card["task"]["type"]).model_validate(card["task"])
    data = Data(train=["none"], text=card["text"], text_pair=card["text_pair"])
    return TASKS.load(options.type)(options, data, **card["state"])


def refuse_foreign_head(head: str, folder: Path) -> None:
    """Raise ModelError when a model folder from elsewhere names code for its head.

    A `module:callable` is imported and called; that is for models made here, below the working folder.
    """
    if ":" in head and Path.cwd().resolve() not in folder.resolve().parents:
        raise ModelError(
            f"wants to run {head} for its head",
            where=str(folder),
            remedy="if you trust it, move it below the working folder, beside the module that it names",
        )


class Predictor:
    """Answers for one model. Not trained further; the folder is only read."""

    def __init__(self, folder: Path, *, device: str = "auto", threads: int | str = "auto", attention: str = "auto") -> None:
        """Load a model folder. Raises ModelError when Luthier did not write it or it is damaged."""
        self.card = read_card(folder)
        check_folder(folder)
        refuse_foreign_head(self.card["head"], folder)
        section = Model(name=str(folder), head=self.card["head"])
        self.task = restore_task(self.card)
        self.host = machine.set_up(device=device, threads=threads)  # type: ignore[arg-type]
        self.loaded = loading.load(
            Source(str(folder), str(folder), None),
            section,
            head=self.task.head,
            attention=attention,  # type: ignore[arg-type]
            finished=True,
        )
        self.loaded.model.to(self.host.device)  # type: ignore[arg-type]
        self.loaded.model.eval()
        self.truncated = 0

    def outputs(self, texts: Sequence[str], pairs: Sequence[str | None] | None = None, *, max_tokens: int = 16384) -> NDArray[np.float64]:
        """Raw answers of the head, (texts, width), for texts that already carry their prompt; cut ones are counted."""
        tokens = tokenize(texts, pairs, self.loaded.tokenizer.backend_tokenizer, max_length=self.card["max_length"])  # type: ignore[attr-defined]
        self.truncated += tokens.truncated
        layout = self.loaded.layout
        answer = self.task.answer(layout)
        return outputs(self.loaded.model, self.loaded.lay(tokens), layout, answer=answer, max_tokens=max_tokens)

    def measure(self, records: Sequence[Record], *, max_tokens: int = 16384) -> tuple[list[Record], NDArray[np.float64]]:
        """The records that could be laid out, and what the task's scores are made of for each, (records, width)."""
        encoded = self._encode(records)
        kept = [r for i, r in enumerate(records) if i not in encoded.rejected]
        return kept, self._answers(kept, encoded, max_tokens)

    def _encode(self, records: Sequence[Record]) -> Encoded:
        encoded: Encoded = self.task.encode(
            records, self.loaded.tokenizer, config=self.loaded.model.config, max_length=self.card["max_length"], train=False
        )
        self.truncated += encoded.tokens.truncated
        return encoded

    def _answers(self, records: Sequence[Record], encoded: Encoded, max_tokens: int) -> NDArray[np.float64]:
        tokens, layout = self.loaded.lay(encoded.tokens), self.loaded.layout
        answer, combine = self.task.answer(layout), combining(self.task, records)
        return outputs(self.loaded.model, tokens, layout, answer=answer, max_tokens=max_tokens, combine=combine)

    def refusal(self, row: str | dict[str, Any]) -> str | None:
        """Why a text or row cannot be answered, by the rules of training; None where it can."""
        return self.refusals([row])[0]

    def refusals(self, rows: Sequence[str | dict[str, Any]]) -> list[str | None]:
        """The same for many at once: what is wrong with the texts, or that they cannot be laid out in tokens."""
        faults: list[str | None] = []
        records = []
        for number, row in enumerate(rows):
            found = self._texts(row)
            faults.append(found if isinstance(found, str) else None)
            if not isinstance(found, str):
                records.append(_asked(found, number))
        truncated = self.truncated
        rejected = self._encode(records).rejected if records else {}
        self.truncated = truncated  # they are counted when they are answered
        for index, reason in rejected.items():
            faults[records[index].line] = reason
        return faults

    def predict(self, rows: Sequence[str | dict[str, Any]]) -> list[dict[str, Any]]:
        """Predictions for texts, or for rows with the columns of training.

        Raises DataError for the first that cannot be answered.
        """
        names = [self.card["text"], *filter(None, [self.card["text_pair"]])]
        records = []
        for number, row in enumerate(rows, 1):
            found = self._texts(row)
            if isinstance(found, str):
                reads = getattr(self.task, "reads", None) or " and ".join(map(repr, names))
                raise DataError(f"row {number}: {found}", remedy=f"this model reads {reads}, as in training")
            records.append(_asked(found, number))
        if not records:
            return []
        encoded = self._encode(records)
        for index, reason in encoded.rejected.items():
            raise DataError(f"row {index + 1}: {reason}", remedy="leave it out, or shorten it")
        return self.task.decode(self._answers(records, encoded, 16384), records)

    def _texts(self, row: str | dict[str, Any]) -> Record | tuple[str, str | None] | str:
        return self.task.texts({self.card["text"]: row} if isinstance(row, str) else row)


def _asked(found: Record | tuple[str, str | None], number: int) -> Record:
    """What a row asks, as a record without a target."""
    return replace(found, line=number) if isinstance(found, Record) else Record(found[0], found[1], None, "", number)
