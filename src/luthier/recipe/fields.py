"""Kinds of recipe fields that several sections share."""

from __future__ import annotations

import re
import string
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def template(value: str, *, needs: str, what: str) -> str:
    """The value, a template with plain names in braces. Raises ValueError where it is none, or has no place for `what` it `needs`."""
    try:
        parts = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(value) if name is not None]
    except ValueError as error:
        raise ValueError(f"not a template: {error}") from None
    if needs not in [name for name, _, _ in parts]:
        raise ValueError(f"needs {{{needs}}}, the place where the {what} goes")
    if any(not name.isidentifier() or spec or conversion for name, spec, conversion in parts):
        raise ValueError("takes plain column names in braces; write {{ and }} for braces themselves")
    return value


def _prompt(value: str) -> str:
    return template(value, needs="text", what="text")


def regular_expressions(values: list[str]) -> list[str]:
    """The values, each of them a regular expression. Raises ValueError for one that is none."""
    for value in values:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
    return values


Strings = Annotated[list[str], BeforeValidator(_as_list)]
"""A list of strings, or one string for a list of one."""
Prompt = Annotated[str, AfterValidator(_prompt)]
"""A template around {text} and other columns by name."""
