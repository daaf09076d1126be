"""Documentation executes: commands exist with their options, recipes validate, snippets run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from luthier.cli.main import COMMANDS, root
from luthier.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            found += [line.split("#")[0].strip() for line in block.splitlines() if line.strip().startswith("luthier ")]
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_every_command_parses(line):
    name, *arguments = shlex.split(line.split("|")[0].split(">")[0])[1:]
    assert name in COMMANDS
    command = root.get_command(click.Context(root), name)
    assert command is not None
    context = command.make_context(name, arguments, resilient_parsing=False)
    while isinstance(command, click.Group):
        left = [*context._protected_args, *context.args]
        inner, command, arguments = command.resolve_command(context, left)
        assert command is not None
        context = command.make_context(inner, arguments, parent=context)


def test_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_recipe_in_the_documentation_validates():
    count = 0
    for page in PAGES:
        for block in blocks(page, "yaml"):
            load_recipe(yaml.safe_load(block))
            count += 1
    assert count >= 1


def test_python_snippets_run(recipe, tmp_path, monkeypatch):
    """On the tiny model, in place of the recipe file that the page names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.yaml").write_text(yaml.safe_dump(recipe))
    snippets = [b for page in PAGES for b in blocks(page, "python")]
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "snippet", "exec"), {})


def test_links_to_files_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_the_demo_ends_well(tmp_path):
    import os
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "luthier.cli.main", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
    )  # fmt: skip
    assert "fine-tuned" in done.stdout
    assert (tmp_path / "runs" / "demo-1" / "report.html").is_file()


def test_the_reference_page_is_the_schema():
    import sys

    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from make_reference import reference
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == reference(), "run python docs/make_reference.py"
