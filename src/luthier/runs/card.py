"""The model card that travels with a model: what it is, what it was trained on, how well it does."""

from __future__ import annotations

from typing import Any

from luthier.runs.store import Run

SHOWN = (
    "accuracy", "f1_macro", "f1_micro", "precision_macro", "recall_macro", "ece", "pearson", "spearman", "rmse",
    "perplexity", "pseudo_perplexity", "bits_per_byte", "token_accuracy", "exact_match", "f1", "precision", "recall", "sentence_accuracy",
    "f1_answered", "no_answer_accuracy", "token_f1", "rouge_l", "bleu", "chrf",
    "recall@1", "recall@5", "recall@10", "mrr", "ndcg@10",
    "margin", "length_correlation",
)  # fmt: skip
PIPELINES = {
    "embedding": "sentence-similarity",
    "causal": "text-generation",
    "chat": "text-generation",
    "masked": "fill-mask",
    "span": "question-answering",
    "tagging": "token-classification",
    "text2text": "text2text-generation",
}


def model_card(run: Run, *, scores: dict[str, Any], metric: str, labels: list[str]) -> str:
    """Markdown, with the front matter that model hubs read."""
    facts = run.facts
    summary, rows = facts["data"]["summary"], []
    for name, found in scores["model"].items():
        if name in SHOWN:
            rows.append(f"| {name} | {found['value']:.4f} | {found['low']:.4f} to {found['high']:.4f} | {found['n']} |")
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {PIPELINES.get(str(facts['task']).split('/')[0], 'text-classification')}",
        "tags: [luthier]",
        "---",
        "",
        f"# {run.id}",
        "",
        f"Fine-tuned from `{facts['model']}` for {facts['task']} on {summary['train']} rows "
        f"({summary['validation']} for validation, {summary['test']} for testing).",
        "",
        "## Scores on the test part",
        "",
        "| score | value | 95% interval | n |",
        "|---|---|---|---|",
        *rows,
        "",
        f"The checkpoint was chosen by validation {metric}."
        if summary["validation"]
        else "No rows were held out to choose a checkpoint by.",
        "",
        *(["## Labels", "", ", ".join(f"`{label}`" for label in labels), ""] if labels else []),
        *_data(facts["data"]),
        "## Limits",
        "",
        "Scores hold for texts like those of the test part. Texts of another kind, language or time may do worse; "
        "measure on your own before relying on it. Known at training time:",
        "",
        *([f"- {note}" for note in facts.get("notes", [])] or ["- nothing stood out in the data"]),
        "",
    ]
    if prompt := facts.get("prompt"):
        lines += [
            "## Prompt",
            "",
            "Texts were put into this template, in training and in evaluation; do the same when you use it:",
            "",
            "```",
            prompt,
            "```",
            "",
        ]
    return "\n".join(lines)


def _data(data: dict[str, Any]) -> list[str]:
    """Where the rows come from and who may use them; nothing where the recipe says neither."""
    told = [f"- {name}: {data[key]}" for name, key in (("Source", "source"), ("Licence", "license")) if data.get(key)]
    return ["## Data", "", *told, ""] if told else []
