"""Public places that data come from, named with their commit, so that a recipe means the same rows for everybody."""

from __future__ import annotations

import re
from typing import NamedTuple


class Origin(NamedTuple):
    """host, owner/repository, commit and folder of a public data set."""

    host: str
    repository: str
    commit: str
    folder: str


def parse(text: str) -> Origin:
    """`github:OWNER/REPO@COMMIT[/FOLDER]` or `hf:OWNER/NAME@COMMIT[/FOLDER]`; ValueError otherwise."""
    match = re.fullmatch(r"(github|hf):([\w.-]+/[\w.-]+)@([0-9a-f]{40})(?:/(.+))?", text)
    if match is None:
        raise ValueError("expected github:OWNER/REPO@COMMIT[/FOLDER] or hf:OWNER/NAME@COMMIT, with the full commit")
    return Origin(match[1], match[2], match[3], (match[4] or "").strip("/"))
