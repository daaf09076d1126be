"""What a training would hold in memory, found by running it on tensors without content.

Enters: a recipe, resolved, with its data; no weights are read. Leaves: `Facts` of the model and its data, and for
each way of training it a `Footprint`: the bytes of tensors that live at once while the model is loaded, trained,
evaluated and saved. The very code of training runs, on `models/shadow.py`; stacks of many equal layers are run at
two depths and the rest is a straight line.
"""

from __future__ import annotations

import copy
import itertools
import json
import struct
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from luthier.data.tokens import Tokens, cache_folder
from luthier.models import config as configuring
from luthier.models import forward
from luthier.models.adapters.method import Method, count
from luthier.models.batch import Batch, collate, within_budget
from luthier.models.forward import Layout
from luthier.models.heads import Head
from luthier.models.load import Loaded, attach_head, for_training, friendly, quiet
from luthier.models.scratch import config_of, train_tokenizer
from luthier.models.shadow import Shadow, shadow
from luthier.models.source import base_of, is_adapter, resolve
from luthier.recipe import Resolved
from luthier.recipe.sections import Model, Recipe
from luthier.registry import METHODS, RETENTION
from luthier.tasks.texts import NAMES as WRITTEN
from luthier.training.optim import Optimizer
from luthier.workflow.dataset import Dataset, dataset
from luthier.workflow.lineage import name_its_model
from luthier.workflow.stream import stream

UPDATES = 3
"""Updates that are run beside the heaviest: other sizes leave other holes in the heap."""
DEPTHS = (4, 6)
"""Layers of the two small versions; even, since some architectures treat every second layer otherwise."""
DEEP = 8
"""Models of more layers than this are extrapolated."""


@dataclass(frozen=True)
class Facts:
    """What does not depend on the way of training. `stored` counts the bytes of each type in the model's files."""

    resolved: Resolved
    data: Dataset
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    head: Head
    tokens: dict[str, Tokens]
    stored: dict[str, int]
    max_length: int
    updates: int


@dataclass(frozen=True)
class Footprint:
    """Bytes of tensors alive at once; counts of parameters.

    `weights` are those trained with, `mapped` the part of them that stays in the file (frozen, in fp32, as the file
    has them), `kept` what lives between updates beside weights: masters, moments, gradient buffers. The others are
    peaks, weights included: `loading`, `forward` and `backward` of the largest batch, `update`, `evaluation`,
    `writing` (cached keys and values) and `saving`.
    """

    parameters: int
    trainable: int
    weights: int
    mapped: int
    kept: int
    loading: int
    forward: int
    backward: int
    update: int
    evaluation: int
    writing: int
    saving: int
    checkpoint: int

    @property
    def training(self) -> int:
        """The most that an update holds."""
        return max(self.forward, self.backward, self.update)


