"""Options of Unicode repair."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.stages.options import TextStageOptions


class UnicodeOptions(TextStageOptions):
    """Texts decoded wrongly, characters written in several ways, characters nobody sees."""

    type: Literal["unicode"] = "unicode"
    mojibake: bool = Field(True, description="repair texts that were decoded with the wrong encoding: schÃ¶n becomes schön")
    form: Literal["NFC", "NFD", "NFKC", "NFKD", "none"] = Field("NFC", description="normal form of every character")
    control: Literal["remove", "space", "keep"] = Field(
        "remove", description="control characters other than tab and line break, byte-order marks, marks of direction and unassigned ones"
    )
