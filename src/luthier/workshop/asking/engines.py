"""What answers: an OpenAI-compatible endpoint, or a model on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.alignment.request import Failure, bearer, post
from luthier.errors import EndpointError, LuthierError
from luthier.models.source import Source, fingerprint
from luthier.workshop.asking.request import Reply, Request
from luthier.workshop.asking.voice import TOO_LONG

if TYPE_CHECKING:
    from luthier.inference.writer import Writer
    from luthier.recipe.address import Endpoint

TOGETHER = 16
"""Prompts that a model on this machine answers in one call."""
CHARACTERS = 4
"""Characters of a token, where the endpoint does not count them."""


class Elsewhere:
    """A chat endpoint. Nothing is followed, and no proxy is asked (alignment/request.py)."""

    batch = 1

    def __init__(self, options: Endpoint, *, where: str) -> None:
        """Raises EndpointError where the environment does not hold the token."""
        self.options = options
        self.identity = f"{options.url} {options.model}"
        self.concurrency, self.retries, self.backoff = options.concurrency, options.retries, options.backoff
        try:
            self._headers = bearer(options.token_env)
        except KeyError:
            raise EndpointError(
                f"the environment has no {options.token_env}", where=f"{where}.token_env", remedy=f"export {options.token_env}=..."
            ) from None

    def __call__(self, requests: list[Request]) -> list[Reply | Failure]:
        return [self._one(r) for r in requests]

    def _one(self, request: Request) -> Reply | Failure:
        body = {
            "model": self.options.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
        }
        try:
            found = post(self.options.url, body, headers=self._headers, timeout=self.options.timeout, who="the endpoint")
        except Failure as failure:
            # nonsense may pass as well: the next try is drawn afresh
            return Failure(str(failure), passing=True, status=200) if failure.status == 200 else failure
        try:
            text = found["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            text = None
        if not isinstance(text, str) or not text.strip():
            return Failure("the endpoint gave no text", passing=True, status=200)
        text = text.encode("utf-8", "replace").decode()
        return Reply(text, _tokens(found, request, text))


class Here:
    """A run, a model folder or an alias, loaded when it is first asked: where the journal has every answer, it never is."""

    batch, concurrency, retries, backoff = TOGETHER, 1, 0, 0.0

    def __init__(self, source: Source) -> None:
        self._source = source
        self._writer: Writer | None = None
        self.identity = f"{Path(source.name).name} {_weights(source)}"

    def __call__(self, requests: list[Request]) -> list[Reply | Failure]:
        from luthier.inference.generate import Sampling
        from luthier.inference.writer import Writer

        writer = self._writer = self._writer or Writer(self._source)
        room = writer.max_length - 1
        found: dict[int, Reply | Failure] = {}
        lengths: dict[int, int] = {}
        for place, request in enumerate(requests):
            try:
                length = len(writer.prompt_ids(request.prompt))
            except LuthierError as error:
                found[place] = Failure(error.fault.message, status=TOO_LONG)
                continue
            if length > room:
                found[place] = Failure(f"the prompt has {length} tokens, and the model reads {room} at most", status=TOO_LONG)
            else:
                lengths[place] = length
        asked = [requests[p] for p in lengths]
        sampling = [Sampling(max_new_tokens=r.max_tokens, temperature=r.temperature, seed=r.seed if r.temperature else None) for r in asked]
        written = writer.write([r.prompt for r in asked], sampling) if asked else []
        for (place, length), candidates in zip(lengths.items(), written, strict=True):
            found[place] = Reply(candidates[0].text, length + len(candidates[0].tokens))
        return [found[p] for p in range(len(requests))]


def _tokens(found: Any, request: Request, text: str) -> int:
    """What the endpoint counted; an estimate where it did not."""
    usage = found.get("usage") if isinstance(found, dict) else None
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    if isinstance(total, int) and not isinstance(total, bool) and total >= 0:
        return total
    return (len(request.prompt) + len(text)) // CHARACTERS + 1


def _weights(source: Source) -> str:
    """A short name of what the model is, so that another one in its folder is another one."""
    import hashlib
    import json

    facts = fingerprint(source, source.revision)
    told = json.dumps(facts.get("sha256", facts), sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def source_of(name: str, *, folder: Path, where: str) -> Source:
    """The files of a run (its folder, or its name under runs/), of a model folder or an alias.

    Raises EndpointError where there are none.
    """
    from luthier.errors import ModelError
    from luthier.models.source import NAMES, is_model, resolve
    from luthier.recipe.sections import Model

    if name not in NAMES:
        for base in (folder, Path.cwd()):
            for place in (base / Path(name).expanduser(), base / "runs" / name):
                for candidate in (place / "model", place):
                    if is_model(candidate):
                        return Source(str(candidate), str(candidate), None)
    try:
        return resolve(Model(name=name), folder=folder)
    except ModelError as error:
        raise EndpointError(error.fault.message, where=where, remedy="give a run's name or folder, a model folder or an alias") from None
