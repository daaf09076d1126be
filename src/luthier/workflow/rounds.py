"""Generate, rate, train, compare; and again: the rounds of a recipe.

Enters: a recipe whose data are prompts, with a section `rounds`. Leaves: a run for each round, from the model of the one before, the pairs
that it learned from, and for each round what answers to held-out prompts earned before and after. A round that is done is not
done again: the same command goes on where it was stopped, or where people had to judge first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.alignment.scoring import Scorer
from luthier.data.prepare import Record
from luthier.data.split import drawn_first
from luthier.errors import DataError, Fault, LuthierError, RecipeError, RunError
from luthier.evaluation.compare import paired
from luthier.inference.sampling import Sampling
from luthier.inference.writer import Writer
from luthier.models.source import resolve
from luthier.recipe import Resolved, dump, load_recipe
from luthier.recipe.sections import Model
from luthier.runs.store import Run, find
from luthier.security.artifacts import write_json, write_jsonl, write_text
from luthier.workflow.answers import Author, Duel
from luthier.workflow.dataset import dataset
from luthier.workflow.events import Listener, Note, Stage
from luthier.workflow.policy import Judging, judge_of

Array = NDArray[np.float64]
FILE = "rounds.json"
ASKS = ("prompt", "system", "tools")
"""What a row of prompts holds."""


class Pairs(NamedTuple):
    """Rows to learn from, and how many prompts gave none."""

    rows: list[dict[str, Any]]
    equal: int


def asking(resolved: Resolved) -> Resolved:
    """The recipe as one that asks its prompts: what is read, checked and split is the same. Raises RecipeError for another task."""
    recipe = resolved.recipe
    rounds = recipe.rounds
    assert rounds is not None, "there are rounds"
    if recipe.task.type != "preference":
        raise RecipeError([Fault(f"is for the task preference, not {recipe.task.type}", "rounds", "set task.type: preference")])
    if recipe.model.from_scratch is not None:
        raise RecipeError([Fault("begin from a model that writes already", "rounds", "give model.name, such as starter")])
    unread = [f"task.{n}" for n in ("format", "threshold") if n in recipe.task.model_fields_set]
    unread += [f"task.columns.{n}" for n in recipe.task.columns if n not in ASKS]  # type: ignore[attr-defined]
    if unread:
        raise RecipeError([Fault("is not read in rounds, whose rows are prompts", where, "take it out") for where in unread])
    known = recipe.model_dump(mode="json", exclude_unset=True)
    columns = {n: c for n, c in recipe.task.columns.items() if n in ASKS}  # type: ignore[attr-defined]
    rewards: list[Any] = [r.model_dump(mode="json", exclude_unset=True) | {"type": r.type} for r in rounds.rewards]
    task = {
        "type": "policy",
        "rewards": rewards or ["length"],
        "completions": rounds.answers,
        "max_new_tokens": recipe.task.max_new_tokens,  # type: ignore[attr-defined]
        "columns": columns,
    }
    made = load_recipe({**{n: v for n, v in known.items() if n != "rounds"}, "task": task})
    return Resolved(made.recipe, resolved.folder, resolved.name, made.sources)


def go(resolved: Resolved, *, listener: Listener) -> Run:
    """Every round that is not done; returns the last one's run. Raises RunError where people have to judge first."""
    from luthier.workflow.train import start

    recipe, rounds = resolved.recipe, resolved.recipe.rounds
    assert rounds is not None, "there are rounds"
    asked = asking(resolved)
    parts = dataset(asked).prepared.parts
    learned, held = [*parts["train"], *parts["validation"]], parts["test"]
    folder = Path(recipe.output.folder).expanduser() / f"{resolved.name}-rounds"
    done = _begun(folder, dump(recipe))
    run: Run | None = None
    with Scorer(rounds.rewards, folder=resolved.folder, where="rounds.rewards") as scorer:
        judge = judge_of(scorer, listener=listener)
        for note in scorer.notes:
            listener(Note(note))
        for number in range(1, rounds.count + 1):
            if number <= len(done):
                run = find(done[number - 1]["run"])
                continue
            model = recipe.model.name if run is None else str(run.model)
            listener(Stage("round", f"{number} of {rounds.count}, from {model}"))
            place = folder / f"round-{number}"
            place.mkdir(parents=True, exist_ok=True)
            chosen = _chosen(learned, rounds.prompts, number, seed=recipe.training.seed)
            found = _rated(chosen, model, resolved, judge, number=number)
            listener(Note(f"{len(found.rows)} pairs from {len(chosen)} prompts; {found.equal} prompts gave none"))
            if not found.rows:
                raise RunError(
                    f"round {number}: all answers to each prompt are rated alike: there is nothing to learn from", where="rounds",
                    remedy="rate by something that partly right answers reach, or draw more answers",
                )  # fmt: skip
            write_jsonl(place / "pairs.jsonl", found.rows)
            run = start(_child(resolved, model, place / "pairs.jsonl", number), listener=listener)
            line: dict[str, Any] = {"round": number, "run": str(run.folder), "from": model, "pairs": len(found.rows)}
            if rounds.rewards:
                line |= _compared(held, model, str(run.model), resolved, judge)
                what = line["reward"]
                listener(
                    Note(f"round {number}: reward {what['before']:.3f} to {what['after']:.3f}, {what['low']:+.3f} to {what['high']:+.3f}")
                )
            done.append(line)
            write_json(folder / FILE, done)
            run.record(rounds=done)
    assert run is not None, "there is a round"
    return run


