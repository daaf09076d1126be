"""A saved model, ready to write: texts or conversations in, texts out.

Enters: a model folder (a run's, a plain transformers one) or an alias. Leaves: a `Writer`, which lays
prompts out as training did, with the template that the model carries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError, ModelError
from luthier.inference.generate import Sampling, Written, generate, stream
from luthier.inference.model import read_card, restore_task
from luthier.models import host as machine
from luthier.models import load as loading
from luthier.models.heads import Head
from luthier.models.source import Source, resolve
from luthier.recipe.sections import Model
from luthier.tasks.template import Renderer
from luthier.tasks.tokenizer import renderer_of, stop_ids


class Writer:
    """Writes with one model. Not trained further; the folder is only read."""

    def __init__(self, source: Source, *, device: str = "auto", threads: int | str = "auto", precision: str = "fp32") -> None:
        """Load a model. Raises ModelError for one that cannot write, or is damaged."""
        self.card: dict[str, Any] | None = None
        self.task: Any = None
        if source.local is not None and (source.local / "luthier.json").is_file():
            self.card = read_card(source.local)
            self.task = restore_task(self.card)
            if not self.task.writes:
                use = "fill" if self.task.masked else "predict"
                raise ModelError(f"was trained for {self.task.name}: it does not write", where=str(source.local), remedy=f"luthier {use}")
        self.host = machine.set_up(device=device, threads=threads, precision=precision)  # type: ignore[arg-type]
        self.loaded = loading.load(source, Model(name=source.name), head=_head, attention="auto", finished=True)
        self.loaded.model.to(self.host.device)  # type: ignore[arg-type]
        if self.loaded.quantization == "none":  # a quantised model has its precisions
            self.loaded.model.to(self.host.dtype)  # type: ignore[arg-type]
        self.loaded.model.eval()
        self.tokenizer, self.config = self.loaded.tokenizer, self.loaded.model.config
        self.max_length: int = min(self.card["max_length"], self.loaded.max_length) if self.card else self.loaded.max_length
        self.converses = self.task.converses if self.task is not None else bool(self.tokenizer.chat_template)

    @classmethod
    def open(cls, name: str | Path, **options: Any) -> Writer:
        """By alias, folder or hub id."""
        return cls(resolve(Model(name=str(name))), **options)

    @property
    def renderer(self) -> Renderer:
        """The model's own chat template."""
        return renderer_of(self.tokenizer)

    @property
    def stops(self) -> list[int]:
        """The tokens that end an answer."""
        return stop_ids(self.tokenizer, config=self.config)

    def prompt_ids(self, prompt: str | Sequence[Mapping[str, Any]], *, tools: Sequence[Any] | None = None) -> list[int]:
        """What the model reads for a text, or for messages; a text for a chat model is a user's message."""
        if not prompt:
            raise LuthierError("the prompt is empty", remedy="give some text, or a message")
        if isinstance(prompt, str) and not self.converses:
            if self.task is not None and self.task.answers:
                text = self.task.source({self.card["text"]: prompt}) if self.card else prompt
                if isinstance(text, str):
                    raise LuthierError(text, remedy="this model's prompt needs more columns than one text")
                return self.task.prompt_ids([text[0]], self.tokenizer, config=self.config, max_length=self.max_length)[0]
            return list(self.tokenizer(prompt).input_ids)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        for message in messages:
            mark = self.renderer.control_token(str(message.get("content") or ""))
            if mark:
                raise LuthierError(f"a message holds the control token {mark!r}", remedy="take it out")
        return list(self.tokenizer(self.renderer.prompt(messages, tools=tools), add_special_tokens=False).input_ids)

    def write(
        self,
        prompts: Sequence[str | Sequence[Mapping[str, Any]]],
        sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008  (frozen)
        *,
        tools: Sequence[Any] | None = None,
        constraint: Any = None,
    ) -> list[list[Written]]:
        """For each text or conversation, its candidates; `tools` are what conversations may call."""
        return generate(
            self.loaded.model,
            self.tokenizer,
            [[*self.loaded.virtual, *self.prompt_ids(p, tools=tools)] for p in prompts],
            sampling,
            stop_ids=self.stops,
            max_length=self.max_length + len(self.loaded.virtual),
            constraint=constraint,
        )

    def stream(
        self, prompt: str | Sequence[Mapping[str, Any]], sampling: Sampling, *, tools: Sequence[Any] | None = None, constraint: Any = None
    ) -> Iterator[str]:
        """The text for one prompt, piece by piece."""
        return stream(
            self.loaded.model,
            self.tokenizer,
            [*self.loaded.virtual, *self.prompt_ids(prompt, tools=tools)],
            sampling,
            stop_ids=self.stops,
            max_length=self.max_length + len(self.loaded.virtual),
            constraint=constraint,
        )


def _head(config: Any) -> Head:
    return Head("pairs" if config.is_encoder_decoder else "causal")
