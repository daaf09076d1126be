"""Answers that keep to a JSON schema, a regular expression or a list of choices.

Enters: a tokenizer and one of the three. Leaves: a `Constraint`, from which generation makes one
`Matcher` a row: it says before each token which are allowed. The grammars are llguidance's, an optional
package.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from luthier.errors import LuthierError, ModelError
from luthier.registry import require

WHITESPACE = r"\n? {0,32}"
"""Allowed between the parts of JSON: enough for indented output, and bounded, so that no model fills its room with spaces."""

_known: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, Any]] = WeakKeyDictionary()


class Constraint:
    """A compiled grammar over one tokenizer's tokens."""

    def __init__(self, tokens: Any, grammar: str) -> None:
        self._tokens, self._grammar = tokens, grammar

    def matcher(self, stop_ids: Collection[int]) -> Matcher:
        """The state of one answer, at its beginning."""
        matching = require("llguidance", extra="structured", purpose="a constrained answer")
        return Matcher(matching.LLMatcher(self._tokens, self._grammar, log_level=0), [*self._tokens.eos_tokens], stop_ids)


class Matcher:
    """Where one answer stands in its grammar."""

    def __init__(self, state: Any, ends: Sequence[int], stop_ids: Collection[int]) -> None:
        self._state, self._ends, self._stop_ids = state, ends, list(stop_ids)
        self._look()

    def _look(self) -> None:
        """Read which tokens may follow. Raises ModelError when none may and the answer is not whole."""
        bits = np.frombuffer(self._state.compute_bitmask(), dtype=np.uint8)
        self._follows = torch.from_numpy(np.unpackbits(bits, bitorder="little").astype(bool))
        self._whole = self._state.is_accepting()
        ends = [i for i in {*self._ends, *self._stop_ids} if i < len(self._follows)]
        self._follows[ends] = False
        self.complete = self._whole and not bool(self._follows.any())
        """Whether the answer is whole and nothing may follow."""
        if self._state.is_error() or not (self._whole or bool(self._follows.any())):
            raise ModelError(
                f"the constraint cannot be followed further: {_first(self._state.get_error()) or 'no token fits'}",
                remedy="simplify the schema or expression, or choose a tokenizer that can spell every text",
            )

    def allowed(self, width: int) -> Tensor:
        """Which of `width` tokens may come next, bool (width,); those that end the answer only where it is whole."""
        allowed = torch.zeros(width, dtype=torch.bool)
        known = min(width, len(self._follows))
        allowed[:known] = self._follows[:known]
        if self._whole:
            allowed[[i for i in self._stop_ids if i < width]] = True
        return allowed

    def take(self, token: int) -> None:
        """Go on by a token that was allowed and does not end the answer."""
        self._state.consume_token(token)
        self._look()


def compile_constraint(
    tokenizer: PreTrainedTokenizerBase,
    *,
    schema: dict[str, Any] | None = None,
    choices: Sequence[str] | None = None,
    regex: str | None = None,
) -> Constraint:
    """A constraint of one kind: a JSON schema, choices to be written as they are, or a regular expression for the whole answer.

    Raises LuthierError for a grammar that cannot be compiled, ModelError for a tokenizer that cannot be
    used, and DependencyError where llguidance is not installed.
    """
    given = [name for name, value in (("schema", schema), ("choices", choices), ("regex", regex)) if value is not None]
    if len(given) != 1:
        raise LuthierError(
            f"a constraint is of one kind, not {' and '.join(given) or 'none'}",
            where="constraint",
            remedy="give one of schema, choices and regex",
        )
    matching = require("llguidance", extra="structured", purpose="a constrained answer")
    where = f"constraint.{given[0]}"
    if schema is not None:
        remedy = "see what llguidance can do with JSON schemas; leave the keyword out, and check the answer for it afterwards"
        try:
            grammar = matching.LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": WHITESPACE})
        except (TypeError, ValueError) as error:
            raise LuthierError(f"is not a JSON schema: {error}", where=where, remedy="give a dict of JSON values") from None
    elif choices is not None:
        remedy = "give a list of texts"
        if isinstance(choices, str) or not choices or not all(isinstance(c, str) and c for c in choices):
            raise LuthierError(f"cannot be {choices!r}", where=where, remedy="give a list of texts, none of them empty")
        grammar = matching.LLMatcher.grammar_from_lark(
            "start: " + " | ".join(json.dumps(c, ensure_ascii=False) for c in dict.fromkeys(choices))
        )
    else:
        remedy = "write it as for Python's re.fullmatch, without looking ahead or back"
        grammar = matching.LLMatcher.grammar_from_regex(regex)
    tokens = _tokens(tokenizer)
    wrong, messages = matching.LLMatcher.validate_grammar_with_warnings(grammar, tokens)
    if messages:
        reason = _reason(messages[0]) if wrong else "; ".join(map(_first, messages))
        raise LuthierError(f"cannot be kept to: {reason}", where=where, remedy=remedy)
    return Constraint(tokens, grammar)


def _tokens(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Llguidance's view of a tokenizer, kept as long as the tokenizer: for a large vocabulary it takes a second to make."""
    size = len(tokenizer)
    kept = _known.get(tokenizer)
    if kept is not None and kept[0] == size:
        return kept[1]
    wrapping = require("llguidance.hf", extra="structured", purpose="a constrained answer")
    try:
        tokens = wrapping.from_tokenizer(tokenizer)
    except Exception as error:  # the package raises ValueError for some tokenizers and its own kinds for others
        raise ModelError(
            f"its tokenizer cannot be used with a constraint: {_first(str(error))}",
            remedy="choose a model with a byte-level or sentencepiece tokenizer.json",
        ) from None
    _known[tokenizer] = (size, tokens)
    return tokens


def _first(message: str) -> str:
    return (message.strip().splitlines() or [""])[0][:200]


def _reason(message: str) -> str:
    """What is wrong, from llguidance's message: a regular expression's own error comes on a later line."""
    lines = [line.strip() for line in message.splitlines()]
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), _first(message))