def _begun(folder: Path, recipe: str) -> list[dict[str, Any]]:
    """The rounds that are done. Raises RunError where they were of another recipe."""
    known = folder / "recipe.yaml"
    if not known.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(known, recipe)
    if known.read_text(encoding="utf-8") != recipe:
        raise RunError("was begun with another recipe", where=str(folder), remedy="give output.name another name, or remove the folder")
    state = folder / FILE
    return list(json.loads(state.read_text(encoding="utf-8"))) if state.is_file() else []


def _chosen(records: Sequence[Record], count: int | None, number: int, *, seed: int) -> list[Record]:
    """The prompts of a round: all before any comes again."""
    if count is None or count >= len(records):
        return list(records)
    order = drawn_first(range(len(records)), [r.key for r in records], seed)
    first = (number - 1) * count
    return [records[order[i % len(order)]] for i in range(first, first + count)]


def _rated(records: Sequence[Record], model: str, resolved: Resolved, judge: Judging, *, number: int) -> Pairs:
    """Answers of the model, in pairs of a better and a worse one."""
    rounds, longest = resolved.recipe.rounds, resolved.recipe.task.max_new_tokens  # type: ignore[attr-defined]
    assert rounds is not None, "there are rounds"
    seeds = [_seed(resolved.recipe.training.seed, number, r) for r in records]
    if rounds.store is not None:
        wish = Sampling(max_new_tokens=longest, temperature=rounds.temperature, seed=number)
        return _judged(records, model, resolved, Path(rounds.store).expanduser(), wish)
    wishes = [Sampling(max_new_tokens=longest, temperature=rounds.temperature, seed=s, candidates=rounds.answers) for s in seeds]
    writer = _writer(model, resolved)
    texts = _texts(writer, records, wishes)
    earned = judge([r.target for r in records], texts).total
    rows, equal = [], 0
    for record, answers, values in zip(records, texts, earned, strict=True):
        known = [i for i in np.argsort(values, kind="stable") if np.isfinite(values[i]) and answers[i].strip()]
        if len(known) < 2 or values[known[-1]] - values[known[0]] < 1e-9 or answers[known[-1]] == answers[known[0]]:
            equal += 1
            continue
        best, worst = known[-1], known[0]
        rows.append(
            {
                "prompt": record.target.messages,
                "chosen": [{"role": "assistant", "content": answers[best]}],
                "rejected": [{"role": "assistant", "content": answers[worst]}],
                "rewards": [float(values[best]), float(values[worst])],
                **({"tools": record.target.tools} if record.target.tools else {}),
            }
        )
    return Pairs(rows, equal)


def _texts(writer: Writer, records: Sequence[Record], wishes: Sequence[Sampling]) -> list[list[str]]:
    """The candidates for each record's prompt; those that may call the same tools are written together."""
    alike: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        alike.setdefault(json.dumps(record.target.tools), []).append(place)
    found: list[list[str]] = [[] for _ in records]
    for places in alike.values():
        prompts = [records[i].target.messages for i in places]
        written = writer.write(prompts, [wishes[i] for i in places], tools=records[places[0]].target.tools)
        for place, row in zip(places, written, strict=True):
            found[place] = [w.text for w in row]
    return found


