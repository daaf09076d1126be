"""The report of a run: one HTML file, no network, no script.

Enters: the `Story` of a run, its task, and the test part with its outputs. Leaves: HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from luthier.data.drift import sentences
from luthier.evaluation import charts, learning
from luthier.evaluation.baselines import METHODS
from luthier.tasks import metrics
from luthier.tasks.classification import Classification

HERE = Path(__file__).parent
HEADLINES = {
    "single_label": ("accuracy", "f1_macro", "precision_macro", "recall_macro", "ece"),
    "multi_label": ("f1_micro", "f1_macro", "precision_micro", "recall_micro", "accuracy"),
    "regression": ("pearson", "spearman", "rmse", "mae", "r2"),
    "causal": ("perplexity", "bits_per_byte", "loss", "token_accuracy"),
    "entities": ("f1", "precision", "recall", "f1_macro", "accuracy"),
    "words": ("accuracy", "f1_macro", "precision_macro", "recall_macro", "sentence_accuracy"),
    "span": ("exact_match", "f1", "f1_answered", "no_answer_accuracy", "loss"),
    "parsing": ("las", "uas", "label_accuracy", "las_universal", "loss"),
    "masked": ("pseudo_perplexity", "perplexity", "loss", "token_accuracy"),
    "text2text": ("chrf", "bleu", "rouge_l", "exact_match", "perplexity"),
    **dict.fromkeys(("pairs", "triplets", "classes"), ("ndcg@10", "recall@1", "recall@5", "recall@10", "mrr")),
    "scored": ("spearman", "pearson", "loss"),
    "chat": ("perplexity", "token_accuracy", "chrf", "rouge_l", "loss"),
    "policy": ("reward", "words", "perplexity"),
    "preference": ("accuracy", "margin", "likelier", "reward_chosen", "reward_rejected", "kl", "loss"),
    "reward": ("accuracy", "margin", "reward_chosen", "reward_rejected", "reward_good", "reward_bad", "length_correlation", "loss"),
}
MOST_CLASSES = 24
MISTAKES = 12
SAMPLES = 12


@dataclass(frozen=True)
class Story:
    """What a run's files say: its name, facts, scores, log and evaluations, and (path, value, source) of its recipe."""

    name: str
    facts: dict[str, Any]
    scores: dict[str, Any]
    log: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    values: list[tuple[str, Any, str]]
    samples: list[dict[str, Any]]


def render(story: Story, *, task: Any, gold: NDArray[Any], outputs: NDArray[np.float64], records: Sequence[Any]) -> str:
    """The whole page, for the test part's targets, outputs and records."""
    facts, scores = story.facts, story.scores
    methods, metric = scores["methods"], scores["metric"]
    names = headlines(task.kind, scores)
    context = {
        "css": style(),
        "name": story.name,
        "facts": facts,
        "metric": metric,
        "names": names,
        "methods": methods,
        "method_names": METHODS,
        "best": best_method(methods, metric),
        "n": scores["test_rows"],
        "compared": (compared := _compared(methods, metric, names)),
        "comparison": Markup(_comparison(methods, compared)),  # noqa: S704  (charts escape their labels)
        "curve": Markup(_curve(story)),  # noqa: S704
        "rates": Markup(_rates(story)),  # noqa: S704
        **(_of_labels(task, gold, outputs, records) if isinstance(task, Classification) else NO_LABELS),
        **({"classes": task.classes(outputs)} if hasattr(task, "classes") else {}),
        "counted": {"tagging": task.kind, "parsing": "arcs"}.get(task.name, "rows"),
        "labels": _labels(facts["data"]["summary"]),
        "values": story.values,
        "probes": scores.get("probes", {}),
        "drift": sentences(facts["drift"]) if "drift" in facts else [],
        "stages": scores.get("stages"),
        "lower_is_better": metrics.LOWER_IS_BETTER,
        "written": scores.get("written_rows", 0),
        "samples": _samples(story.samples),
        **_of_policy(task, story),
    }
    return pages().get_template("report.html.j2").render(context)


@cache
def pages(folder: Path = HERE) -> jinja2.Environment:
    """The pages of a folder; one for all, for it keeps the templates it has compiled: a search writes hundreds of reports."""
    return jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined)


@cache
def style() -> Markup:
    """The style sheet of every page."""
    return Markup((HERE / "report.css").read_text(encoding="utf-8"))  # noqa: S704  (our own style sheet)


