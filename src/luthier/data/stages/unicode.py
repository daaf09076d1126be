"""Unicode: texts that were decoded wrongly, normal forms, characters that nobody sees."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from luthier.data.stages.stage import Verdicts
from luthier.data.stages.texts import retouched, text_columns
from luthier.registry import require

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.unicode import UnicodeOptions

CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
"""C0 and C1 controls but tab, line feed, carriage return and next line; invisible marks but the joiners, which some scripts and
emoji need (Unicode 16, general categories Cc and Cf; https://www.unicode.org/versions/Unicode16.0.0/)."""


class Unicode:
    """Repairs in this order: mojibake (ftfy), the normal form, control characters."""

    def __init__(self, options: UnicodeOptions, schema: pa.Schema) -> None:
        self.schema, self._options = schema, options
        self._columns = text_columns(schema, options.columns, stage="unicode")
        self._fix = require("ftfy", extra="data", purpose="repairing mojibake").fix_encoding if options.mojibake else None

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        return retouched(batch, self._columns, self._repaired, reason="characters")

    def _repaired(self, text: str) -> str:
        options = self._options
        if not text.isascii():
            if self._fix is not None:
                text = self._fix(text)
            if options.form != "none" and not unicodedata.is_normalized(options.form, text):
                text = unicodedata.normalize(options.form, text)
        if options.control != "keep" and not text.isprintable():
            text = CONTROL.sub("" if options.control == "remove" else " ", text)
        return text