def facts(resolved: Resolved, *, data: Dataset | None = None, tokens: Mapping[str, Tokens] | None = None) -> Facts:
    """Config, tokenizer and token ids of a recipe. Raises the LuthierError that training would have met."""
    recipe = resolved.recipe
    name_its_model(resolved)
    data = data or dataset(resolved)
    task = data.task
    if recipe.model.from_scratch is not None:
        tokenizer = train_tokenizer(recipe.model.from_scratch, task.corpus(data.prepared.parts["train"]), cache=cache_folder())
        config = config_of(recipe.model.from_scratch, len(tokenizer))
        if recipe.model.dropout is not None:
            configuring.set_dropout(config, recipe.model.dropout)
        head, stored = task.head(config), {}
    else:
        source = resolve(recipe.model, folder=resolved.folder)
        if source.local is not None and is_adapter(source.local):
            source = base_of(source.local)
        with friendly(source):
            config = AutoConfig.from_pretrained(source.location, revision=source.revision, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision, trust_remote_code=False)
        configuring.adapt_config(config, recipe.model)
        head = task.head(config)
        configuring.refuse_head(head, config, recipe.model, source)
        configuring.pad_token(config, tokenizer, [], kind=head.kind)
        stored = stored_bytes(source.local) if source.local is not None else {}
    configuring.set_labels(config, head)
    limit = configuring.longest(config, tokenizer, start=0)
    length = limit if recipe.model.max_length == "auto" else min(limit, recipe.model.max_length)
    if tokens is None:
        tokens = {
            part: task.encode(records, tokenizer, config=config, max_length=length, cache=cache_folder(), train=part == "train").tokens
            for part, records in data.prepared.parts.items()
        }
    training = recipe.training
    per_epoch = -(-len(tokens["train"]) // (training.batch_size * training.gradient_accumulation))
    epochs = training.epochs if training.epochs != "auto" else 2
    updates = min(max(1, round(epochs * per_epoch)), training.max_steps or 1 << 30)
    return Facts(resolved, data, config, tokenizer, head, dict(tokens), stored, length, updates)


def stored_bytes(folder: Path) -> dict[str, int]:
    """Bytes of each type in the safetensors files of a folder, from their headers alone."""
    found: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, entry in header.items():
            if name != "__metadata__":
                found[entry["dtype"]] += entry["data_offsets"][1] - entry["data_offsets"][0]
    return dict(found)


def footprint(found: Facts, recipe: Recipe) -> Footprint:
    """What `recipe` holds; it may differ from that of the facts in model.quantization, method and training.

    Raises ModelError for a method that does not suit the model.
    """
    layers = depth(found.config)
    if layers <= DEEP or _names_layers(recipe):
        return _at(found, recipe, None)
    low, high = (asdict(_at(found, recipe, n)) for n in DEPTHS)
    share = (layers - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
    return Footprint(**{n: round(low[n] + (high[n] - low[n]) * share) for n in low})


def depth(config: PreTrainedConfig) -> int:
    """Layers of a stack."""
    return int(config.get_text_config().num_hidden_layers)


def _names_layers(recipe: Recipe) -> bool:
    """Whether the method treats some layers otherwise than others, so that its memory is no straight line in their number."""
    return recipe.method.type == "freeze" or getattr(recipe.method, "layers", None) is not None


def _at(found: Facts, recipe: Recipe, layers: int | None) -> Footprint:
    """The footprint with so many layers; all where None."""
    last: Exception | None = None
    kinds = ("padded",) if recipe.training.attention == "padded" else ("ragged", "padded")
    for kind in kinds:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            try:
                return _Trial(found, recipe, layers, kind).run()
            except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
                last = error  # an architecture that takes no ragged batches
    assert last is not None
    raise last


class _Trial:
    """One training on the shadow."""

    def __init__(self, found: Facts, recipe: Recipe, layers: int | None, kind: str) -> None:
        self.found, self.recipe, self.kind = found, recipe, kind
        self.config = copy.deepcopy(found.config)
        if layers is not None:
            configuring.adapt_config(self.config, Model(layers=layers))
        self.mode = Shadow()
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.training.precision, torch.float32)

    def run(self) -> Footprint:
        mode, training, task = self.mode, self.recipe.training, self.found.data.task
        with shadow(mode):
            loaded, method = self._loaded()
            model = loaded.model
            files = self._in_files(model)
            mapped = mode.settle(files)
            mode.heap.mark()
        held = self._held(loaded)
        with shadow(mode):
            if self.recipe.evaluation.base_model:
                self._evaluate(loaded, held)
            kept = for_training(model, device=torch.device("cpu"), dtype=self.dtype, head=loaded.head, checkpointing=training.checkpointing)
            loading = mode.heap.mark()
            weights = mode.live
            optimizer = Optimizer(model, training, kept=kept, scale=method.rate_scale)
            copies = RETENTION.load(self.recipe.retention.type).copies
            remembered = [p.detach().clone() for p in model.parameters() if p.requires_grad for _ in range(copies)]
        moved = sum(t.numel() * t.element_size() for t in files if t.requires_grad)
        with shadow(mode):
            ahead = behind = update = 0
            for batches in self._updates(loaded):
                for batch in batches:
                    loss = task.loss(loaded.layout)(model, batch).sum
                    penalty = method.penalty(model)
                    loss = loss if penalty is None else loss + penalty
                    ahead = max(ahead, mode.heap.mark())
                    loss.backward()
                    del loss, penalty
                    behind = max(behind, mode.heap.mark())
                    mode.heap.rest()
                optimizer.gradient_norm(1.0)
                optimizer.step(learning_rate=1e-4, weight=1.0, norm=1.0)
                update = max(update, mode.heap.mark())
                optimizer.clear()
            steady = mode.live
            mode.heap.mark()
            evaluation = self._evaluate(loaded, held)
        del remembered
        trainable, total = count(model)
        sizes = list(optimizer.state_dict().values())
        checkpoint = sum(t.numel() * t.element_size() for t in sizes)
        checkpoint += sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        whole = 0 if method.adapter or self.dtype == torch.float32 else total * 4
        return Footprint(
            parameters=total,
            trainable=trainable,
            weights=weights,
            mapped=mapped - moved,
            kept=steady - weights,
            loading=loading,
            forward=ahead + moved,
            backward=behind + moved,
            update=update + moved,
            evaluation=evaluation + moved,
            writing=mode.heap.held + moved + self._cache(model),
            saving=max(mode.heap.held, steady - mapped + whole) + moved,  # the copy goes where activations lay
            checkpoint=checkpoint,
        )

    def _loaded(self) -> tuple[Loaded, Method]:
        """The model with its head and method, as `workflow/build.py` makes it, and its layout, not yet tried."""
        found, recipe = self.found, self.recipe
        head, section = found.head, recipe.model
        auto = AutoModel if head.apart(section.head) else configuring.AUTO[head.kind]
        try:
            base = auto.from_config(self.config, attn_implementation="sdpa", dtype=torch.float32)  # as load does, whatever the files hold
        except ValueError:
            base = auto.from_config(self.config, attn_implementation="eager", dtype=torch.float32)
        base.eval()
        model = attach_head(base, head, section.head)
        quantization = "4bit" if recipe.method.type == "qlora" else section.quantization
        if quantization != "none":
            from luthier.models.shadow import pack

            pack(model, bits=int(quantization[0]))
        forward.prepare(model)
        layout = self._layout(model)
        source = None if section.from_scratch is not None else resolve(section, folder=found.resolved.folder)
        loaded = Loaded(
            model, found.tokenizer, layout, found.max_length, None, True, [], head, base=source, quantization=quantization
        )  # fmt: skip
        method: Method = METHODS.load(recipe.method.type)(recipe.method, seed=0)
        method.apply(loaded)
        if hasattr(found.data.task, "extend"):
            found.data.task.extend(model)
        return loaded, method

    def _layout(self, model: Any) -> Layout:
        import inspect

        trunk = forward.trunk_of(model)
        reader = model.get_encoder() if self.found.head.kind == "pairs" else trunk
        accepted = inspect.signature(reader.forward).parameters
        relative = any(hasattr(m, "has_relative_attention_bias") for m in model.modules())
        types = "token_type_ids" in accepted and getattr(trunk.config, "type_vocab_size", 1) > 1
        if self.kind == "ragged" and not (relative or "position_ids" in accepted):
            raise ValueError("takes no positions")
        forward.set_attention(model, "ragged" if self.kind == "ragged" else None)
        return Layout(self.kind, forward.pooling_of(model), positions="position_ids" in accepted, token_types=types)  # type: ignore[arg-type]

    def _updates(self, loaded: Loaded) -> list[Sequence[Batch]]:
        """The first updates, of different sizes as they come, and the heaviest batch of the training, twice where its update has others."""
        training, task = self.recipe.training, self.found.data.task
        updates = stream(loaded.lay(self.found.tokens["train"]), self.found.data.prepared.parts["train"], task, training, loaded.layout)
        worst = updates.heaviest(self.found.updates)
        first = [u.batches for u in itertools.islice(updates, min(UPDATES, self.found.updates))]
        return [*first, [worst.batch] * (2 if worst.several else 1), *first[:1]]

    def _held(self, loaded: Loaded) -> Batch:
        """The first batch of an evaluation, which is its largest; of the parts that are answered, the one with most."""
        best: tuple[int, Batch] | None = None
        for part in ("validation", "test"):
            tokens = loaded.lay(self.found.tokens[part])
            lengths, examples = tokens.lengths(), tokens.examples()
            if not lengths:
                continue
            runs = within_budget(
                range(len(lengths)), lengths, self.recipe.evaluation.max_tokens, padded=self.kind == "padded", longest_first=True
            )
            rows = next(iter(runs))
            size = sum(lengths[r] for r in rows)
            if best is None or size > best[0]:
                best = size, collate([examples[r] for r in rows], rows, types=loaded.layout.token_types)
        assert best is not None
        return best[1]

    @torch.no_grad()
    def _evaluate(self, loaded: Loaded, batch: Batch) -> int:
        loaded.model.eval()
        answer: Tensor | None = self.found.data.task.answer(loaded.layout)(loaded.model, batch)
        del answer
        return self.mode.heap.mark()

    def _in_files(self, model: nn.Module) -> list[Tensor]:
        """Weights that lie in the pages of the model's file, being in fp32 there as they are loaded."""
        stored = self.found.stored
        if stored.get("F32", 0) < 0.9 * max(1, sum(stored.values())):
            return []
        made = ("lora_", "modules_to_save", "prompt_encoder", "vera_", "ia3_", "oft_")
        return [p for n, p in model.named_parameters() if p.dtype == torch.float32 and not any(m in n for m in made)]

    def _cache(self, model: Any) -> int:
        """Keys and values of the largest batch that writes."""
        recipe, task = self.recipe, self.found.data.task
        if not (task.writes and recipe.evaluation.written and (task.text_score_names() or WRITTEN)):
            return 0
        text = self.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        longest = max(self.found.tokens["test"].lengths()) + int(getattr(recipe.task, "max_new_tokens", 0))
        rows = min(recipe.evaluation.written, len(self.found.data.prepared.parts["test"]))
        cached = min(rows * longest, recipe.evaluation.max_tokens)
        logits = min(rows, max(1, cached // longest)) * text.vocab_size * 4 * 3
        return 2 * depth(self.config) * cached * heads * width * self.dtype.itemsize * 2 + logits


def _fill_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
