"""Running a model over a batch, ragged or padded, up to the values a head is graded on.

Enters: a transformers model and a `Batch`. Leaves: hidden states of the flat run, or the pooled
logits of each segment, the same as plain transformers computes them. Which way a model takes (its
`Layout`) is decided once, by trial: segments run together, one of them longer than the model's window
where it has one, must give what each gives alone.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from luthier.models import attention, bridged
from luthier.models.batch import BRANCH, Batch, Segments, collate, segments_of
from luthier.models.heads import PooledModel

Pooling = Literal["first", "last", "mean"]
LONGEST_TRIAL = 1024


@dataclass(frozen=True)
class Layout:
    """How batches reach a model: `ragged`, or `padded` with the reason why.

    With `trees`, a stem is computed once for all its branches; else each branch has its own, for the reason in `apart`, where
    one was looked for.
    """

    kind: Literal["ragged", "padded"]
    pooling: Pooling
    positions: bool = True
    position_start: int = 0
    token_types: bool = False
    pad_id: int = 0
    reason: str = ""
    trees: bool = False
    apart: str = ""


def pool(hidden: Tensor, segments: Segments, pooling: Pooling) -> Tensor:
    """One vector a segment from the flat run: (tokens, width) -> (segments, width)."""
    if pooling == "first":
        return hidden[segments.starts]
    if pooling == "last":
        return hidden[segments.last]
    total = hidden.new_zeros(segments.count, hidden.shape[-1]).index_add(0, segments.owner, hidden)
    return total / segments.lengths[:, None]


def prepare(model: PreTrainedModel | PooledModel) -> None:
    """Teach the trunk to answer with pooled hidden states, or those at some places, when a batch asks for them.

    The hooks read `pooling`, `places` and `segments` from the call itself, so they hold no state, and
    without them the model is untouched.
    """

    def select(trunk: nn.Module, _: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if kwargs.get("places") is not None:
            output.last_hidden_state = output.last_hidden_state[0].index_select(0, kwargs["places"])[None]
            return output
        if kwargs.get("pooling") is None:
            return output
        output.last_hidden_state = pool(output.last_hidden_state[0], kwargs["segments"], kwargs["pooling"])[:, None]
        if getattr(trunk, "pooler", None) is not None:
            output.pooler_output = trunk.pooler(output.last_hidden_state)  # type: ignore[operator]
        return output

    attention.register()
    trunk_of(model).register_forward_hook(select, with_kwargs=True)
    for module in model.modules():
        accepted = inspect.signature(module.forward).parameters
        crosses = "key_value_states" in accepted or "encoder_hidden_states" in accepted
        if (crosses and type(module).__name__.endswith("Attention")) or hasattr(module, "has_relative_attention_bias"):
            module.register_forward_pre_hook(bridged.route, with_kwargs=True)


def trunk_of(model: nn.Module) -> nn.Module:
    """The model below its head."""
    return model.trunk if isinstance(model, PooledModel) else model.base_model  # type: ignore[return-value]


def hidden_states(model: nn.Module, batch: Batch, layout: Layout) -> Tensor:
    """Last hidden states of every token, (tokens, width), whatever the layout; the decoder's, where there are two."""
    if batch.source is not None:
        return _decoder_states(model, batch, layout)
    if batch.segments.parents is not None and not (layout.trees and layout.kind == "ragged"):
        whole, places = unrolled(batch)
        return hidden_states(model, whole, layout).index_select(0, places)
    trunk = trunk_of(model)
    if layout.kind == "ragged":
        return trunk(**_ragged_inputs(batch, layout)).last_hidden_state[0]
    inputs = _padded_inputs(batch, layout)
    return trunk(**inputs).last_hidden_state[inputs["attention_mask"].bool()]


