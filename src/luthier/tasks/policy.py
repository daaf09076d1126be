"""Policy: learning from what the model's own answers earn.

Enters: rows that ask something. Leaves: prompts in tokens; losses of the answers drawn for them (`alignment/rollouts.py` draws and judges
them); and afterwards what the answers to the test rows earn. It knows no reward: what judges is handed to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from luthier.data.prepare import Record
from luthier.data.rows import Row, Rows
from luthier.data.split import Part
from luthier.data.tokens import UNGRADED, Encoded, assemble_tokens
from luthier.errors import DataError
from luthier.tasks.branches import joined
from luthier.tasks.chat import Chat, backend_of, said
from luthier.tasks.comparisons import question
from luthier.tasks.conversation import texts_in
from luthier.tasks.template import TemplateError, TemplateStopped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.policy import PolicyOptions


NOTHING = 1e-6
"""What a batch weighs of which all answers are left out: its figures are told all the same."""


class Question(NamedTuple):
    """What is asked, the tools that may be called, and the row that it comes from, for rewards to look at."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    row: Mapping[str, Any]


class Earned(Protocol):
    """What answers earn, (prompts, answers), NaN where one could not be judged; in all, and by each reward."""

    total: NDArray[np.float64]
    parts: Mapping[str, NDArray[np.float64]]


Judge = Callable[[Sequence[Question], Sequence[Sequence[str]]], Earned]
"""Judges the answers to each question; of each as many."""


