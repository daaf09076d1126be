"""Where something is asked over HTTP, and how patiently: what a judge and an endpoint that writes share."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Address(BaseModel):
    """An address with its token, time limit and further tries."""

    url: str = Field(description="where it listens, with the path")
    token_env: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = Field(
        None, description="name of the environment variable that holds the bearer token"
    )
    timeout: Annotated[float, Field(gt=0)] = Field(30.0, description="seconds that one request may take")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(3, description="times that a request is tried again after a failure that may pass")
    backoff: Annotated[float, Field(ge=0, le=60)] = Field(
        0.5, description="seconds before the first further try; then twice as long each time"
    )
    concurrency: Annotated[int, Field(gt=0, le=256)] = Field(8, description="requests at once")

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an address that begins with http:// or https://")
        if parts.username is not None or parts.password is not None:
            raise ValueError("holds a user or password: name the environment variable of a token in token_env")
        _ = parts.port  # raises ValueError for one that is no number
        return value

    @model_validator(mode="after")
    def _no_token_in_the_clear(self) -> Address:
        parts = urlsplit(self.url)
        if self.token_env is not None and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError("would send the token in the clear: take https://")
        return self


class Endpoint(Address):
    """An OpenAI-compatible chat endpoint."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    url: str = Field(description="where it listens, with the path: http://127.0.0.1:8000/v1/chat/completions")
    model: str = Field(description="name of the model, as the endpoint knows it")
    timeout: Annotated[float, Field(gt=0)] = Field(120.0, description="seconds that one request may take")
