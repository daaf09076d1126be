"""Options of personal data and secrets, and the names of what can be found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from luthier.recipe.stages.options import Columns, TextStageOptions
from luthier.registry import nearest

FAMILIES: dict[str, tuple[str, ...]] = {
    "email": ("email",),
    "phone": ("phone",),
    "card": ("card",),
    "iban": ("iban",),
    "ip": ("ip",),
    "credentials": ("credentials",),
    "national": (
        "us_ssn", "us_itin", "uk_nino", "uk_nhs", "de_tax_id", "fr_nir", "es_dni", "es_nie", "it_codice_fiscale", "nl_bsn",
        "be_national", "pl_pesel", "se_personnummer", "fi_hetu", "ch_ahv", "pt_nif", "br_cpf", "ca_sin", "au_tfn", "in_aadhaar",
        "in_pan", "cn_id", "kr_rrn", "za_id", "passport", "driver_license",
    ),
    "birth_date": ("birth_date",),
    "address": ("address",),
    "secret": ("private_key", "jwt", "api_key", "password", "token"),
    "name": ("name",),
}  # fmt: skip
"""Families of types; a family may be named wherever a type may."""
TYPES = tuple(t for types in FAMILIES.values() for t in types)
Action = Literal["mask", "pseudonymise", "drop", "report"]


def expanded(names: Iterable[str]) -> list[str]:
    """Types, from types and families. Raises ValueError for a name that is neither."""
    known = {**{t: (t,) for t in TYPES}, **FAMILIES}
    found: list[str] = []
    for name in names:
        if name not in known:
            guess = nearest(name, known)
            raise ValueError(f"unknown type {name!r}" + (f"; did you mean {guess}?" if guess else f"; families: {', '.join(FAMILIES)}"))
        found += known[name]
    return found


class PrivacyOptions(TextStageOptions):
    """Personal data and secrets are found, then masked, given pseudonyms, or their rows dropped."""

    type: Literal["privacy"] = "privacy"
    types: Columns = Field(default_factory=lambda: list(FAMILIES), description="what is looked for: types or families of them")
    action: Action = Field(
        "mask",
        description="what becomes of a find: mask ([EMAIL]), pseudonymise (the same value, the same pseudonym), drop the row, "
        "or report it and leave it",
    )
    actions: dict[str, Action] = Field(default_factory=dict, description="another action for some types or families: {us_ssn: drop}")
    min_score: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="the least confidence of a find; lower finds more that is none")
    names: str | None = Field(
        None, description="how names of persons are found: folder of a tagging run, or a text file with a name a line; else they are not"
    )
    secret: str = Field(
        "LUTHIER_PSEUDONYM_SECRET", pattern=r"^[A-Za-z_]\w*$", description="environment variable that holds the secret of the pseudonyms"
    )

    @field_validator("types")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        expanded(value)
        return value

    @model_validator(mode="after")
    def _fits(self) -> PrivacyOptions:
        wanted = set(expanded(self.types))
        for name in self.actions:
            if wanted.isdisjoint(expanded([name])):
                raise ValueError(f"actions names {name}, which types does not look for")
        if self.names is not None and "name" not in wanted:
            raise ValueError("names is given, but types does not look for name")
        return self

    def action_of(self) -> dict[str, Action]:
        """The action for each type that is looked for; a type's own goes before its family's."""
        families = {t: family for family, types in FAMILIES.items() for t in types}
        return {t: self.actions.get(t, self.actions.get(families[t], self.action)) for t in dict.fromkeys(expanded(self.types))}
