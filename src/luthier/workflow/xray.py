"""The label X-ray: what exactly will be learned, and the faults that would show only after training.

Enters: the training part in tokens, as the model gets it. Leaves: samples with every token marked graded
or not, and findings. A finding refuses the training, with its reason and remedy, unless the recipe
accepts it by name; what was accepted is in the run's record.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from luthier.data.tokens import UNGRADED, Encoded, Tokens
from luthier.errors import Fault, LabelError, RecipeError
from luthier.registry import nearest
from luthier.tasks.tokenizer import special_tokens, stop_ids, turn_end

TOLERATED = 0.02
"""Share of the rows that may lose their answer, or be answered in another context, before that is a finding."""
LOOKED_AT = 2000
MARKS = re.compile(r"<[|｜][^<>|｜\n{}]{1,40}[|｜]>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_turn>|</?s>")
"""What chat templates write as special tokens; [INST] is plain text to the tokenizers of Llama 2 and the first Mistral."""
NAMES = (
    "nothing-graded", "stop-never-graded", "answers-truncated", "special-doubled", "special-unknown", "pad-is-stop",
    "context-changes", "turns-hidden", "earlier-turns-ungraded",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A fault by name, what was seen, and what to do."""

    name: str
    message: str
    remedy: str


class Piece(NamedTuple):
    """A run of text that is graded, or is not."""

    text: str
    graded: bool


def refuse(found: Sequence[Finding], accepted: Sequence[str], *, shown: Sequence[Any] = ()) -> list[str]:
    """Notes for what was accepted.

    Raises LabelError with every other finding and the samples `shown`, RecipeError for a name that is none.
    """
    for name in accepted:
        if name not in NAMES:
            guess = nearest(name, NAMES)
            raise RecipeError(
                [Fault(f"no finding {name!r}", "data.accept", f"did you mean {guess}?" if guess else f"one of: {', '.join(NAMES)}")]
            )
    rest = [f for f in found if f.name not in accepted]
    if rest:
        text = "\n".join(f"{f.name}: {f.message}\n  → {f.remedy}" for f in rest)
        names = " ".join(f"--accept {name}" for name in dict.fromkeys(f.name for f in rest))
        raise LabelError(
            f"the labels are not what training needs\n{text}", where="label X-ray", remedy=f"to go on all the same: {names}", samples=shown
        )
    return [f"accepted, {f.name}: {f.message}" for f in found]


def findings(task: Any, encoded: Encoded, tokenizer: Any, config: Any) -> list[Finding]:
    """Everything wrong with the labels of the training part; none for tasks that do not learn tokens to write."""
    import numpy as np

    if not task.writes or getattr(task, "rolls", False):
        return []
    if hasattr(task, "encoded"):  # several tasks: each is looked at alone, and named
        several = [(n, findings(task.tasks[n], own, tokenizer, config)) for n, own in task.encoded.items()]
        return [replace(f, message=f"{name}: {f.message}") for name, own in several for f in own]
    counts, tokens = encoded.counts, encoded.tokens
    answers = task.answers
    examples = tokens.examples()[:LOOKED_AT] if len(tokens) else []
    labels = [np.asarray(e["labels"]) for e in examples]
    found: list[Finding] = []
    if not any((row != UNGRADED).any() for row in labels):
        first = next(iter(encoded.rejected.values()), "there are no rows")
        found.append(
            Finding("nothing-graded", f"no token is graded ({first})", _template_remedy(task, "the template shows no assistant turn"))
        )
    cut = counts.get("answers_cut", 0) + sum("target longer" in r for r in encoded.rejected.values())
    rows = max(1, counts.get("rows", len(tokens) + len(encoded.rejected)))
    if answers and cut > TOLERATED * rows:
        found.append(
            Finding(
                "answers-truncated",
                f"{cut} of {rows} rows ({cut / rows:.0%}) lose their answer, or part of it, to truncation",
                _longer(task),
            )
        )
    if found and found[0].name == "nothing-graded":
        return [*found, *_unknown(task, tokenizer)]
    stops = stop_ids(tokenizer, config=config)
    if answers and not any(np.isin(row, stops).any() for row in labels):
        found.append(
            Finding(
                "stop-never-graded",
                "the token that ends an answer is never graded, so the model would not learn to stop",
                _template_remedy(task, "let the template close assistant turns with a special token, such as {{ eos_token }}"),
            )
        )
    found += _doubled(tokens, examples, tokenizer)
    found += _unknown(task, tokenizer)
    pad, end = tokenizer.init_kwargs.get("pad_token"), turn_end(tokenizer) if task.converses else tokenizer.eos_token_id
    if answers and pad is not None and end is not None and tokenizer.convert_tokens_to_ids(str(pad)) == end:
        found.append(
            Finding(
                "pad-is-stop",
                f"the pad token is the token that ends an answer, {str(pad)!r}: where padding is left ungraded, so is the end",
                "give the tokenizer a pad token of its own (pad_token in tokenizer_config.json)",
            )
        )
    return found + _turns(task, counts)


