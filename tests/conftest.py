"""Shared fixtures: tiny models of every family, small data files, and an offline hub."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the cores; spinning threads would fight over them

import csv
from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    os.environ["LUTHIER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with a tiny BERT and its tokenizer."""
    return tiny.save("bert", tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture
def moods(tmp_path) -> Path:
    """A CSV of 120 easy rows in three classes."""
    return tiny.write_moods(tmp_path / "moods.csv")


@pytest.fixture
def recipe(tmp_path, tiny_model, moods) -> dict:
    """A recipe that trains the tiny model in a second."""
    return {
        "data": {"train": str(moods), "validation_share": 0.15, "test_share": 0.2},
        "model": {"name": str(tiny_model)},
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "threads": 1},
        "evaluation": {"bootstrap": 100, "baselines": ["majority"]},
        "output": {"folder": str(tmp_path / "runs"), "name": "tiny"},
    }


@pytest.fixture
def write_csv(tmp_path):
    """Write rows to a CSV file."""

    def write(name: str, header: list[str], rows: list[list[object]]) -> Path:
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)
        return path

    return write
