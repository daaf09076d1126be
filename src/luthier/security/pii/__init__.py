"""Personal data in texts: pure functions from a text to spans, one family of types a file; `find` runs them all."""

from luthier.security.pii.find import find
from luthier.security.pii.span import Span

__all__ = ["Span", "find"]
