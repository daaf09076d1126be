"""JSON by a schema."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.alignment.reading import fenced
from luthier.alignment.rewards.reward import Marks, Messages, Row, beside, cell
from luthier.errors import RewardError
from luthier.recipe.rewards.json_schema import JsonSchemaOptions
from luthier.registry import require


class JsonSchemaReward:
    """Whether it is JSON, and fits."""

    def __init__(self, options: JsonSchemaOptions, *, folder: Path, where: str) -> None:
        """Raises RewardError for a file that holds no schema, DependencyError without the package that reads them."""
        self.options, self.where = options, where
        self.fixed = self._of_file(options.file, folder) if options.file is not None else None
        if options.column is not None:
            _packages()

    def __call__(self, prompt: Messages, completions: Sequence[str], row: Row) -> Marks:
        """1, `parsed` or 0 for each completion. Raises RewardError where the row holds no schema."""
        validator = self.fixed
        if self.options.column is not None:
            given = cell(row, self.options.column)
            validator = _validator(given if isinstance(given, str) else json.dumps(given))
        parsed, valid = [], []
        for text in completions:
            value = _json(text, fence=self.options.fence)
            parsed.append(float(value is not None))
            valid.append(float(value is not None and (validator is None or validator.is_valid(value[0]))))
        scores = [1.0 if v else self.options.parsed * p for p, v in zip(parsed, valid, strict=True)]
        return Marks(scores, {"parsed": parsed, "valid": valid})

    def _of_file(self, name: str, folder: Path) -> Any:
        path = beside(name, folder)
        if path is None:
            raise RewardError(f"no file {name}", where=f"{self.where}.file", remedy="it is looked for from the recipe's folder")
        try:
            return _validator(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, RewardError) as error:
            said = error.fault.message if isinstance(error, RewardError) else str(error)
            raise RewardError(said, where=f"{self.where}.file", remedy=f"mend {path}") from None


def _packages() -> Any:
    return require("jsonschema", extra="rewards", purpose="validating JSON against a schema")


@functools.lru_cache(maxsize=1024)
def _validator(text: str) -> Any:
    """What checks against the schema in a text. A schema fetches nothing. Raises RewardError for one that is none."""
    jsonschema = _packages()
    specifications = require("jsonschema_specifications", extra="rewards", purpose="validating JSON against a schema")
    try:
        schema = json.loads(text)
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema)
    except (ValueError, TypeError, RecursionError, AttributeError) as error:
        raise RewardError(f"the schema is not JSON: {error}") from None
    except jsonschema.SchemaError as error:
        raise RewardError(f"not a JSON schema: {error.message}"[:200]) from None
    return kind(schema, registry=specifications.REGISTRY)


def _json(text: str, *, fence: bool) -> tuple[Any] | None:
    """The value that a completion writes, in a tuple, for it may be null; None where it writes none."""
    block = fenced(text, languages=("json",)) if fence else None
    try:
        return (json.loads(text if block is None else block, parse_constant=_no_constant),)
    except (ValueError, RecursionError):
        return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
