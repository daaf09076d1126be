"""Options of several tasks in one model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from luthier.recipe.tasks.options import TaskOptions
from luthier.registry import TASK_OPTIONS, nearest

TAKEN = frozenset((
    "T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "clear", "compile", "cpu",
    "cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward", "get_buffer", "get_extra_state",
    "get_parameter", "get_submodule", "half", "ipu", "items", "keys", "load_state_dict", "log_variance", "modules", "mtia",
    "named_buffers", "named_children", "named_modules", "named_parameters", "parameters", "parts", "pop", "requires_grad_",
    "set_extra_state", "set_submodule", "share_memory", "state_dict", "to", "to_empty", "train", "training", "type", "update",
    "values", "xpu", "zero_grad",
))  # fmt: skip
"""Names that torch.nn.ModuleDict, which holds the heads, has for itself."""


class Member(TaskOptions):
    """One of the tasks: the fields of its own section, beside its data and its weight."""

    type: str = "member"
    data: dict[str, Any] = Field(default_factory=dict, description="what its data section has otherwise than the recipe's")
    weight: Annotated[float, Field(gt=0)] = Field(1.0, description="how much its loss counts")
    metric: str | None = Field(
        None, description="its main score, of which `mean` is the mean over the tasks; its type's own, or by its answers, where absent"
    )
    options: SerializeAsAny[TaskOptions] = Field(description="the task's own fields")


def _member(value: Any) -> Any:
    """`{type: tagging, data: ..., weight: ..., the task's fields}` as a Member."""
    if isinstance(value, Member) or (isinstance(value, dict) and value.get("type") == "member"):
        return _restored(value)
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, dict) or "type" not in value:
        raise ValueError(f"expected a task with its type: one of {', '.join(n for n in TASK_OPTIONS.names() if n != 'multitask')}")
    beside = {k: v for k, v in value.items() if k in ("data", "weight", "metric")}
    return Member(**beside, options=_options({k: v for k, v in value.items() if k not in beside}))


def _restored(value: Any) -> Any:
    """A member as it was written down."""
    return Member.model_validate({**value, "options": _options(value["options"])}) if isinstance(value, dict) else value


def _options(own: dict[str, Any]) -> TaskOptions:
    name = str(own["type"])
    if name == "few_shot":
        raise ValueError("few_shot is not one of several tasks: its head is fitted, not trained with the others; take classification")
    if name not in TASK_OPTIONS.names() or name == "multitask":
        guess = nearest(name, TASK_OPTIONS.names())
        raise ValueError(f"unknown task {name!r}" + (f"; did you mean {guess}?" if guess and guess != "multitask" else ""))
    found: TaskOptions = TASK_OPTIONS.load(name).model_validate(own)
    return found


class MultitaskOptions(TaskOptions):
    """Several tasks in one model: a head each on one trunk, or many instruction sets in one model that writes."""

    type: Literal["multitask"] = "multitask"
    tasks: dict[str, Annotated[Member, BeforeValidator(_member)]] = Field(
        description="the tasks by name, each with its type, its own fields, `data` where it differs from the recipe's, and a weight"
    )
    weighing: Literal["fixed", "uncertainty"] = Field(
        "fixed", description="losses count as `weight` says, or by a variance that is learned for each"
    )

    @property
    def max_new_tokens(self) -> int:
        """The longest answer that one of them may write."""
        return max(getattr(m.options, "max_new_tokens", 0) for m in self.tasks.values())

    @model_validator(mode="after")
    def _several(self) -> MultitaskOptions:
        if len(self.tasks) < 2:
            raise ValueError("names one task: write it as the recipe's task")
        odd = next((n for n in self.tasks if not n.isidentifier()), None)
        if odd is not None:
            raise ValueError(f"{odd!r} is no name: letters, digits and underscores")
        taken = next((n for n in self.tasks if n in TAKEN or n.startswith("register_")), None)
        if taken is not None:
            raise ValueError(f"{taken!r} cannot name a task: torch's modules have something of that name; call it {taken}_task")
        return self
