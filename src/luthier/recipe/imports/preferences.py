"""What the importers share about preferences: rows that compare answers, or call them good or bad.

Enters: a draft. Leaves: the task preference in it, with no option that its loss does not read, or the error for a loss or a
trainer that is not here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from luthier.errors import RecipeError
from luthier.recipe.imports.draft import Draft
from luthier.recipe.tasks.preference import READ, PreferenceOptions

LOSSES: dict[str, tuple[str, bool]] = {
    "sigmoid": ("sigmoid", False),
    "sigmoid_norm": ("sigmoid", True),
    "robust": ("robust", False),
    "hinge": ("hinge", False),
    "ipo": ("ipo", False),
}
"""Losses of DPO by TRL's names: the loss of the same formula, and whether it is of log-probabilities per token."""
LIKELIHOOD = "sft"
"""TRL's name for the chosen answer's own loss, which here is an option of the others."""
READS: dict[str, tuple[str, ...]] = {
    "pairs": ("prompt", "chosen", "rejected", "system", "tools"),
    "unpaired": ("prompt", "completion", "label", "system", "tools"),
}
"""format -> what it reads that may have a column of another name."""


def policy(draft: Draft, key: str) -> RecipeError:
    """The error for a file whose model answers by itself and learns from rewards, which are not in the file."""
    why = "trains a policy on rewards, which is not imported: Luthier's task policy names its rewards in the recipe"
    return draft.refuse(key, why, "write that recipe: see docs/policy.md")


def compares(draft: Draft) -> bool:
    """Whether the task is one of answers that are compared or judged."""
    task = draft.values.get("task.type")
    return task is not None and task.value in ("preference", "reward")


def preference(draft: Draft, loss: str, origin: str) -> None:
    """Set the task and its loss."""
    draft.put("task.type", "preference", origin)
    draft.put("task.loss", loss, origin)


def listed(draft: Draft, key: str, weights: str, *, origin: str) -> None:
    """Set a loss that TRL names, alone or in a list with weights.

    A list may be one loss with the chosen answer's likelihood beside it. Any other sum of losses is refused: none of its parts
    alone would train what the sum does.
    """
    given = draft.take(key)
    names = [given] if isinstance(given, str) else [str(n) for n in given or ("sigmoid",)]
    weighed = draft.take(weights) or [1.0] * len(names)
    shares = dict(zip(names, weighed, strict=False))
    main = [n for n in names if n != LIKELIHOOD]
    if len(main) != 1 or len(names) > 2:
        raise draft.refuse(key, "is not one loss", f"name one, with {LIKELIHOOD} beside it at most: {', '.join(LOSSES)} are here")
    if main[0] not in LOSSES:
        raise draft.refuse(key, "is no loss that is here", f"{', '.join(LOSSES)} are")
    if len(shares) != len(names) or not all(isinstance(w, (int, float)) and w > 0 for w in shares.values()):
        raise draft.refuse(weights, "is not a number above 0 for each loss")
    loss, by_token = LOSSES[main[0]]
    preference(draft, loss, key if given else origin)
    if by_token:
        draft.put("task.normalize", True, f"{key}: {main[0]}")
    whole = shares[main[0]]
    if whole != 1:
        draft.leave(weights, "the loss itself weighs 1 here, and the likelihood beside it in proportion")
    if LIKELIHOOD in shares:
        draft.put("task.sft", round(shares[LIKELIHOOD] / whole, 6), f"{LIKELIHOOD} in {key}, row by row")


def option(draft: Draft, key: str, name: str, *, note: str = "") -> None:
    """A key that means what an option of the task means; left where the loss does not read that."""
    value, loss = draft.take(key), draft.values["task.loss"].value
    if value is None:
        return
    if loss in READ.get(name, (loss,)):
        draft.put(f"task.{name}", value, key + note)
    elif value != PreferenceOptions.model_fields[name].default:
        draft.leave(key, f"the loss {loss} does not read task.{name}")


