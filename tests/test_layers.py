"""Imports run one way: a room may use the rooms above it in this list, also inside functions."""

from __future__ import annotations

import ast
from pathlib import Path

import luthier

ROOMS = [
    "errors", "registry", "recipe", "security", "feedback", "data", "models", "tasks", "inference", "training", "evaluation", "retention",
    "alignment", "distributed", "runs", "workflow", "search", "workshop", "serving", "studio", "cli", "__main__",
]  # fmt: skip
SOURCE = Path(luthier.__file__).parent


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports() -> list[tuple[str, str, str]]:
    """(room, imported room, where) of every import of our own code."""
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{a.name}" for a in node.names]
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "luthier" and len(parts) > 1:
                    found.append((room(path), parts[1], f"{path.relative_to(SOURCE)}:{node.lineno} imports {name}"))
    return found


def test_every_room_has_its_place():
    rooms = {room(p) for p in SOURCE.rglob("*.py")} - {"__init__"}
    assert rooms <= set(ROOMS)


def test_imports_run_one_way():
    wrong = [
        where for a, b, where in imports()
        if a != "__init__" and b in ROOMS and ROOMS.index(b) > ROOMS.index(a)
    ]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_training_knows_neither_evaluation_nor_tasks():
    wrong = [w for a, b, w in imports() if a == "training" and b in ("tasks", "evaluation", "retention", "inference", "workflow")]
    assert not wrong, "\n".join(wrong)


def test_data_knows_no_model():
    assert not [w for a, b, w in imports() if a == "data" and b == "models"]
