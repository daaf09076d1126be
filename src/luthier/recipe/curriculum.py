"""Options of the curriculum: which data come when."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Curriculum(BaseModel):
    """The `curriculum:` section of a recipe. Its streams are the names under task.tasks; with data.earlier they are earlier and new."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    type: Literal["single", "mixture", "sequential", "progressive", "replay"] = Field(
        "single",
        description="all rows alike; streams in shares; one after the other; one whose share rises; with replay of earlier ones",
    )
    order: list[str] | None = Field(None, description="sequential, replay: names of the streams, first to last; as written where absent")
    mixing: Literal["proportional", "uniform", "temperature", "dynamic"] | dict[str, Positive] = Field(
        "proportional", description="mixture: shares by rows, equal, by a root of the rows, by how much loss is left; or a weight a stream"
    )
    temperature: Annotated[float, Field(ge=1)] = Field(2.0, description="mixing temperature: shares go as rows to the power of one over it")
    new: str | None = Field(None, description="progressive: the stream whose share rises; the last one where absent")
    start: Share = Field(0.1, description="progressive: share of the new stream at the beginning")
    end: Share = Field(0.9, description="progressive: share of the new stream at the end")
    rise: Literal["linear", "cosine"] = Field("linear", description="progressive: the course of the rise")
    share: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="replay: share of earlier rows in every later stage")
    reservoir: Annotated[int, Field(gt=0)] = Field(1000, description="replay: earlier rows that are kept at most")
    selection: Literal["uniform", "balanced", "recent"] = Field(
        "uniform",
        description="replay: rows kept from all earlier ones alike, equally many of each stream, or from the last stream alone; of an "
        "earlier run from all alike, equally many of each label, or none that it replayed itself",
    )

    @model_validator(mode="after")
    def _fitting(self) -> Curriculum:
        own = {
            "single": (), "mixture": ("mixing", "temperature"), "sequential": ("order",),
            "progressive": ("new", "start", "end", "rise"), "replay": ("order", "share", "reservoir", "selection"),
        }[self.type]  # fmt: skip
        for name, field in type(self).model_fields.items():
            if name not in ("type", *own) and getattr(self, name) != field.default:
                raise ValueError(f"{self.type} takes no {name}")
        if self.temperature != 2.0 and self.mixing != "temperature":
            raise ValueError("temperature is for mixing: temperature")
        return self
