"""The command line, in this process: what a user is shown and the exit code, without the seconds in which a new process imports torch."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from luthier.cli import screen
from luthier.cli.main import main


class Done(NamedTuple):
    """What a command leaves."""

    returncode: int
    stdout: str
    stderr: str


def luthier(*arguments: object, folder: Path, stdin: str = "", columns: int = 200) -> Done:
    """Run a command in a folder, on a screen so wide. What the real entry point does not catch is raised here, not shown."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["luthier", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        patch.setattr(screen, "console", Console(width=columns))
        with pytest.raises(SystemExit) as end:
            main()
    code = end.value.code or 0
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())