def headlines(kind: str, scores: Mapping[str, Any]) -> list[str]:
    """The scores that a run of a kind shows, its own ones last; of several tasks, each one's first."""
    found = scores["methods"]["model"]
    if kind == "multitask":
        return [n for n in ("mean", *scores["mains"], "loss") if n in found]
    return [n for n in dict.fromkeys([*HEADLINES[kind], *scores.get("own_scores", ())]) if n in found]


def _samples(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first answers; of several tasks the first of each, then the second of each, and so on."""
    by_task: dict[Any, int] = {}
    turns = [by_task.update({s.get("task"): by_task.get(s.get("task"), 0) + 1}) or by_task[s.get("task")] for s in found]
    return [found[i] for i in sorted(range(len(found)), key=lambda i: turns[i])[:SAMPLES]]


def _of_policy(task: Any, story: Story) -> dict[str, Any]:
    """How it learned, where it learned from its own answers."""
    if not getattr(task, "rolls", False):
        return {"learned": [], "signs": [], "course": []}
    pictures = [(c.title, Markup(c.picture)) for c in learning.pictures(story.log, story.evaluations)]  # noqa: S704  (charts escape)
    return {"learned": pictures, "signs": learning.signs(story.log), "course": learning.course(story.evaluations)}


NO_LABELS: dict[str, Any] = {"classes": [], "confusion": None, "reliability": "", "fit": "", "mistakes": []}


def _of_labels(task: Any, gold: NDArray[Any], outputs: NDArray[np.float64], records: Sequence[Any]) -> dict[str, Any]:
    """What only labels and numbers have: classes, confusions, calibration, and the surest mistakes."""
    return {
        "classes": _classes(task, gold, outputs),
        "confusion": _confusion(task, gold, outputs),
        "reliability": Markup(_reliability(task, gold, outputs)),  # noqa: S704  (charts escape their labels)
        "fit": Markup(_fit(task, gold, outputs)),  # noqa: S704
        "mistakes": _mistakes(task, gold, outputs, records),
    }


def xray_page(samples: Sequence[Any], *, fault: str = "") -> str:
    """A page that shows which text of the samples is graded, and why training is refused, if it is."""
    return pages().get_template("xray.html.j2").render(css=style(), samples=samples, fault=fault)


def ways_page(name: str, facts: Mapping[str, Any], *, alike: bool) -> str:
    """A page on ways against forgetting side by side; `alike` where old and new are scored alike, in stages."""
    points = [
        charts.Mark(way, _three(figures["loss"]), _three(figures["gain"]), way == facts["advice"]["way"])
        for way, figures in facts["ways"].items()
    ]
    chart = charts.marks(points, x_label="lost of the old", y_label="gained of the new", alike=alike)
    return pages().get_template("ways.html.j2").render(css=style(), name=name, chart=Markup(chart), alike=alike, **facts)  # noqa: S704


def _three(figure: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    return figure["value"], figure["low"], figure["high"]


def best_method(methods: dict[str, Any], metric: str) -> str:
    """The method with the best score; the model, where it shares the first place."""
    sign = -1 if metric in metrics.LOWER_IS_BETTER else 1
    scored = [m for m in methods if metric in methods[m]]
    return max(reversed(scored), key=lambda m: sign * methods[m][metric]["value"])


def _compared(methods: dict[str, Any], metric: str, names: Sequence[str]) -> str:
    """The score by which methods are drawn side by side: the chosen one, unless only the model has it."""
    return next((n for n in (metric, *names) if sum(n in found for found in methods.values()) > 1), metric)


def _comparison(methods: dict[str, Any], metric: str) -> str:
    rows = [(METHODS[m], s[metric]["value"], s[metric]["low"], s[metric]["high"], m == "model") for m, s in methods.items() if metric in s]
    low = min(0.0, *(r[2] for r in rows))
    return charts.intervals(rows, low=low, high=max(1.0, *(r[3] for r in rows)) if low >= 0 else max(r[3] for r in rows))


def _curve(story: Story) -> str:
    log, evaluations = story.log, story.evaluations
    window = max(1, len(log) // 60)
    train = []
    for i in range(0, len(log), window):
        part = log[i : i + window]
        train.append((part[-1]["step"], sum(r["loss"] for r in part) / len(part)))
    held = [(e["step"], e["loss"]) for e in evaluations]
    alike = not any("samples" in e for e in evaluations)  # else the prompts' loss, which is of another kind than the answers'
    series = [charts.Line("training", train, "a"), *([charts.Line("validation", held, "b")] if alike else [])]
    return charts.lines(series, x_label="update", y_label="loss")


def _rates(story: Story) -> str:
    log = story.log
    points = [(r["step"], r["learning_rate"]) for r in log[:: max(1, len(log) // 200)]]
    return charts.lines([charts.Line("learning rate", points, "c")], x_label="update", y_label="learning rate")


def _classes(task: Any, gold: NDArray[Any], outputs: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and rows of each class, weakest first."""
    if task.kind == "regression":
        return []
    if task.kind == "single_label":
        table = metrics.confusion(gold, outputs.argmax(1), len(task.labels)).astype(float)
        hits, predicted, actual = np.diag(table), table.sum(0), table.sum(1)
    else:
        chosen = metrics.sigmoid(outputs) >= task.options.threshold
        hits, predicted, actual = (chosen * gold).sum(0), chosen.sum(0).astype(float), gold.sum(0)
    precision, recall, f1 = metrics.precision_recall_f1(hits, predicted, actual)
    rows = [
        {"label": label, "precision": p, "recall": r, "f1": f, "n": int(n)}
        for label, p, r, f, n in zip(task.labels, precision, recall, f1, actual, strict=True)
    ]
    return sorted(rows, key=lambda row: (row["f1"], row["label"]))


def _confusion(task: Any, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, Any] | None:
    """The matrix for few classes; for many, the commonest confusions."""
    if task.kind != "single_label":
        return None
    table = metrics.confusion(gold, outputs.argmax(1), len(task.labels))
    off = table.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None)[:15]
    pairs = [(task.labels[i // len(off)], task.labels[i % len(off)], int(off.flat[i])) for i in order if off.flat[i]]
    if len(task.labels) > MOST_CLASSES:
        return {"rows": None, "pairs": pairs}
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    cells = [
        [{"count": int(c), "share": round(float(s), 3), "right": i == j} for j, (c, s) in enumerate(zip(row, share, strict=True))]
        for i, (row, share) in enumerate(zip(table, shares, strict=True))
    ]
    return {"rows": list(zip(task.labels, cells, strict=True)), "labels": list(task.labels), "pairs": pairs}


def _reliability(task: Any, gold: NDArray[Any], outputs: NDArray[np.float64]) -> str:
    if task.kind != "single_label":
        return ""
    probabilities = metrics.softmax(outputs)
    confidence, right = probabilities.max(1), (probabilities.argmax(1) == gold).astype(float)
    place = np.minimum((confidence * 10).astype(int), 9)
    bins = [
        (float(confidence[place == b].mean()), float(right[place == b].mean()), int((place == b).sum()))
        for b in range(10) if (place == b).any()
    ]  # fmt: skip
    return charts.reliability(bins)


def _fit(task: Any, gold: NDArray[Any], outputs: NDArray[np.float64]) -> str:
    if task.kind != "regression":
        return ""
    return charts.scatter([(float(g), float(o)) for g, o in zip(gold, outputs[:, 0], strict=True)], x_label="target", y_label="prediction")


def _mistakes(task: Any, gold: NDArray[Any], outputs: NDArray[np.float64], records: Sequence[Any]) -> list[dict[str, Any]]:
    """The rows the model was surest of and wrong about, or furthest from."""
    losses = task.row_loss(gold, outputs)
    if task.kind == "single_label":
        sureness = metrics.softmax(outputs).max(1) * losses
    elif task.kind == "multi_label":
        sureness = np.abs(metrics.sigmoid(outputs) - gold).max(1) * (losses > 0)
    else:
        sureness = losses
    found = []
    for i in np.argsort(-sureness)[:MISTAKES]:
        if losses[i] <= 0:
            break
        found.append(
            {
                "text": records[i].text,
                "pair": records[i].pair,
                "where": f"{Path(records[i].file).name}:{records[i].line}",
                "gold": _target(task, gold[i]),
                "said": _said(task, outputs[i]),
                "sure": float(sureness[i]),
            }
        )
    return found


def _target(task: Any, value: Any) -> str:
    if task.kind == "regression":
        return f"{value:.3g}"
    if task.kind == "single_label":
        return task.labels[int(value)]
    return ", ".join(label for label, on in zip(task.labels, value, strict=True) if on) or "none"


def _said(task: Any, output: NDArray[np.float64]) -> str:
    answer = task.decode(output[None])[0]
    if "value" in answer:
        return f"{answer['value']:.3g}"
    return answer["label"] if "label" in answer else ", ".join(answer["labels"]) or "none"


def _labels(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of each label in each part, commonest first."""
    parts = summary["labels"]
    top = max([*parts["train"].values(), 1])
    rows = [
        {"label": label, "train": n, "validation": parts["validation"].get(label, 0), "test": parts["test"].get(label, 0), "share": n / top}
        for label, n in parts["train"].items()
    ]
    return sorted(rows, key=lambda row: -row["train"])
