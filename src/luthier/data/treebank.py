"""Rows of words and trees to CoNLL-U, the way back of `data/conll.py`.

Enters: sentences with their words, where these stand in the text, and layers such as heads and relations. Leaves: the
text of a CoNLL-U file. Words that share one place in the text become a multi-word token again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.data.conll import FIELDS
from luthier.data.prepare import Words

LAYERS = tuple(name for name in FIELDS if name not in ("id", "words", "deps", "misc"))


def sentence(text: str, words: Words, layers: Mapping[str, Sequence[Any]]) -> str:
    """The lines of a sentence, a blank one last; layers that are missing, or not as long as the words, are `_`."""
    known = {n: layers[n] if isinstance(layers.get(n), list) and len(layers[n]) == len(words.forms) else None for n in LAYERS}
    lines = [f"# text = {' '.join(text.split())}"]
    places = list(words.offsets)
    for i, form in enumerate(words.forms):
        start, end = places[i]
        if i == 0 or places[i - 1] != places[i]:
            last = next((j for j in range(i, len(places)) if places[j] != places[i]), len(places))
            inside = last - i > 1
            if inside:
                lines.append("\t".join([f"{i + 1}-{last}", _cell(text[start:end]), *"_" * 7, _space(text, places, last)]))
        cells = [_cell(column[i]) if column is not None else "_" for column in known.values()]
        lines.append("\t".join([str(i + 1), _cell(form), *cells, "_", "_" if inside else _space(text, places, i + 1)]))
    return "\n".join(lines) + "\n\n"


def _space(text: str, places: Sequence[tuple[int, int]], after: int) -> str:
    """What the last column says of the space before the word with this index."""
    touching = (
        after < len(places) and places[after][0] == places[after - 1][1] and not text[places[after][0] : places[after][0] + 1].isspace()
    )
    return "SpaceAfter=No" if touching else "_"


def _cell(value: Any) -> str:
    return " ".join(str(value).split()) or "_" if value is not None else "_"
