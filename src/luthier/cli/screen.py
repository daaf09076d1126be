"""What the terminal shows: progress of a training, tables of scores, notes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from luthier.evaluation.baselines import METHODS
from luthier.evaluation.report import best_method, headlines
from luthier.runs.store import Run
from luthier.workflow.events import Evaluated, Event, Note, Stage, Stepped

if TYPE_CHECKING:
    from luthier.workflow.ways import Compared

console = Console()


class Screen:
    """Listens to the workflow and draws it; plain lines where the output is no terminal."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._begun = time.monotonic()
        self._tokens = 0

    def __enter__(self) -> Screen:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stage):
            self._stop()
            if event.name == "train":
                self._begun, self._tokens = time.monotonic(), 0
            console.print(f"[bold]{event.name:<9}[/] {escape(event.detail)}", highlight=False, soft_wrap=True)
        elif isinstance(event, Note):
            console.print(f"  [yellow]·[/] {escape(event.text)}", highlight=False)
        elif isinstance(event, Evaluated):
            mark = "[green]best[/]" if event.best else ""
            console.print(
                f"  update {event.step:>5}  train loss {event.scores['train_loss']:.4f}  validation loss {event.scores['loss']:.4f}  "
                f"{event.metric} {event.scores[event.metric]:.4f}  {mark}",
                highlight=False,
            )
        elif isinstance(event, Stepped):
            self._step(event)

    def _step(self, event: Stepped) -> None:
        self._tokens += event.report.tokens
        if not console.is_terminal:
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("  training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]:.4f}"),
                TextColumn("{task.fields[speed]:,.0f} tokens/s"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=event.total, completed=event.report.step - 1, loss=0.0, speed=0.0)
            self._bar.start()
        speed = self._tokens / max(1e-9, time.monotonic() - self._begun)
        if self._task is not None:
            self._bar.update(self._task, completed=event.report.step, loss=event.report.loss, speed=speed)
        if event.report.step == event.total:
            self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def kind_of(run: Run) -> str:
    """The kind of a run's task."""
    return str(run.facts["task"]).split("/")[-1]


def scores_table(run: Run) -> Table:
    """Every method beside the model, each figure with its 95% interval."""
    scores = run.scores
    names = headlines(kind_of(run), scores)
    table = Table(
        title=f"{scores['test_rows']} test rows{_written(scores)}, 95% bootstrap intervals",
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
    )
    if kind_of(run) == "multitask":  # as many scores as tasks: a line each
        return _lines(table, names, scores["methods"])
    names = names[: max(1, (console.width - 32) // 19)]
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for method, found in scores["methods"].items():
        cells = [_score(found.get(n)) for n in names]
        style = "bold" if method == "model" else None
        table.add_row(METHODS[method], *cells, style=style)
    return table


def ways_table(found: Compared) -> Table:
    """Ways against forgetting side by side, each figure with its interval over seeds."""
    table = Table(title="ways against forgetting", title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    summaries = found.summaries()
    keys = [k for k in ("average", "gain", "loss", "seconds") if k in next(iter(summaries.values()))]
    titles = {"average": "final mean", "gain": "gained of the new", "loss": "lost of the old", "seconds": "seconds"}
    table.add_column("", no_wrap=True)
    for key in keys:
        table.add_column(titles[key], justify="right", no_wrap=True)
    for way, figures in summaries.items():
        cells = [_figure(figures[k], "%.0f" if k == "seconds" else "%.3f") for k in keys]
        table.add_row(way, *cells, style="bold" if found.advice and way == found.advice.way else None)
    return table


def _figure(figure: dict[str, Any], form: str) -> str:
    value = form % figure["value"]
    return value if figure["low"] is None or form == "%.0f" else f"{value} [dim]{form % figure['low']}–{form % figure['high']}[/]"


def _lines(table: Table, names: list[str], methods: dict[str, Any]) -> Table:
    """The table with a line for each score, and the rows that it rests on."""
    table.add_column("", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    for method in methods:
        table.add_column(METHODS[method], justify="right", no_wrap=True)
    for name in names:
        rows = str(methods["model"][name]["n"])
        table.add_row(name.replace("_", " "), rows, *(_score(found.get(name)) for found in methods.values()))
    return table


def _score(found: Any) -> str:
    """A figure with its interval; nothing where there is none."""
    return f"{found['value']:.3f} [dim]{found['low']:.2f}–{found['high']:.2f}[/]" if found else ""


def _written(scores: dict[str, Any]) -> str:
    """How many rows the scores of texts are on, where there are such."""
    return f" ({scores['written_rows']} of them answered in full)" if scores.get("written_rows") else ""


def probes_line(run: Run) -> list[str]:
    """What the training did to other texts, a line for each probe."""
    lines = []
    for name, found in run.scores.get("probes", {}).items():
        metric = found["metric"]
        values = " → ".join(f"{found[s][metric]['value']:.3f}" for s in ("base", "model") if s in found)
        change = found.get("difference", {}).get(metric)
        by = f", {change['value']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})" if change else ""
        lines.append(f"elsewhere {name}: {metric.replace('_', ' ')} {values}{by}")
    return lines


def show_run(run: Run) -> None:
    """The end of a training: the table, where things are."""
    facts = run.facts
    progress = facts["progress"]
    console.print()
    console.print(scores_table(run))
    for line in probes_line(run):
        console.print(line, highlight=False, markup=False)
    winner = best_method(run.scores["methods"], run.scores["metric"])
    if winner != "model":
        metric = run.scores["metric"]
        console.print(f"  [yellow]·[/] {METHODS[winner]} does better by {metric}: prefer it, or train on more data", highlight=False)
    if "streams" in facts:
        shares = ", ".join(f"{n} {s['share']:.0%}" for n, s in facts["streams"].items())
        console.print(f"trained on {shares}", highlight=False, markup=False)
    speed = progress["tokens"] / max(progress["seconds"], 1e-9)
    console.print(f"trained {progress['step']} updates in {progress['seconds']:.0f} s, {speed:,.0f} tokens/s", highlight=False)
    console.print(f"model   {run.model}\nreport  {run.report}", highlight=False, soft_wrap=True, markup=False)
