"""HTML in texts: known tags and comments taken out, blocks made lines, entities made characters.

Only what is a tag of HTML is taken for one: `<3`, `a < b > c` and `<unknown>` stay.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from luthier.data.stages.stage import Verdicts
from luthier.data.stages.texts import retouched, text_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.markup import MarkupOptions

BLOCKS = (
    "address|article|aside|blockquote|body|br|caption|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|head|header|hr|"
    "html|legend|li|main|nav|ol|option|p|pre|section|select|summary|table|tbody|tfoot|thead|title|tr|ul"
)
INLINE = (
    "a|abbr|acronym|area|audio|b|base|bdi|bdo|big|button|canvas|center|cite|code|col|colgroup|data|datalist|del|dfn|dialog|em|embed|font|"
    "frame|frameset|i|iframe|img|input|ins|kbd|label|link|map|mark|meta|meter|noscript|object|optgroup|output|param|picture|progress|q|rp|"
    "rt|ruby|s|samp|script|slot|small|source|span|strike|strong|style|sub|sup|svg|td|template|textarea|th|time|track|tt|u|var|video|wbr"
)
HIDDEN = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->|<!doctype[^<>]*>|<!\[CDATA\[|\]\]>", re.I | re.S)
ATTRIBUTES = r"""(?:\s+[\w:@.-]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))?)*\s*/?"""
BLOCK = re.compile(rf"(?:\s*</?(?:{BLOCKS}){ATTRIBUTES}>)+[^\S\n]*", re.I)
CELL = re.compile(rf"</?(?:td|th){ATTRIBUTES}>", re.I)
TAG = re.compile(rf"</?(?:{INLINE}){ATTRIBUTES}>", re.I)
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


class Markup:
    """Takes HTML out of texts."""

    def __init__(self, options: MarkupOptions, schema: pa.Schema) -> None:
        self.schema, self._options = schema, options
        self._columns = text_columns(schema, options.columns, stage="markup")

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        return retouched(batch, self._columns, self._plain, reason="markup")

    def _plain(self, text: str) -> str:
        if self._options.tags == "remove" and "<" in text and ">" in text:
            text = without_tags(text)
        if self._options.entities and "&" in text:
            text = ENTITY.sub(lambda m: html.unescape(m[0]), text)
        return text


def without_tags(text: str) -> str:
    """The text that a browser would show, a line a block."""
    plain = TAG.sub("", CELL.sub(" ", BLOCK.sub("\n", HIDDEN.sub("", text))))
    return plain if plain == text else plain.strip()
