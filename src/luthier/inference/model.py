"""A saved model, ready to answer: texts in, predictions out.

Enters: a model folder that Luthier wrote. Leaves: a `Predictor`, which applies the same prompt,
tokenisation and length as training did, and so gives the same answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.tokens import tokenize
from luthier.errors import DataError, ModelError
from luthier.inference.predict import outputs
from luthier.models import host as machine
from luthier.models import load as loading
from luthier.models.source import Source, check_folder
from luthier.recipe.sections import Data, Model
from luthier.registry import TASK_OPTIONS, TASKS


def read_card(folder: Path) -> dict[str, Any]:
    """What `luthier.json` of a model folder says. Raises ModelError when Luthier did not write it."""
    try:
        card = json.loads((folder / "luthier.json").read_text(encoding="utf-8"))
        return {k: card[k] for k in ("task", "state", "max_length", "text", "text_pair", "head", "pooling")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"was not written by Luthier: {error}", where=str(folder), remedy="give a run or its model folder") from None


def restore_task(card: dict[str, Any]) -> Any:
    """The task of a saved model, with its label space."""
    options = TASK_OPTIONS.load(card["task"]["type"]).model_validate(card["task"])
    data = Data(train=["none"], text=card["text"], text_pair=card["text_pair"])
    return TASKS.load(options.type)(options, data, **card["state"])


class Predictor:
    """Answers for one model. Not trained further; the folder is only read."""

    def __init__(self, folder: Path, *, device: str = "auto", threads: int | str = "auto", attention: str = "auto") -> None:
        """Load a model folder. Raises ModelError when Luthier did not write it or it is damaged."""
        self.card = read_card(folder)
        check_folder(folder)
        section = Model(name=str(folder), head=self.card["head"])
        self.task = restore_task(self.card)
        self.host = machine.set_up(device=device, threads=threads)  # type: ignore[arg-type]
        self.loaded = loading.load(
            Source(str(folder), str(folder), None),
            section,
            outputs=self.task.outputs,
            labels=self.task.labels,
            problem_type=self.task.problem_type,
            attention=attention,  # type: ignore[arg-type]
        )
        self.loaded.model.to(self.host.device)  # type: ignore[arg-type]
        self.loaded.model.eval()

    def outputs(self, texts: Sequence[str], pairs: Sequence[str | None] | None = None, *, max_tokens: int = 16384) -> NDArray[np.float64]:
        """Raw answers of the head, (texts, width), for texts that already carry their prompt."""
        tokens = tokenize(texts, pairs, self.loaded.tokenizer.backend_tokenizer, max_length=self.card["max_length"])  # type: ignore[attr-defined]
        return outputs(self.loaded.model, tokens.examples(), self.loaded.layout, max_tokens=max_tokens)

    def predict(self, rows: Sequence[str | dict[str, Any]]) -> list[dict[str, Any]]:
        """Predictions for texts, or for rows with the columns of training.

        Raises DataError for a row without its text or a column of the prompt.
        """
        prepared = [self._texts({self.card["text"]: r} if isinstance(r, str) else r, i) for i, r in enumerate(rows)]
        if not prepared:
            return []
        pairs = [p for _, p in prepared]
        return self.task.decode(self.outputs([t for t, _ in prepared], pairs if any(p is not None for p in pairs) else None))

    def _texts(self, row: dict[str, Any], number: int) -> tuple[str, str | None]:
        text = row.get(self.card["text"])
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"row {number + 1} has no text in {self.card['text']!r}", remedy="give a JSON object with that key, or a line of text"
            )
        pair = row.get(self.card["text_pair"]) if self.card["text_pair"] else None
        if self.card["text_pair"] and not isinstance(pair, str):
            raise DataError(f"row {number + 1} has no text in {self.card['text_pair']!r}", remedy="this model reads pairs of texts")
        if self.task.options.prompt:
            try:
                text = self.task.options.prompt.format(**{**row, "text": text})
            except KeyError as error:
                raise DataError(f"row {number + 1} has no column {error.args[0]!r}", remedy="the prompt of this model uses it") from None
        return text, pair
