"""Prompts to texts, a token at a time: the one code that writes, for evaluation, the CLI, serving and RL.

Enters: a model, its tokenizer, prompts as token ids and how to sample. Leaves: `Written` answers, in the
order of the prompts, or a stream of text pieces. Rows run together, longest first, over the model's own
key-value cache; each draws from its own generator, so an answer does not depend on what it runs beside.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from luthier.errors import LuthierError
from luthier.inference.constraint import Constraint
from luthier.inference.predict import evaluating
from luthier.inference.rows import Row, Running, Written, is_pair, padded, takes_padding
from luthier.inference.sampling import Sampling
from luthier.models import attention
from luthier.models.forward import set_attention
from luthier.models.load import quiet

__all__ = ["Sampling", "Written", "beams", "generate", "own_attention", "stream"]


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | Sequence[Sampling],
    *,
    stop_ids: Collection[int],
    max_length: int,
    max_tokens: int = 16384,
    constraint: Constraint | Sequence[Constraint | None] | None = None,
) -> list[list[Written]]:
    """The candidates of each prompt. For an encoder-decoder the prompts are what the encoder reads.

    A batch holds at most `max_tokens` = rows * (longest prompt + new tokens); `sampling` and
    `constraint` are for all prompts or one for each. Raises LuthierError for a prompt that leaves no
    room for a token in `max_length`, before anything is computed.
    """
    count = len(prompts)
    wishes = [sampling] * count if isinstance(sampling, Sampling) else list(sampling)
    rules = list(constraint) if isinstance(constraint, Sequence) else [constraint] * count
    for name, given in (("sampling", wishes), ("constraint", rules)):
        if len(given) != count:
            raise LuthierError(f"there are {len(given)} for {count} prompts", where=name, remedy="give one for all, or one for each prompt")
    tasks = list(zip(range(count), prompts, wishes, rules, strict=True))
    rooms = [_room(model, p, wish.max_new_tokens, max_length, f"prompt {i}") for i, p, wish, _ in tasks]
    ways = [
        [Row(tokenizer, p, wish, candidate=c, room=room, rule=rule, stop_ids=stop_ids, model=model) for c in range(wish.candidates)]
        for (_, p, wish, rule), room in zip(tasks, rooms, strict=True)
    ]
    rows = [row for way in ways for row in way]
    mixed = takes_padding(model)
    apart = [None if mixed else len(row.prompt) for row in rows]
    with evaluating(model), own_attention(model):
        for batch in _batches([len(r.prompt) for r in rows], [r.room for r in rows], apart, max_tokens=max_tokens):
            run = Running(model, [rows[i] for i in batch])
            while run.writing:
                run.step()
    return [[row.written() for row in way] for way in ways]


def stream(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    *,
    stop_ids: Collection[int],
    max_length: int,
    constraint: Constraint | None = None,
) -> Generator[str, None, Written]:
    """One answer in pieces, each as soon as it is certain: whole characters, and nothing that a stop text may cut.

    The pieces make up the text that `generate` gives; the generator's return value is the whole answer.
    Between pieces the model is as it was before. Raises LuthierError at once, as `generate` does.
    """
    if sampling.candidates != 1:
        raise LuthierError(
            f"cannot be {sampling.candidates} in a stream", where="sampling.candidates", remedy="set it to 1, or do not stream"
        )
    room = _room(model, prompt_ids, sampling.max_new_tokens, max_length, "the prompt")
    row = Row(tokenizer, prompt_ids, sampling, candidate=0, room=room, rule=constraint, stop_ids=stop_ids, model=model)

    def pieces() -> Generator[str, None, Written]:
        run = Running(model, [row])
        while run.writing:
            with evaluating(model), own_attention(model):
                run.step()
            if piece := row.text.fresh(last=row.finish is not None):
                yield piece
        return row.written()

    return pieces()


def beams(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    stop_ids: Collection[int],
    max_new_tokens: int,
    max_length: int,
    pad_id: int,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
    max_tokens: int = 16384,
) -> list[list[int]]:
    """The best of `beams` parallel answers to each prompt, as new tokens without the stop token, by transformers' beam search.

    Penalties and least lengths that the model's own generation config asks for do not apply. Raises
    LuthierError for a prompt that leaves no room for a token in `max_length`.
    """
    rooms = [_room(model, p, max_new_tokens, max_length, f"prompt {i}") for i, p in enumerate(prompts)]
    lengths = [len(p) for p in prompts]
    mixed = takes_padding(model)
    apart = [(room, None if mixed else n) for n, room in zip(lengths, rooms, strict=True)]
    answers: list[list[int]] = [[] for _ in prompts]
    device = next(model.parameters()).device
    with evaluating(model), own_attention(model):
        for batch in _batches(lengths, rooms, apart, max_tokens=max_tokens // beams):
            ids, mask = padded([prompts[i] for i in batch], left=not is_pair(model), fill=pad_id, device=device)
            wish = GenerationConfig(
                num_beams=beams,
                do_sample=False,
                max_new_tokens=rooms[batch[0]],
                eos_token_id=sorted(stop_ids) or [-1],
                pad_token_id=pad_id,
                length_penalty=length_penalty,
                early_stopping=early_stopping,
                repetition_penalty=1.0,
                no_repeat_ngram_size=0,
                min_length=0,
            )
            with quiet():
                found = model.generate(input_ids=ids, attention_mask=mask, generation_config=wish)  # type: ignore[operator]
            for i, tokens in zip(batch, found[:, 1 if is_pair(model) else ids.shape[1] :].tolist(), strict=True):
                end = next((n for n, token in enumerate(tokens) if token in stop_ids), rooms[i])
                answers[i] = tokens[:end]
    return answers


@contextmanager
def own_attention(model: nn.Module) -> Iterator[None]:
    """The architecture's own attention in place of the ragged one, which knows no cache; put back afterwards."""
    ragged = model.config._attn_implementation == attention.NAME  # type: ignore[union-attr]
    if ragged:
        set_attention(model, None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        if ragged:
            set_attention(model, attention.NAME)  # type: ignore[arg-type]


def _room(model: nn.Module, prompt: Sequence[int], wanted: int, max_length: int, where: str) -> int:
    """New tokens that fit. Raises LuthierError where none does."""
    if len(prompt) == 0:
        raise LuthierError("has no tokens", where=where, remedy="begin it with the tokenizer's first special token")
    pair = is_pair(model)
    if len(prompt) > max_length - (not pair):
        raise LuthierError(
            f"has {len(prompt)} tokens"
            + (f", and the model reads {max_length}" if pair else f", which leaves no room for an answer in {max_length}"),
            where=where,
            remedy="shorten it, or choose a model with a longer context",
        )
    return min(wanted, max_length if pair else max_length - len(prompt))


def _batches(lengths: Sequence[int], rooms: Sequence[int], apart: Sequence[Hashable], *, max_tokens: int) -> Iterator[list[int]]:
    """Rows by length, longest first, within the budget; rows whose `apart` differs do not share a batch."""
    batch: list[int] = []
    new = 0
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], -rooms[i])):
        new = max(new, rooms[row])
        if batch and ((len(batch) + 1) * (lengths[batch[0]] + new) > max_tokens or apart[row] != apart[batch[0]]):
            yield batch
            batch, new = [], rooms[row]
        batch.append(row)
    if batch:
        yield batch
