"""The memory plan: what a recipe will take, what other ways of training would, and which of them fits.

Enters: a resolved recipe. Leaves: a `MemoryPlan` for it, a table of others, or the best configuration within a limit.
Arithmetic alone; the bytes come from `workflow/footprint.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luthier.errors import LuthierError, MemoryShortage, ModelError
from luthier.recipe import Resolved, load_recipe
from luthier.workflow.footprint import Facts, Footprint, facts, footprint

PROCESS = 90 << 20
"""Bytes of a training process beside its modules and tensors: threads, tokenizers, kernels, logs (measured)."""
PHASES = ("loading", "forward", "backward", "update", "evaluation", "writing", "saving")
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
METHODS = ("full", "freeze", "lora", "qlora")
BUDGETS = (1, 2, 4, 8)
"""Into how many passes a batch may be cut to fit."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that the process will hold, by phase; `disk` is what checkpoints take at most."""

    footprint: Footprint
    baseline: int
    disk: int

    @property
    def peaks(self) -> dict[str, int]:
        """The most of each phase."""
        return {n: self.baseline + getattr(self.footprint, n) for n in PHASES}

    @property
    def phase(self) -> str:
        """When memory peaks."""
        return max(self.peaks, key=lambda n: self.peaks[n])

    @property
    def peak(self) -> int:
        """The most of all."""
        return self.peaks[self.phase]

    @property
    def needed(self) -> int:
        """What a machine should have: the peak, and the weights that are read in place from their file."""
        return self.peak + self.footprint.mapped

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "peaks": self.peaks, "phase": self.phase, "peak": self.peak, "needed": self.needed}

    def lines(self) -> dict[str, str]:
        """For people: what is trained, and what it takes."""
        one = self.footprint
        parts = {"weights": one.weights - one.mapped, "masters, moments and gradient buffers": one.kept}
        batch = max(0, one.training - sum(parts.values()))
        shown = [
            f"{_size(n)} {name}" for name, n in {**parts, "the largest batch": batch, "the process": self.baseline}.items() if n >= 1 << 20
        ]
        mapped = f"; {_size(one.mapped)} of weights are read in place" if one.mapped >= 1 << 20 else ""
        return {
            "trainable": f"{one.trainable:,} of {one.parameters:,} ({one.trainable / one.parameters:.2%})",
            "memory": f"{_size(self.peak)} at most, in {self.phase}: {', '.join(shown)}{mapped}",
        }


@dataclass(frozen=True)
class Choice:
    """One way of training, by the `--set` overrides that make it so."""

    overrides: tuple[str, ...]
    plan: MemoryPlan

    def cells(self) -> tuple[str, str, str, str]:
        """Method, precision, checkpointing, memory."""
        said = dict(o.split("=", 1) for o in self.overrides)
        method = re.sub(r"[{}]|type: ", "", said["method"])
        return method, said["training.precision"], "yes" if said["training.checkpointing"] == "true" else "no", _size(self.plan.needed)


def memory(resolved: Resolved, *, found: Facts | None = None) -> MemoryPlan:
    """What the recipe will take. Raises ModelError for a model or method that cannot be planned."""
    found = found or facts(resolved)
    _import(found)
    return _plan(found, resolved, anonymous() + PROCESS)


def table(resolved: Resolved) -> list[Choice]:
    """Every method, precision and checkpointing, with what it takes; those that the model or task refuses are left out."""
    found = facts(resolved)
    _import(found)
    baseline = anonymous() + PROCESS
    return [c for wish in _wishes(resolved, budgets=False) if (c := _choice(found, resolved, wish, baseline)) is not None]


def fit(resolved: Resolved, limit: int) -> Choice:
    """The best way of training that takes at most `limit` bytes.

    Full comes before freezing half, that before LoRA and QLoRA; fp32 before bf16; without checkpointing before
    with; and fewer passes before more. Raises MemoryShortage where nothing fits.
    """
    found = facts(resolved)
    _import(found)
    baseline = anonymous() + PROCESS
    least: Choice | None = None
    for wish in _wishes(resolved, budgets=True):
        choice = _choice(found, resolved, wish, baseline)
        if choice is None:
            continue
        if choice.plan.needed <= limit:
            return choice
        least = choice if least is None or choice.plan.needed < least.plan.needed else least
    raise MemoryShortage(
        f"nothing fits in {_size(limit)}; the least is {_size(least.plan.needed)}, with {' '.join(least.overrides)}"
        if least
        else f"no method suits this model and task in {_size(limit)}",
        where="--fit",
        remedy="choose a smaller model or a shorter model.max_length",
    )


def parse_size(text: str) -> int:
    """`4GiB`, `900M`, `2e9` in bytes; units are binary. Raises LuthierError for anything else."""
    matched = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    try:
        assert matched is not None
        return int(float(matched[1]) * UNITS[matched[2]])
    except (AssertionError, ValueError):
        raise LuthierError(f"{text!r} is no size", where="--fit", remedy="write it like 4GiB or 900MiB") from None


def anonymous() -> int:
    """Bytes that this process holds and no file does; 0 where the system does not say."""
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return 0


def _import(found: Facts) -> None:
    """Load what a training loads, so that it is in the baseline."""
    import luthier.evaluation.report
    import luthier.workflow.train

    if found.resolved.recipe.method.type not in ("full", "freeze", "bitfit", "norms"):
        import peft  # noqa: F401
    del luthier


def _plan(found: Facts, resolved: Resolved, baseline: int) -> MemoryPlan:
    one = footprint(found, resolved.recipe)
    return MemoryPlan(one, baseline, one.checkpoint * (resolved.recipe.checkpoints.keep + 2) + one.parameters * 4)


def _wishes(resolved: Resolved, *, budgets: bool) -> Iterator[tuple[str, ...]]:
    """Overrides, best first."""
    most = resolved.recipe.training.max_tokens
    for method in METHODS:
        for precision in ("fp32", "bf16"):
            for checkpointing in ("false", "true"):
                for cut in BUDGETS if budgets else (1,):
                    wish = (f"method={{type: {method}}}", f"training.precision={precision}", f"training.checkpointing={checkpointing}")
                    yield (*wish, f"training.max_tokens={max(1, most // cut)}") if cut > 1 else wish


def _choice(found: Facts, resolved: Resolved, wish: Sequence[str], baseline: int) -> Choice | None:
    """The plan for some overrides; None where they are refused."""
    from luthier.models.host import cpu_has_bf16

    if "training.precision=bf16" in wish and not cpu_has_bf16():
        return None
    try:
        raw = resolved.recipe.model_dump(mode="json")
        changed = load_recipe(raw, overrides=wish)
        return Choice(tuple(wish), _plan(found, Resolved(changed.recipe, resolved.folder, resolved.name, {}), baseline))
    except ModelError:
        return None


def _size(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 1 << 30 else f"{number / 2**20:,.0f} MiB"