def smoothing(draft: Draft, key: str, *, sigmoid: bool) -> None:
    """The share of pairs the wrong way round; robust without one is plain DPO. `sigmoid`: whether the tool's DPO reads it too."""
    value, loss = draft.take(key), draft.values["task.loss"]
    if value and loss.value in ("robust", *(("sigmoid",) if sigmoid else ())):
        draft.put("task.label_smoothing", value, key)
    elif value:
        draft.leave(key, f"{draft.tool} reads it with robust, and in old versions with sigmoid; for these, set task.label_smoothing")
    elif loss.value == "robust":
        draft.put("task.loss", "sigmoid", f"{loss.origin}: robust without {key} is that")


def no_dropout(draft: Draft, origin: str) -> None:
    """Trainers of preferences switch dropout off, that of adapters too."""
    draft.put("model.dropout", 0.0, origin)
    given = draft.values.get("method.dropout")
    if given is not None and given.value:
        own = "" if given.origin == f"{draft.tool}'s default" else f", whatever {given.origin} says"
        draft.put("method.dropout", 0.0, f"{origin}: off in adapters too{own}")


def columns(draft: Draft, named: Mapping[str, Any], form: str, origin: str) -> None:
    """Set the format of the rows, and those columns that have other names than their roles."""
    draft.put("task.format", form, origin)
    found = {role: str(named[role]) for role in READS[form] if named.get(role) not in (None, "", role)}
    if found:
        draft.put("task.columns", found, origin)


FIELDS = {
    "field_prompt": "prompt", "field_messages": "prompt", "field_chosen": "chosen", "field_rejected": "rejected",
    "field_completion": "completion", "field_label": "label", "field_system": "system", "field_tools": "tools",
}  # fmt: skip
"""Axolotl's keys of a data set, by the part whose column they name."""
SHAPES: dict[str, dict[str, tuple[str, ...]]] = {
    "intel": {"prompt": ("question",)},
    "icr": {"prompt": ("input",)},
    "bradley_terry.chat_template": {"prompt": ("input",)},
    "argilla": {
        "prompt": ("prompt", "input", "question", "instruction"),
        "chosen": ("chosen", "chosen_response"),
        "rejected": ("rejected", "rejected_response"),
    },
    "chat_template.default": {"prompt": ("messages",)},
    "chat_template.argilla": {},
    "argilla_chat": {},
    "prompt_pairs": {},
    "ultra": {},
    "passthrough": {},
}
"""Axolotl's types of a data set, or their ends: the columns that may hold a part, the last of them where no file is at hand."""


def described(draft: Draft, entry: Mapping[str, Any], at: str, present: Collection[str]) -> None:
    """The columns of a data set as Axolotl describes it; `present` are those of its file, where that is at hand."""
    kind, loss = entry.get("type"), draft.values.get("task.loss")
    own = kind if isinstance(kind, dict) else entry
    named = {role: own[key] for key, role in FIELDS.items() if own.get(key)}
    shape = SHAPES.get(str(kind), SHAPES.get(str(kind).rpartition(".")[2]))
    if isinstance(kind, str) and shape is None and not named:
        draft.leave(f"{at}.type", "the format is recognised by the columns: see task.format and task.columns", value=kind)
        return
    usual = {role: next((n for n in names if n in present), names[-1]) for role, names in (shape or {}).items()}
    columns(draft, usual | named, "unpaired" if loss is not None and loss.value == "kto" else "pairs", at)
    if str(kind).startswith(("chatml", "llama3")):
        draft.leave(f"{at}.type", "the model's own chat template is put around rows", value=kind)
    for key, value in own.items():
        if key.endswith("_format") and value and value != f"{{{key.removesuffix('_format')}}}":
            draft.leave(f"{at}.type.{key}", "the model's chat template is put around rows; task.system is a system message", value=value)