def samples(tokens: Tokens, tokenizer: Any, *, count: int = 2) -> list[list[Piece]]:
    """The first examples as runs of graded and ungraded text."""
    import numpy as np

    found = []
    for example in tokens.examples()[:count]:
        if "labels" not in example:
            return []
        ids, labels = np.asarray(example["input_ids"]).tolist(), np.asarray(example["labels"]).tolist()
        if "source_ids" in example:
            runs = [(np.asarray(example["source_ids"]).tolist(), False), (labels, True)]
        else:
            marked = [
                (ids[0], False),
                *(
                    (label if label != UNGRADED else after, label != UNGRADED)
                    for label, after in zip(labels, [*ids[1:], labels[-1]], strict=True)
                ),
            ]
            runs = []
            for token, graded in marked:
                if not runs or runs[-1][1] != graded:
                    runs.append(([], graded))
                runs[-1][0].append(token)
        known = [([t for t in run if t >= 0], graded) for run, graded in runs]  # an ungraded token at the very end is not kept
        found.append([Piece(tokenizer.decode(run, skip_special_tokens=False), graded) for run, graded in known if run])
    return found


def _doubled(tokens: Tokens, examples: Sequence[Any], tokenizer: Any) -> list[Finding]:
    special = set(tokenizer.all_special_ids)
    twice = [
        e for e in examples if len(e["input_ids"]) > 1 and e["input_ids"][0] == e["input_ids"][1] and int(e["input_ids"][0]) in special
    ]
    ended = [e for e in examples if len(e["labels"]) > 1 and e["labels"][-1] == e["labels"][-2] and int(e["labels"][-1]) in special]
    for rows, where, place in ((twice, "begin", 0), (ended, "end", -1)):
        if len(rows) > TOLERATED * len(examples):
            token = tokenizer.convert_ids_to_tokens(int(rows[0]["input_ids" if place == 0 else "labels"][place]))
            return [
                Finding(
                    "special-doubled",
                    f"{len(rows)} of {len(examples)} examples {where} with {token!r} twice",
                    "the texts or the template hold it already: take it out of them",
                )
            ]
    return []


def _unknown(task: Any, tokenizer: Any) -> list[Finding]:
    if not task.converses:
        return []
    known, vocabulary = set(special_tokens(tokenizer)), tokenizer.get_vocab()
    template = task.renderer(tokenizer).template
    missing = [m for m in dict.fromkeys(MARKS.findall(template)) if m not in known and m not in vocabulary]
    if not missing:
        return []
    return [
        Finding(
            "special-unknown",
            f"the template writes {', '.join(missing[:4])}, which the model's tokenizer does not know as a token",
            "use the model's own template, or add the tokens to the tokenizer and the model",
        )
    ]


def _turns(task: Any, counts: Any) -> list[Finding]:
    turns, graded = counts.get("turns", 0), counts.get("turns_graded", 0)
    found = []
    if counts.get("turns_hidden", 0) > TOLERATED * max(1, turns):
        found.append(
            Finding(
                "turns-hidden",
                f"the template does not show {counts['turns_hidden']} of {turns} assistant turns, so they are not learned",
                _template_remedy(task, "it drops them, or does not know their kind (tool calls)"),
            )
        )
    if counts.get("contexts_changed", 0) > TOLERATED * max(1, graded):
        found.append(
            Finding(
                "context-changes",
                f"{counts['contexts_changed']} of {graded} graded turns are not what the model is given and has to write when it "
                "answers: the template changes earlier turns when one is added, or its generation prompt differs",
                "set task.graded: last with one turn to learn in each row, or give a template without this with task.template",
            )
        )
    if counts.get("turns_ungraded", 0) > 0.2 * max(1, turns):
        found.append(
            Finding(
                "earlier-turns-ungraded",
                f"graded: last leaves {counts['turns_ungraded']} of {turns} assistant turns unlearned",
                "set task.graded: assistant to learn them all",
            )
        )
    return found


def _template_remedy(task: Any, hint: str) -> str:
    return f"{hint}; give another with task.template" if task.converses else "check data.text and data.label"


def _longer(task: Any) -> str:
    return (
        "raise model.max_length or task.max_target, or shorten the rows"
        if not task.converses
        else "raise model.max_length, or shorten the rows"
    )
