"""Tiny models that have learned something, and the sequence of tasks on which they may forget it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from luthier.models import load as loading
from luthier.models.heads import Head
from luthier.models.load import Loaded
from luthier.models.source import Source
from luthier.recipe.sections import Model
from luthier.registry import METHOD_OPTIONS, METHODS
from tests import tiny

LABELS = ("negative", "neutral", "positive")
CLASSES = Head("classes", 3, LABELS, "single_label_classification")


def classifier(folder: Path, *, dropout: float = 0.1) -> Path:
    """A tiny BERT with a head of three classes that is in its files."""
    torch.manual_seed(0)
    config = tiny.config("bert", num_labels=3, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, initializer_range=0.2)
    config.id2label = dict(enumerate(LABELS))
    config.label2id = {label: i for i, label in enumerate(LABELS)}
    hf.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tiny.tokenizer("bert").save_pretrained(folder)
    return folder


def load(folder: Path, head: Head, method: str = "full", **options: Any) -> tuple[Loaded, Any]:
    """The model with its method in place."""
    loaded = loading.load(Source(str(folder), str(folder), None), Model(name=str(folder)), head=lambda _: head)
    chosen = METHODS.load(method)(METHOD_OPTIONS.load(method)(type=method, **options))
    chosen.apply(loaded)
    return loaded, chosen


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    """A CSV of texts and labels."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *rows])
    return path


def turned(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same texts, whose labels now say something else."""
    other = dict(zip(LABELS, (*LABELS[1:], LABELS[0]), strict=True))
    return [(text, other[label]) for text, label in rows]
