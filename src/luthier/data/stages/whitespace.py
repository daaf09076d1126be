"""White space: runs of spaces, spaces around lines, empty lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from luthier.data.stages.stage import Verdicts
from luthier.data.stages.texts import retouched, text_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.whitespace import WhitespaceOptions

SPACES = re.compile(r"[^\S\n]+")
AROUND = re.compile(r" ?\n ?")
EMPTY = re.compile(r"\n{3,}")


class Whitespace:
    """One space between words, one empty line at most between lines, none around."""

    def __init__(self, options: WhitespaceOptions, schema: pa.Schema) -> None:
        self.schema, self._join = schema, options.lines == "join"
        self._columns = text_columns(schema, options.columns, stage="whitespace")

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        return retouched(batch, self._columns, self._tidy, reason="spaces")

    def _tidy(self, text: str) -> str:
        if self._join:
            return " ".join(text.split())
        text = SPACES.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))
        return EMPTY.sub("\n\n", AROUND.sub("\n", text)).strip()