class Policy(Chat):
    """The task."""

    name = "policy"
    metric = "reward"
    rolls = True
    """It learns from its own answers."""
    fewest_updates, fewest_epochs, most_epochs = 100, 1, 20
    rate = 1e-5
    options: PolicyOptions  # type: ignore[assignment]
    judge: Judge

    def __init__(self, options: PolicyOptions, data: Data) -> None:
        super().__init__(options, data, format="prompts")  # type: ignore[arg-type]

    @classmethod
    def plan(cls, options: PolicyOptions, data: Data, rows: dict[Part, Rows]) -> Policy:  # type: ignore[override]
        """The task. Raises DataError where a column is missing that holds prompts, or that a reward looks at."""
        task = cls(options, data)
        known = dict.fromkeys(c for part in rows.values() for row in part.rows[:200] for c in row.values)
        for name, where in task._wanted().items():
            if known and name not in known:
                raise DataError(
                    f"there is no column {name!r}; the columns are {', '.join(map(repr, list(known)[:12]))}",
                    where=where,
                    remedy=f"name the right one in {where}",
                )
        return task

    def _wanted(self) -> dict[str, str]:
        """The columns that every row has to have, each with the recipe path that names it."""
        found = {self.options.columns.get("prompt", "prompt"): "task.columns.prompt"}
        found |= {column: f"task.columns.{role}" for role, column in self.options.columns.items()}
        for place, reward in enumerate(self.options.rewards):
            field = next((n for n in ("column", "instruction") if hasattr(reward, n)), "type")
            for column in reward.columns:
                found.setdefault(column, f"task.rewards.{place}.{field}")
        return found

    @property
    def repeats(self) -> int:
        """Updates made with each prompt's answers."""
        return self.options.iterations

    @property
    def told(self) -> tuple[str, ...]:
        """The figures of an update's answers that the log has beside its loss."""
        return ("reward", *self._parts, "reward_deviation", "length", "truncated", "zero_variance", "unscored", "age")

    @property
    def _parts(self) -> tuple[str, ...]:
        """What is told of each reward; nothing where all there is is one score, which is the reward as it is."""
        rewards = self.options.rewards
        names = [name for r in rewards for name in r.figures]
        return () if len(names) == 1 and rewards[0].weight == 1 else tuple(f"reward_{name}" for name in names)

    def inferred(self) -> list[tuple[str, Any, str]]:
        """What the algorithm decides."""
        chosen = {"scale": self.options.scaled_by, "importance": self.options.ratio_of, "normalize": self.options.mean_over}
        return [
            (f"task.{n}", v, f"the algorithm, {self.options.algorithm}") for n, v in chosen.items() if getattr(self.options, n) == "auto"
        ]

    def state(self) -> dict[str, Any]:
        """Nothing beside its options."""
        return {}

    # ── rows to records ────────────────────────────────────────────────────────────────────────

    def record(self, row: Row) -> Record | str:
        """The question; its text is what everybody says in it."""
        names, values = self.options.columns, row.values
        first, tools = values.get(names.get("system", "system")), values.get(names.get("tools", "tools"))
        found = question(values.get(names.get("prompt", "prompt")), tools=tools, first=first, system=self.options.system)
        if isinstance(found, str):
            return found
        text = "\n".join(said(m) for m in found.messages)
        return Record(text, None, Question(found.messages, found.tools, dict(values)), row.file, row.line)

    def head(self, config: Any) -> Head:
        """A decoder's own head, with trees for batches."""
        from luthier.models.heads import Head

        return Head("causal", trees=True)

    def extend(self, model: nn.Module) -> None:
        """Put the value's head beside the model's own, where one is learned."""
        from luthier.models.value import add_value_head

        if self.options.algorithm == "ppo":
            add_value_head(model)

    def release(self, model: nn.Module) -> None:
        """Take it off: what is saved is the policy."""
        from luthier.models.value import drop_value_head

        drop_value_head(model)

    @property
    def module_rates(self) -> dict[str, float]:
        """How many times as fast as the model some modules learn."""
        from luthier.models.value import NAME

        return {NAME: self.options.value_rate} if self.options.algorithm == "ppo" else {}

    # ── records to examples ────────────────────────────────────────────────────────────────────

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Prompts in tokens, graded by themselves: so is watched how well the model still reads them.

        A prompt that the template refuses, or that leaves no room for `max_new_tokens`, is rejected.
        """
        import numpy as np

        renderer, backend = self.renderer(tokenizer), backend_of(tokenizer)
        room = max_length - self.options.max_new_tokens
        if room < 1:
            raise DataError(
                f"{self.options.max_new_tokens} leaves no room for a prompt in the {max_length} tokens that the model reads",
                where="task.max_new_tokens",
                remedy="lower it, or raise model.max_length",
            )
        examples: list[dict[str, Any]] = []
        owner, rejected = list[int](), dict[int, str]()
        for index, record in enumerate(records):
            asked: Question = record.target
            mark = next((m for text in texts_in([asked.messages, asked.tools]) if (m := renderer.control_token(text))), None)
            if mark:
                rejected[index] = f"a message holds the control token: {mark}"
                continue
            try:
                ids = np.array(backend.encode(renderer.prompt(asked.messages, tools=asked.tools), add_special_tokens=False).ids)
            except TemplateStopped:
                raise
            except TemplateError as error:
                rejected[index] = error.fault.message
                continue
            if len(ids) > room:
                rejected[index] = f"the prompt is longer than the {room} tokens that leave room for an answer"
                continue
            examples.append({"input_ids": ids, "labels": np.append(ids[1:], UNGRADED)})
            owner.append(index)
        return Encoded(assemble_tokens(examples, owner=owner), rejected, Counter(rows=len(records)))

    def ask(self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int) -> list[list[int]]:
        """The prompts in tokens; the newest part where one is too long."""
        renderer, backend = self.renderer(tokenizer), backend_of(tokenizer)
        room = max_length - min(self.options.max_new_tokens, max_length // 2)
        texts = [renderer.prompt(r.target.messages, tools=r.target.tools) for r in records]
        return [e.ids[-room:] for e in backend.encode_batch(texts, add_special_tokens=False)]

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """What everybody says."""
        return [said(m, role=False) for r in records for m in r.target.messages]

    def graded_text(self, record: Record) -> str:
        """The prompt."""
        return record.text

    def heaviest(self, example: Mapping[str, Any]) -> dict[str, Any]:
        """A prompt with the longest answers that it may get: what has to fit in memory."""
        import numpy as np

        ids = np.asarray(example["input_ids"])
        longest = np.full(self.options.max_new_tokens, ids[0])
        return tree(ids, [longest] * self.options.completions)

    # ── batches to losses ──────────────────────────────────────────────────────────────────────

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """What an answer earned is known when it is drawn."""
        return {}

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """The loss function of answers, with what `alignment/rollouts.py` knows of them in the batch's targets.

        These have, for each graded token, `advantage`, `keep` (0 where it is left out), `reference`, and `old`, `value` and `wanted`
        where they are needed; what is missing is taken as it is now. `told` are figures of the update.
        """
        from luthier.models.batch import Loss
        from luthier.models.language import graded
        from luthier.models.logprobs import graded_states, logprobs_of
        from luthier.models.value import values_of
        from luthier.tasks import policy_losses as losses

        options = self.options

        def loss(model: nn.Module, batch: Batch) -> Loss:
            import torch

            known, answers = batch.targets, batch.segments.count
            owner = batch.segments.owner[graded(batch)[0]]
            states = graded_states(model, batch, layout)
            new = logprobs_of(model, states, temperature=options.temperature)
            now = new.detach()
            old, reference = known.get("old", now), known.get("reference", now)
            advantage, keep = known.get("advantage", torch.ones_like(now)), known.get("keep", torch.ones_like(now))
            size = torch.bincount(owner, minlength=answers).clamp_min(1).to(now.dtype)
            figures: dict[str, Tensor] = {}
            high = options.clip if options.clip_high is None else options.clip_high
            ratio = losses.ratios(new, old, owner, of=options.ratio_of, answers=answers)
            each = losses.clipped(ratio, advantage, low=options.clip, high=high, most=options.clip_most)
            if options.stale is not None:
                gone = now.new_zeros(answers).index_add(0, owner, old - now) / size
                figures["stale"] = ((gone > options.stale)[owner] & (advantage < 0)).to(now.dtype)
                each = each * (1 - figures["stale"])
            away = losses.divergence(new, reference)
            if options.beta and not options.penalised:
                each = each + options.beta * (away * ratio if options.unbiased_kl else away)
            if options.algorithm == "ppo":
                value = values_of(model, states.hidden)
                before, wanted = known.get("value", value.detach()), known.get("wanted", value.detach())
                off = losses.value_loss(value, before, wanted, clip=options.value_clip)
                each, figures["value_loss"] = each + options.value_weight * off, off.detach()
            figures |= {
                "kl": away.detach(),
                "entropy": -now,
                "clipped": losses.outside(ratio.detach(), advantage, low=options.clip, high=high).to(now.dtype),
            }
            if options.mean_over == "token":
                weight, share = float(keep.sum()), keep
            else:
                share = keep / (size[owner] if options.mean_over == "sequence" else options.max_new_tokens)
                weight = float((keep.new_zeros(answers).index_add(0, owner, keep) > 0).sum())
            weight = weight or NOTHING
            seen = keep if float(keep.sum()) else torch.ones_like(keep)
            parts = {name: float((value * seen).sum()) / float(seen.sum()) * weight for name, value in figures.items()}
            if "told" in known:
                parts = {n: float(v) * weight for n, v in zip(self.told, known["told"].tolist(), strict=True)} | parts
            return Loss((each * share).sum(), weight, parts)

        return loss

    # ── answers to scores ──────────────────────────────────────────────────────────────────────

    def scores(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, float]:
        """How well the model reads the prompts, which it does not learn: a sign of what it forgets."""
        found = super().scores(gold, outputs)
        return {"loss": found["loss"], "perplexity": found["perplexity"]}

    def references(self, records: Sequence[Record]) -> list[list[str]]:
        """There is nothing that has to be written."""
        return [[] for _ in records]

    def text_scorer(self) -> Rewarded:  # type: ignore[override]
        """The scores of written answers."""
        return Rewarded(("reward", *self._parts, "words"))

    def figures(self, texts: Sequence[str], records: Sequence[Record]) -> NDArray[np.float64]:
        """What each answer earns, in all and by each reward where that differs, and its words; (rows, width)."""
        import numpy as np

        earned = self.judge([r.target for r in records], [[text] for text in texts])
        parts = [earned.parts[name.removeprefix("reward_")] for name in self._parts]
        words = np.array([[len(text.split())] for text in texts], dtype=np.float64)
        return np.concatenate([earned.total, *parts, words], 1)


class Rewarded:
    """Means of what answers earn; answers that could not be judged count nothing."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def scores(self, gold: Any, figures: NDArray[np.float64]) -> dict[str, float]:
        """Of some rows' figures."""
        import numpy as np

        known = np.isfinite(figures)
        means = np.where(known, figures, 0.0).sum(0) / np.maximum(known.sum(0), 1)
        return dict(zip(self.names, means.tolist(), strict=True))


def tree(prompt: Any, answers: Sequence[Any]) -> dict[str, Any]:
    """A prompt and answers to it, in tokens, as one example; where there are several, all but the prompt's last token stands once."""
    import numpy as np

    silent = np.full(len(prompt) - 1, UNGRADED)
    said = [np.asarray(answer, dtype=np.int64) for answer in answers]
    sequences = [{"input_ids": np.concatenate([prompt, a[:-1]]), "labels": np.concatenate([silent, a])} for a in said]
    return joined(sequences, range(1, len(said) + 1), most=len(prompt) - 1)
