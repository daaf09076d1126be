"""What a tokenizer tells of conversations: its template, its special tokens, and what ends an answer.

Enters: a transformers tokenizer. Leaves: its `Renderer`, and the ids at which generation stops.
"""

from __future__ import annotations

from typing import Any

from luthier.errors import ModelError
from luthier.tasks.template import PLAIN, Renderer, TemplateError

NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def renderer_of(tokenizer: Any, *, template: str | None = None) -> Renderer:
    """The given template, the tokenizer's own, or the plain one; the tokenizer keeps it, so that it is saved with the model.

    Raises ModelError where the plain one is needed and there is no end token that could close its turns.
    """
    if template is None:
        own = tokenizer.chat_template
        template = own.get("default") if isinstance(own, dict) else own
    if not template:
        if tokenizer.eos_token is None:
            raise ModelError(
                "its tokenizer has neither a chat template nor an end token, so no answer could ever end",
                where="model.name",
                remedy="give a template that closes turns with a special token in task.template, or choose another model",
            )
        template = "{{ bos_token }}" + PLAIN if adds_start(tokenizer) else PLAIN
    tokenizer.chat_template = template
    specials = {name: str(value) for name in NAMED if (value := getattr(tokenizer, name, None)) is not None}
    return Renderer(template, specials=specials, special_tokens=special_tokens(tokenizer))


def special_tokens(tokenizer: Any) -> list[str]:
    """Every text that is one special token."""
    added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    return list(dict.fromkeys([*tokenizer.all_special_tokens, *added]))


def adds_start(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its beginning token before plain text."""
    ids = tokenizer("a").input_ids
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def stop_ids(tokenizer: Any, *, config: Any = None) -> list[int]:
    """The tokens that end an answer: the tokenizer's end token, the model's, and the one its template closes turns with."""
    found = [tokenizer.eos_token_id]
    configured = getattr(config, "eos_token_id", None)
    found += configured if isinstance(configured, list) else [configured]
    if tokenizer.chat_template:
        found.append(turn_end(tokenizer))
    return list(dict.fromkeys(int(i) for i in found if i is not None))


def turn_end(tokenizer: Any) -> int | None:
    """The special token that closes an assistant's turn; None where the template has none."""
    renderer = renderer_of(tokenizer)
    try:
        shown = renderer.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    except TemplateError:
        return None
    if not shown.spans or not shown.spans[0].stopped:
        return None
    ids = tokenizer(shown.text[shown.spans[0].start : shown.spans[0].end], add_special_tokens=False).input_ids
    return int(ids[-1])
