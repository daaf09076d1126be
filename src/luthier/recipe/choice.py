"""Sections that choose one of several: a bare name, or a section with a `type`, read by that type's own options."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from luthier.registry import Registry, nearest


def chosen(value: Any, kind: str, base: type[BaseModel], known: Registry) -> Any:
    """Let the options class of the named task, method, way or reward validate the section. Raises ValueError for an unknown name."""
    if isinstance(value, base):
        return value
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, dict):
        raise ValueError(f"expected the name of a {kind} or a section with a type")
    if "type" not in value:
        raise ValueError(f"says no type: one of {', '.join(known.names())}")
    name = str(value["type"])
    if name not in known.names():
        guess = nearest(name, known.names())
        raise ValueError(f"unknown {kind} {name!r}" + (f"; did you mean {guess}?" if guess else f"; one of: {', '.join(known.names())}"))
    return known.load(name).model_validate(value)
