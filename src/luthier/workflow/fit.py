"""Training with everything around it: the third stage.

Enters: a `Job` and a run. Leaves: the trained model, the log, the evaluations, and checkpoints from
which a killed run goes on to the same bits. The loop knows nothing of any of this.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.alignment.watch import WINDOW, Watch
from luthier.errors import Interrupted, RunError
from luthier.inference.predict import combining, outputs
from luthier.models.adapters.method import head_modules, layer_rates, trained
from luthier.models.batch import Batch, Loss
from luthier.models.load import for_training
from luthier.retention.retention import Mix
from luthier.runs.store import Run
from luthier.security.artifacts import finite, need_space
from luthier.tasks.metrics import LOWER_IS_BETTER
from luthier.training import checkpoint
from luthier.training.batches import Updates
from luthier.training.loop import StepReport, train
from luthier.training.optim import Optimizer
from luthier.training.schedule import Schedule
from luthier.workflow import policy, retain, stages, written
from luthier.workflow.build import Job
from luthier.workflow.events import Evaluated, Listener, Note, Stage, Stepped
from luthier.workflow.frozen import keep_trunk
from luthier.workflow.reference import refer
from luthier.workflow.rehearsal import rehearse
from luthier.workflow.stream import stream

METHOD, RETENTION = "method:", "retention:"
"""What the method and the way of retention keep beside weights is saved under these marks."""


@dataclass
class Progress:
    """What must survive a crash beside weights, optimizer, schedule and stream."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    bad: int = 0
    epoch_loss: float = 0.0
    epoch_steps: int = 0
    gap: float | None = None
    stopped: str = ""
    log_bytes: int = 0
    evaluation_bytes: int = 0
    seconds: float = 0.0
    tokens: int = 0