def _judged(records: Sequence[Record], model: str, resolved: Resolved, path: Path, wish: Sampling) -> Pairs:
    """What people said of two answers to each prompt. Raises RunError, with what to do, where they have not judged yet.

    Raises DataError for prompts with tools, of which people would see nothing.
    """
    from luthier.feedback.rows import training_rows
    from luthier.feedback.store import Store

    if (tooled := next((r for r in records if r.target.tools), None)) is not None:
        where = f"{tooled.file}:{tooled.line}"
        raise DataError(
            "brings tools, which people who judge do not see", where=where, remedy="rate with rounds.rewards, or take tools out"
        )
    with Store(path) as store:
        author = Author(model, resolve(resolved.recipe.model.model_copy(update={"name": model}), folder=resolved.folder))
        made = Duel(store, author, None, wish).pairs([r.target.messages for r in records])
        pairs = [p for p in made if all(p.content["answers"]) and len(set(p.content["answers"])) == 2]
        items = {p.item for p in pairs}
        said = {e.item for e in store.entries() if e.item in items and e.kind in ("choice", "edit")}
        if len(said) < len(items):
            asked = path.with_suffix(".prompts.jsonl")
            write_jsonl(asked, [{"messages": r.target.messages} for r in records])
            raise RunError(
                f"{len(items) - len(said)} of {len(items)} pairs of answers are not judged yet",
                where=str(path),
                remedy=f"luthier feedback {model} --prompts {asked} --store {path} --seed {wish.seed} --temperature {wish.temperature:g} "
                f"--max-new-tokens {wish.max_new_tokens}; then the same command again",
            )
        rows = training_rows(store, "pairs", items=items).rows
    told = {json.dumps(r["prompt"], sort_keys=True) for r in rows}
    return Pairs(rows, len(records) - len(told))


def _child(resolved: Resolved, model: str, pairs: Path, number: int) -> Resolved:
    """The recipe of a round's training."""
    recipe = resolved.recipe
    known = recipe.model_dump(mode="json", exclude_unset=True)
    kept = {n: v for n, v in known["data"].items() if n in ("validation_share", "test_share", "limit", "max_bad_share", "accept")}
    task = {n: v for n, v in known["task"].items() if n not in ("columns", "format", "threshold")} | {"type": "preference"}
    output = {**known.get("output", {}), "name": f"{resolved.name}-round-{number}"}
    whole = {n: v for n, v in known.items() if n != "rounds"}
    start = {**known.get("model", {}), "name": model}
    made = load_recipe({**whole, "data": {**kept, "train": str(pairs.resolve())}, "task": task, "model": start, "output": output})
    return Resolved(made.recipe, resolved.folder, made.name, made.sources)


def _writer(model: str, resolved: Resolved) -> Writer:
    training = resolved.recipe.training
    source = resolve(Model(name=model), folder=resolved.folder)
    return Writer(source, device=training.device, threads=training.threads, precision="fp32")


def _compared(held: Sequence[Record], before: str, after: str, resolved: Resolved, judge: Judging) -> dict[str, Any]:
    """What the likeliest answers to held-out prompts earn, before and after, with the paired interval of the difference."""
    wish = Sampling(max_new_tokens=resolved.recipe.task.max_new_tokens)  # type: ignore[attr-defined]
    earned: list[Array] = []
    for model in (before, after):
        texts = _texts(_writer(model, resolved), held, [wish] * len(held))
        earned.append(judge([r.target for r in held], [row[:1] for row in texts]).total)
    known = np.isfinite(earned[0][:, 0]) & np.isfinite(earned[1][:, 0])
    if not known.any():
        raise LuthierError("no answer to a held-out prompt could be judged", where="rounds.rewards", remedy="mend the reward")
    a, b = earned[0][known], earned[1][known]
    times = resolved.recipe.evaluation.bootstrap
    found = paired(lambda _, v: {"reward": float(v.mean())}, np.zeros(len(a)), a, b, resamples=times, draw=np.random.default_rng(0))
    difference, low, high = found["reward"]
    return {
        "reward": {"before": float(a.mean()), "after": float(b.mean()), "difference": difference, "low": low, "high": high, "n": len(a)}
    }


def _seed(seed: int, number: int, record: Record) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}/{record.key}".encode()).digest()[:6], "big")