def unrolled(batch: Batch) -> tuple[Batch, Tensor]:
    """A batch of trees as one of separate sequences, each branch after a stem of its own; and where in it each token is, (tokens,).

    A stem's tokens are those before one of its branches: the others give the same values. Marks of tasks are not carried over.
    """
    assert batch.segments.parents is not None, "the batch has trees"
    parents, lengths = batch.segments.parents.tolist(), batch.segments.lengths.tolist()
    starts, stems = batch.segments.starts.tolist(), set(parents)
    device = batch.input_ids.device
    paths = [[i] if parents[i] < 0 else [parents[i], i] for i in range(len(parents)) if i not in stems]
    paths.sort(key=lambda path: sum(lengths[i] for i in path))
    runs = [torch.arange(starts[i], starts[i] + lengths[i], device=device) for path in paths for i in path]
    order = torch.cat(runs)
    places = torch.empty_like(batch.input_ids)
    places[order] = torch.arange(len(order), device=device)
    whole = Batch(
        input_ids=batch.input_ids[order],
        positions=batch.positions[order],
        token_types=None if batch.token_types is None else batch.token_types[order],
        segments=segments_of([sum(lengths[i] for i in path) for path in paths]).to(device),
        rows=tuple(batch.rows[path[-1]] for path in paths),
    )
    return whole, places


def _decoder_states(model: nn.Module, batch: Batch, layout: Layout) -> Tensor:
    """Hidden states of an encoder-decoder's targets, (tokens, width)."""
    assert batch.source is not None, "an encoder-decoder batch has a source"
    encoder, decoder = model.get_encoder(), model.get_decoder()  # type: ignore[operator]
    if layout.kind == "ragged":
        read = encoder(**_ragged_inputs(batch.source, layout)).last_hidden_state
        inputs = _ragged_inputs(batch, layout) | {"encoder_hidden_states": read, "bridge": batch.bridge}
        return decoder(**inputs).last_hidden_state[0]
    source = _padded_inputs(batch.source, layout)
    read = encoder(**source).last_hidden_state
    place = torch.empty(len(batch.rows), dtype=torch.int64)
    place[torch.tensor(batch.source.rows)] = torch.arange(len(batch.rows))
    place = place.to(read.device)
    inputs = _padded_inputs(batch, layout)
    states = decoder(
        **inputs, encoder_hidden_states=read[place], encoder_attention_mask=source["attention_mask"][place], use_cache=False
    ).last_hidden_state
    return states[inputs["attention_mask"].bool()]


def place_logits(model: nn.Module, batch: Batch, layout: Layout, places: Tensor) -> Tensor:
    """The head's values at some places of the flat run, (places, outputs); of a span (places, 2)."""
    if isinstance(model, PooledModel):
        return model.head(hidden_states(model, batch, layout)[places])
    if layout.kind == "padded":
        inputs = _padded_inputs(batch, layout)
        return values_of(model(**inputs))[inputs["attention_mask"].bool()][places]
    return values_of(model(**_ragged_inputs(batch, layout), places=places))[0]


def values_of(output: Any) -> Tensor:
    """What a head answers, (rows, tokens, outputs); the states themselves where there is none."""
    if "last_hidden_state" in output:
        return output.last_hidden_state
    return torch.stack([output.start_logits, output.end_logits], -1) if "start_logits" in output else output.logits


def pooled_logits(model: nn.Module, batch: Batch, layout: Layout) -> Tensor:
    """The head's answer for each segment, (segments, outputs); in trees, for each branch after its stem."""
    if batch.pooled is not None:
        return _head_alone(model, batch.pooled)
    if batch.segments.parents is not None and not (layout.trees and layout.kind == "ragged"):
        whole, places = unrolled(batch)
        return pooled_logits(model, whole, layout).index_select(0, whole.segments.owner[places[batch.segments.last]])
    if isinstance(model, PooledModel):
        return model.head(pool(hidden_states(model, batch, layout), batch.segments, layout.pooling))
    if layout.kind == "padded":
        return model(**_padded_inputs(batch, layout)).logits
    inputs = _ragged_inputs(batch, layout) | {"pooling": layout.pooling}
    if hasattr(model, "score"):
        return model.score(trunk_of(model)(**inputs).last_hidden_state[:, 0])  # type: ignore[operator, no-any-return]
    return model(**inputs).logits


def _head_alone(model: nn.Module, pooled: Tensor) -> Tensor:
    """The answer to pooled states that were computed before; the trunk hands them through (`models/trunk.py`)."""
    if isinstance(model, PooledModel):
        return model.head(pooled)
    if hasattr(model, "score"):
        return model.score(pooled)  # type: ignore[operator, no-any-return]
    return model(pooled=pooled).logits


