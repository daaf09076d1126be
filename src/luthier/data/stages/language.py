"""The language filter: rows in other languages go."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from luthier.data.stages.stage import Verdicts
from luthier.data.stages.texts import joined, text_columns
from luthier.errors import DataError
from luthier.registry import nearest, require

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.language import LanguageOptions

ENOUGH = 1000
"""Characters that tell the language."""


class Language:
    """Asks py3langid (Lui and Baldwin, langid.py, ACL 2012), which covers 97 languages offline."""

    def __init__(self, options: LanguageOptions, schema: pa.Schema) -> None:
        self.schema, self._options = schema, options
        self._columns = text_columns(schema, options.columns, stage="language")
        known = identifier().nb_classes
        for code in options.keep:
            if code not in known:
                guess = nearest(code, known)
                remedy = f"did you mean {guess}?" if guess else f"known are: {', '.join(sorted(known))}"
                raise DataError(f"unknown language {code!r}", where="language.keep", remedy=remedy)

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        options, counts = self._options, dict[str, int]()
        dropped: dict[int, str] = {}
        for row, text in enumerate(joined(batch, self._columns)):
            if len(text.strip()) < options.min_characters:
                counts["too short to tell"] = counts.get("too short to tell", 0) + 1
                continue
            code, probability = identifier().classify(text[:ENOUGH])
            counts[code] = counts.get(code, 0) + 1
            if code not in options.keep and probability >= options.min_probability:
                dropped[row] = f"language {code}: {probability:.2f}"
        return Verdicts(batch, dropped=dropped, counts=counts)


@functools.cache
def identifier() -> Any:
    """What tells languages, with probabilities."""
    package = require("py3langid.langid", extra="data", purpose="telling languages")
    return package.LanguageIdentifier.from_model_file(package.MODEL_FILE, norm_probs=True)