class Fit:
    """One training, fresh or resumed."""

    def __init__(self, job: Job, run: Run, *, listener: Listener) -> None:
        recipe = job.resolved.recipe
        self.job, self.run, self.listener = job, run, listener
        self.options, self.evaluation, self.saving = recipe.training, recipe.evaluation, recipe.checkpoints
        self._restores = job.resolved.inferred.get("evaluation.restore_best", self.evaluation.restore_best)
        self.model = job.loaded.model
        kept = for_training(
            self.model, device=job.host.device, dtype=job.host.dtype, head=job.loaded.head, checkpointing=self.options.checkpointing
        )
        for table in kept if job.retention.dense else ():
            table.tied = True  # its gradient is dense: the buffer cannot be cleared row by row
        self.optimizer = Optimizer(self.model, self.options, kept=kept, scale=self._rate_scale(), moved=self._moved)
        self.schedule = Schedule(self.options, learning_rate=job.plan.learning_rate, total=job.plan.total_updates, stages=job.plan.stages)
        refer(job, listener=listener)
        self.gold = job.task.gold(job.data.prepared.parts["validation"])
        self.kept = keep_trunk(job, run, listener=listener)
        given = stream(
            job.tokens["train"], job.data.prepared.parts["train"], job.task, self.options, job.loaded.layout,
            above=self.kept["train"].above if self.kept else None, course=job.course,
        )  # fmt: skip
        self._watch = Watch(job.task.options) if policy.rolls(job.task) else None
        self.stream: Updates = given if self._watch is None else policy.rollouts(job, given, listener=listener)
        job.retention.begin(job.start)
        self.loss = self._loss()
        self.progress = Progress()
        self._names = frozenset(trained(self.model))
        self._saved_step, self._saved_at, self._gap_told = -1, time.monotonic(), False

    def go(self, *, finish: bool = False) -> Progress:
        """Train to the end, restore the best weights, and say how it went; with `finish`, end where a stopped run is.

        Raises Interrupted after saving when SIGINT or SIGTERM arrives, RunError where there is nothing to finish.
        """
        self._restore()
        if finish and not self.progress.step:
            raise RunError("has no checkpoint to finish from", where=str(self.run.folder), remedy="resume it without --finish")
        size = sum(t.numel() * t.element_size() for t in trained(self.model).values()) * 3 * (self.saving.keep + 2)
        need_space(self.run.checkpoints, size, purpose="training (checkpoints)")
        if self.options.rehearsal and not self.progress.step:
            self.listener(Stage("rehearsal", "the largest batch, an evaluation batch, a save"))
            rehearse(self)
        self.listener(Stage("train", f"{self.job.plan.total_updates} updates"))
        if self.job.course.stages and not self.progress.step:
            stages.measure(self.job, self.run, step=0, stage="")
        with _asked_to_stop() as asked, self._log("log.jsonl", self.progress.log_bytes) as log:
            reports = train(
                self.model,
                self.stream,
                loss=self.loss,
                optimizer=self.optimizer,
                rate=self.schedule.rate,
                seed=self.options.seed,
                done=self.progress.step,
            )
            begun = time.monotonic() - self.progress.seconds
            if finish:
                self._evaluate(self.progress.step, log)
                self.progress.stopped = f"ended as asked after update {self.progress.step} of {self.job.plan.total_updates}"
            while self.progress.step < self.job.plan.total_updates and not self.progress.stopped:
                self.job.method.before_update(self.model, self.progress.step, self.job.plan.total_updates)
                self.job.retention.before_update(self.progress.step)
                report = next(reports)
                self._note(report, log)
                self.progress.seconds = time.monotonic() - begun
                if (stage := stages.ending(self.job, report.step)) is not None:
                    self._turn(stage, report.step)
                if self._evaluation_due(report):
                    self._evaluate(report.step, log)
                if asked:
                    self._save(log)
                    raise Interrupted(
                        f"stopped by {asked[0]} after update {report.step}; everything is saved", remedy=f"luthier resume {self.run.folder}"
                    )
                if self._save_due(report):
                    self._save(log)
        self._restore_best()
        if stages.ending(self.job, self.progress.step) is None:
            self._mix()
        self._settle()
        if hasattr(self.job.task, "release"):
            self.job.task.release(self.model)
        return self.progress

    def _turn(self, stage: int, step: int) -> None:
        """A stage has ended: let the way of retention hold what it brought, and score every task."""
        names = self.job.course.stages
        self.listener(Note(f"stage {stage + 1} of {len(names)}, {names[stage]}, has ended with update {step}"))
        mix = self._mix(seen=names[: stage + 1])
        if stage + 1 < len(names):
            self.job.retention.turn(self.job.start, names[stage], lambda: stages.batches(self.job, names[stage]))
        stages.measure(self.job, self.run, step=step, stage=names[stage], mix=mix.weight if mix else None)

    def _loss(self) -> Callable[[torch.nn.Module, Batch], Loss]:
        """The task's loss, with what method and retention add to its mean."""
        loss, method, retention = self.job.task.loss(self.job.loaded.layout), self.job.method, self.job.retention

        def penalised(model: torch.nn.Module, batch: Batch) -> Loss:
            kept = retention.penalty(model, batch)  # first: it may put other weights in for a moment, which no open graph may see
            found = loss(model, batch)
            for name, extra in (("penalty", method.penalty(model)), ("retention", kept)):
                if extra is not None:
                    parts = {**found.parts, name: float(extra.detach()) * found.weight}
                    found = Loss(found.sum + extra * found.weight, found.weight, parts)
            return found

        return penalised

    def _rate_scale(self) -> Callable[[str], float]:
        """Each parameter's learning rate over the plan's: the method's, times the layers' own; in the head, what the task wants.

        A task says how fast its head learns beside a whole model: where the plan's rate is higher, since few weights move,
        the head's is not.
        """
        layers, method = layer_rates(self.model, self.options.layer_decay), self.job.method
        wanted = getattr(self.job.task, "head_rate", {})
        own = wanted if isinstance(wanted, Mapping) else {"": wanted}  # of several heads, each one's by its name
        faster = {f"{h}.{n}": rate / self.job.plan.rate_factor for h in head_modules(self.model) for n, rate in own.items()}
        faster |= {f"{n}.": rate for n, rate in getattr(self.job.task, "module_rates", {}).items()}
        return lambda name: method.rate_scale(name) * layers(name) * next((r for n, r in faster.items() if name.startswith(n)), 1.0)

    def _moved(self) -> None:
        self.job.method.after_update(self.model, self.progress.step, self.job.plan.total_updates)

    def _note(self, report: StepReport, log: Any) -> None:
        progress = self.progress
        progress.step = report.step
        progress.epoch_loss += report.loss
        progress.epoch_steps += 1
        progress.tokens += report.tokens
        log.write(json.dumps(finite(asdict(report))) + "\n")
        log.flush()
        self.listener(Stepped(report, self.job.plan.total_updates))
        if self._watch is not None and (reason := self._watch.observe(report.parts)):
            progress.stopped = reason
            self.listener(Note(f"stopped after update {report.step}: {reason}"))

    def _evaluation_due(self, report: StepReport) -> bool:
        every, last = self.evaluation.every, report.step == self.job.plan.total_updates
        return last or bool(self.progress.stopped) or (report.ends_epoch if every == "epoch" else report.step % every == 0)

    def _mix(self, *, seen: Sequence[str] = ()) -> Mix | None:
        """Let the way of retention put its last weights in place, and record which; of stages, by the tasks `seen` so far."""

        def validation() -> float:
            scores = self._validation()
            return sum(scores[f"{n}.loss"] for n in seen) / len(seen) if seen else scores["loss"]

        mix = self.job.retention.finish(self.model, judge=lambda: retain.judge(self.job, validation()))
        if mix is not None:
            self.optimizer.follow()
            self.run.record(mix={"weight": mix.weight, "tried": [{"weight": w, **losses} for w, losses in mix.tried.items()]})
            self.listener(Note(retain.told(mix, probes=len(self.job.probes))))
        return mix

    def _settle(self) -> None:
        """Let a task whose head is computed, not trained, compute it for the weights as they are."""
        job, layout = self.job, self.job.loaded.layout
        if not hasattr(job.task, "settle"):
            return
        found = outputs(
            self.model, job.tokens["train"], layout, answer=job.task.features(layout), max_tokens=self.evaluation.max_tokens,
            above=self.kept["train"].above if self.kept else None,
        )  # fmt: skip
        job.task.settle(self.model, found, job.task.gold(job.data.prepared.parts["train"]))

    def _validation(self) -> dict[str, float]:
        """The scores on the validation part."""
        self._settle()
        job, layout = self.job, self.job.loaded.layout
        found = outputs(
            self.model, job.tokens["validation"], layout, answer=job.task.answer(layout), max_tokens=self.evaluation.max_tokens,
            above=self.kept["validation"].above if self.kept else None,
            combine=combining(job.task, job.data.prepared.parts["validation"]),
        )  # fmt: skip
        return dict(job.task.scores(self.gold, found))

    def _evaluate(self, step: int, log: Any) -> None:
        """Score the validation part, where there is one; choose, stop, slow down and warn by it."""
        if not self.job.data.prepared.parts["validation"]:
            return
        job, scores = self.job, self._validation()
        if job.plan.metric not in scores or self._watch is not None:  # scores of texts: they have to be written first
            texts = written.write(job, "validation")
            figures = written.figures(job, "validation", texts)
            scores |= written.scores(job, figures) if figures is not None else {}
        progress, metric = self.progress, self.job.plan.metric
        value = -scores[metric] if metric in LOWER_IS_BETTER else scores[metric]
        better = progress.best is None or value > progress.best
        if better:
            progress.best, progress.best_step, progress.bad = value, step, 0
        else:
            progress.bad += 1
        train_loss = progress.epoch_loss / max(1, progress.epoch_steps)
        alike = not hasattr(job.task, "settle") and self._watch is None  # else training's loss is of another kind than validation's
        progress.gap = scores["loss"] - train_loss if alike else None
        progress.epoch_loss, progress.epoch_steps = 0.0, 0
        line: dict[str, Any] = {"step": step, "train_loss": train_loss, **scores}
        if self._watch is not None:
            line["samples"] = policy.followed(written.rows_of(job, "validation"), texts, figures)
        path = self.run.folder / "evaluations.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        progress.evaluation_bytes = path.stat().st_size
        self.listener(Evaluated(step, line, metric, better))
        self.job.course.observe({n.removesuffix(".loss"): v for n, v in scores.items() if n.endswith(".loss")})
        if self.schedule.observe(scores["loss"]):
            self.listener(Note(f"validation loss stands still: the learning rate is lowered after update {step}"))
        if progress.gap is not None and progress.gap > self.options.gap_warning and not self._gap_told:
            self._gap_told = True
            self.listener(
                Note(
                    f"validation loss exceeds training loss by {progress.gap:.2f}: the model learns its rows by heart; "
                    "more data, more dropout or fewer epochs may help"
                )
            )
        patience = self.options.early_stopping
        if patience is not None and progress.bad >= patience:
            progress.stopped = f"no better {metric} in {patience} evaluations"
            self.listener(Note(f"stopped early: {progress.stopped}"))
        if better and self._restores:
            self._save(log)

    def _save_due(self, report: StepReport) -> bool:
        every = self.saving.every_steps
        due = every is not None and report.step % every == 0
        return due or time.monotonic() - self._saved_at > 60 * self.saving.every_minutes

    def _save(self, log: Any) -> None:
        if self._saved_step == self.progress.step:
            return
        log.flush()
        os.fsync(log.fileno())
        self.progress.log_bytes = log.tell()
        state = {"progress": asdict(self.progress), "stream": self.stream.state_dict(), "schedule": self.schedule.state_dict()}
        checkpoint.save(
            self.run.checkpoints,
            step=self.progress.step,
            weights=self._weights()
            | {f"{METHOD}{n}": t for n, t in self.job.method.state().items()}
            | {f"{RETENTION}{n}": t for n, t in self.job.retention.state().items()},
            optimizer=self.optimizer.state_dict(),
            state=state,
        )
        spare = {f"step-{self.progress.best_step:08d}"} if self._restores else set()
        checkpoint.prune(self.run.checkpoints, keep=self.saving.keep, spare=spare)
        self._saved_step, self._saved_at = self.progress.step, time.monotonic()

    def _restore(self) -> None:
        """Go on from the newest whole checkpoint, where there is one."""
        path, refused = checkpoint.newest(self.run.checkpoints)
        for name, fault in refused.items():
            self.listener(Note(f"checkpoint {name} is refused: {fault}"))
            checkpoint.set_aside(self.run.checkpoints / name)
        if path is None:
            (self.run.folder / "evaluations.jsonl").unlink(missing_ok=True)
            return
        saved = checkpoint.load(path)
        self._take(saved.weights)
        self.optimizer.load_state_dict(saved.optimizer)
        self.schedule.load_state_dict(saved.state["schedule"])
        self.stream.load_state_dict(saved.state["stream"])
        self.progress = Progress(**saved.state["progress"])
        _cut(self.run.folder / "evaluations.jsonl", self.progress.evaluation_bytes)
        self._saved_step = saved.step
        if self._watch is not None:
            _cut(self.run.folder / "log.jsonl", self.progress.log_bytes)
            self._watch.recall(line["parts"] for line in self.run.lines("log.jsonl")[-WINDOW:])
        self.listener(Note(f"resumed after update {saved.step}"))

    def _weights(self) -> dict[str, torch.Tensor]:
        """All that training changes, also what has not thawed yet."""
        return {n: t for n, t in self.model.state_dict().items() if n in self._names}

    def _take(self, weights: dict[str, torch.Tensor]) -> None:
        """Weights of a checkpoint into model, method and retention."""
        for mark, owner in ((METHOD, self.job.method), (RETENTION, self.job.retention)):
            owner.load_state({n.removeprefix(mark): t for n, t in weights.items() if n.startswith(mark)})
        found = self.model.load_state_dict({n: t for n, t in weights.items() if not n.startswith((METHOD, RETENTION))}, strict=False)
        missing = set(found.missing_keys) & self._names
        if missing or found.unexpected_keys:
            raise RunError(
                f"a checkpoint holds other weights: {', '.join([*missing, *found.unexpected_keys][:3])}", where=str(self.run.checkpoints)
            )

    def _restore_best(self) -> None:
        best = self.progress.best_step
        if not self._restores or best in (0, self.progress.step):
            return
        path = self.run.checkpoints / f"step-{best:08d}"
        fault = checkpoint.verify(path)
        if fault:
            self.listener(Note(f"the best checkpoint, of update {best}, is refused: {fault}; the last weights are kept"))
            return
        saved = checkpoint.load(path)
        self._take(saved.weights)
        self.listener(Note(f"the best checkpoint is kept: update {best} of {self.progress.step}"))

    @contextlib.contextmanager
    def _log(self, name: str, size: int) -> Iterator[Any]:
        path = self.run.folder / name
        _cut(path, size)
        with path.open("a", encoding="utf-8") as file:
            yield file


def _cut(path: Path, size: int) -> None:
    """Drop what was written after the checkpoint."""
    if path.exists():
        os.truncate(path, min(size, path.stat().st_size))
    elif size == 0:
        path.touch()


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[str]]:
    """A list that SIGINT and SIGTERM add their name to; a second signal acts as usual.

    Outside the main thread signals cannot be caught and the list stays empty.
    """
    asked: list[str] = []
    names = (signal.SIGINT, signal.SIGTERM)
    before: dict[Any, Any] = {}

    def note(number: int, _: Any) -> None:
        asked.append(signal.Signals(number).name)
        signal.signal(number, before[number])

    with contextlib.suppress(ValueError):
        for number in names:
            before[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        with contextlib.suppress(ValueError):
            for number, handler in before.items():
                signal.signal(number, handler)


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over every tensor that training changes, by name."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(trained(model).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