def choose_layout(
    model: PreTrainedModel | PooledModel,
    *,
    wanted: Literal["auto", "ragged", "padded"],
    pad_id: int,
    kind: str = "classes",
    trees: bool = False,
) -> Layout:
    """Find how this model takes batches, by trial where `wanted` allows ragged ones.

    `kind` is that of its head; with `trees` it is also tried whether a stem may be computed once. The trials run in
    eval mode on a few random tokens; their outcome is exact to rounding.
    """
    trunk = trunk_of(model)
    pooling = pooling_of(model)
    reader = model.get_encoder() if kind == "pairs" else trunk  # type: ignore[operator]
    accepted = inspect.signature(reader.forward).parameters
    types = "token_type_ids" in accepted and getattr(trunk.config, "type_vocab_size", 1) > 1
    padded = Layout("padded", pooling, token_types=types, pad_id=pad_id)
    if wanted == "padded":
        return replace(padded, reason="training.attention is padded", apart="batches are padded")
    starts: dict[int | None, None] = {}
    if "position_ids" in accepted:
        starts = dict.fromkeys([0, (getattr(trunk.config, "pad_token_id", None) or 0) + 1])
    elif any(hasattr(m, "has_relative_attention_bias") for m in model.modules()):
        starts = {None: None}
    reason = "its forward takes no position_ids"
    for start in starts:
        layout = Layout(
            "ragged", pooling, positions=start is not None, position_start=start or 0, token_types=types, pad_id=pad_id
        )  # fmt: skip
        reason = _trial(model, layout, padded, kind)
        if not reason:
            return try_trees(model, layout) if trees else layout
    if wanted == "ragged":
        from luthier.errors import ModelError

        raise ModelError(
            f"{type(trunk).__name__} cannot take ragged batches: {reason}", where="training.attention", remedy="use auto or padded"
        )
    set_attention(model, None)
    return replace(padded, reason=reason, apart="batches are padded")


def set_attention(model: PreTrainedModel | PooledModel, name: str | None) -> None:
    """Switch the attention implementation of the trunk; None is the architecture's own default."""
    target = trunk_of(model) if isinstance(model, PooledModel) else model
    if name is None:
        try:
            target.set_attn_implementation("sdpa")  # type: ignore[operator]
        except (ValueError, ImportError):
            target.set_attn_implementation("eager")  # type: ignore[operator]
    else:
        target.set_attn_implementation(name)  # type: ignore[operator]


def pooling_of(model: nn.Module) -> Pooling:
    """Where the architecture's own classification head looks."""
    if isinstance(model, PooledModel):
        return model.pooling
    if hasattr(model, "score"):
        return "last"
    if getattr(model.config, "classifier_pooling", "cls") == "mean":
        return "mean"
    return "first"


@torch.no_grad()
def _trial(model: PreTrainedModel | PooledModel, layout: Layout, padded: Layout, kind: str) -> str:
    """Empty when ragged agrees with each segment alone, else why it does not."""
    trunk = trunk_of(model)
    examples = _trial_examples(trunk.config.get_text_config(), layout.pad_id, pairs=kind == "pairs")  # type: ignore[union-attr, operator]
    if isinstance(examples, str):
        return examples

    def answers(batch: Batch, how: Layout) -> list[Tensor]:
        if isinstance(model, PooledModel) or kind in ("causal", "pairs", "vector"):
            return []
        if kind in ("masked", "words", "span"):
            return [place_logits(model, batch, how, torch.arange(0, batch.input_ids.numel(), 2, device=batch.input_ids.device))]
        return [pooled_logits(model, batch, how)]

    training, device = trunk.training, next(trunk.parameters()).device
    model.eval()
    try:
        set_attention(model, None)
        alone = torch.cat([hidden_states(model, collate([e], types=padded.token_types).to(device), padded) for e in examples])
        batch = collate(examples, types=layout.token_types).to(device)
        expected = answers(batch, padded)
        set_attention(model, attention.NAME)
        together = hidden_states(model, batch, layout)
        heads = list(zip(answers(batch, layout), expected, strict=True))
    except Exception as error:  # any architecture may fail in its own way: then it is padded
        return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    finally:
        model.train(training)
    bound = rounding(model)
    if (distance := difference(together, alone)) > bound:
        return f"segments run together differ from segments alone by {distance:.1e}"
    if heads and (distance := difference(*heads[0])) > bound:
        return f"its head answers otherwise on selected positions, by {distance:.1e}"
    return ""


@torch.no_grad()
def try_trees(model: PreTrainedModel | PooledModel, layout: Layout) -> Layout:
    """The layout with what came of the trial whether branches that share a stem give what each gives after a stem of its own."""
    trunk = trunk_of(model)
    examples = _trial_examples(trunk.config.get_text_config(), layout.pad_id, pairs=False)  # type: ignore[union-attr, operator]
    assert not isinstance(examples, str), "the layout was tried with these"
    made = []
    for number, example in enumerate(examples):
        stem, ids = [2, 5, 0, len(example["input_ids"]) - 3][min(number, 3)], example["input_ids"]
        branches = [ids[stem:], ids[stem:][:-1][::-1], ids[stem : stem + 1]]
        marks = [0] * stem + [b for b, branch in enumerate(branches, 1) for _ in branch]
        made.append({"input_ids": [*ids[:stem], *(i for branch in branches for i in branch)], BRANCH: marks})
    training, device = trunk.training, next(trunk.parameters()).device
    batch = collate(made, types=layout.token_types).to(device)
    model.eval()
    try:
        apart, together = (hidden_states(model, batch, replace(layout, trees=on)) for on in (False, True))
    except Exception as error:  # any architecture may fail in its own way: then branches stay apart
        return replace(layout, apart=f"{type(error).__name__}: {str(error).splitlines()[0][:160]}")
    finally:
        model.train(training)
    if (distance := difference(together, apart)) > rounding(model):
        return replace(layout, apart=f"branches after one stem differ from whole sequences by {distance:.1e}")
    return replace(layout, trees=True)


def _trial_examples(config: Any, pad_id: int, *, pairs: bool) -> list[dict[str, list[int]]] | str:
    """A few random examples by length, one of them longer than each of the model's windows; or why there can be none."""
    draw = torch.Generator().manual_seed(0)
    vocabulary = config.vocab_size
    low = min(vocabulary - 1, pad_id + 1 if pad_id < vocabulary // 2 else 0)
    high = vocabulary if pad_id < vocabulary // 2 else pad_id
    windows = [w for name in ("sliding_window", "attention_chunk_size") if isinstance(w := getattr(config, name, None), int)]
    past = [w + 3 for w in windows if w + 3 <= min(LONGEST_TRIAL, getattr(config, "max_position_embeddings", LONGEST_TRIAL))]
    if len(past) < len(windows) and getattr(config, "attention_chunk_size", None):
        return "its attention is chunked, and too long a chunk to try"

    def ids(length: int) -> list[int]:
        return torch.randint(low, max(low + 1, high), (length,), generator=draw).tolist()

    sizes = sorted([5, 7, 7, *past])
    if not pairs:
        return [{"input_ids": ids(n)} for n in sizes]
    return [{"input_ids": ids(n), "source_ids": ids(m)} for n, m in zip(sizes, [9, 4, 6, *past], strict=True)]


def rounding(model: nn.Module) -> float:
    """How far two ways to the same values may be apart: fp32 throughout, or with bf16 products (quantised weights too)."""
    return 1e-4 if all(p.dtype == torch.float32 for p in model.parameters()) else 5e-2


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp_min(1e-12))


def _ragged_inputs(batch: Batch, layout: Layout) -> dict[str, Any]:
    inputs: dict[str, Any] = {"input_ids": batch.input_ids[None], "segments": batch.segments, "use_cache": False}
    if layout.positions:
        inputs["position_ids"] = (batch.positions + layout.position_start)[None]
    if layout.token_types and batch.token_types is not None:
        inputs["token_type_ids"] = batch.token_types[None]
    if batch.trunk is not None:
        inputs["trunk"] = batch.trunk[None]
    return inputs


def _padded_inputs(batch: Batch, layout: Layout) -> dict[str, Tensor]:
    lengths = batch.segments.lengths.tolist()

    def rows(flat: Tensor, fill: int) -> Tensor:
        return pad_sequence(list(flat.split(lengths)), batch_first=True, padding_value=fill)

    inputs = {
        "input_ids": rows(batch.input_ids, layout.pad_id),
        "attention_mask": rows(torch.ones_like(batch.input_ids), 0),
    }
    if layout.token_types and batch.token_types is not None:
        inputs["token_type_ids"] = rows(batch.token_types, 0)
    return inputs
