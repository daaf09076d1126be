"""The sandbox: runs what a model wrote against tests, and says which passed.

Enters: code, and tests as steps. Leaves: how many tests passed. Whatever the code does (it may fork without end, loop, eat memory,
fill the disk, close its outputs) ends with its time, and reaches neither the network nor files. What of this a machine does not
allow is found out by trial, once, and said in `lacks`. The sandbox guards the machine; code that is out to cheat its tests still can,
for it runs beside them.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import pwd
import random
import secrets
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
APART = ("unshare", "--net", "--pid", "--ipc", "--mount", "--fork", "--kill-child")
WAYS: tuple[tuple[str, ...], ...] = (APART, (*APART, "--user", "--map-root-user"), ("unshare", "--net", "--user", "--map-root-user"), ())
"""How a process gets away from the machine, the best first; the last is not at all."""
MOST = 1 << 20
"""Bytes of its results that are read."""
GRACE = 10.0
"""Seconds beyond its time after which the jail itself is ended."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
"""All that there is of /dev: writing to any other, such as a terminal of the same user, would reach the machine."""
USERS = (61184, 65519)
"""User numbers that belong to nobody (systemd's dynamic ones), one for each program that runs, so that its processes can be counted."""


class Limits(NamedTuple):
    """Seconds of wall clock (and of CPU time a process), bytes of memory a process, bytes on disk, processes."""

    seconds: float
    memory: int
    disk: int
    processes: int


class Step(NamedTuple):
    """A statement of the tests, and whether it is one or only prepares for them."""

    source: str
    test: bool


@dataclass(frozen=True)
class Verdict:
    """How many tests there were and passed."""

    tests: int
    passed: int


@dataclass(frozen=True)
class Way:
    """How programs are started here, and what that does not keep from them."""

    command: tuple[str, ...]
    lacks: tuple[str, ...]


def steps(text: str) -> list[Step]:
    """Tests as steps: each assert, each call at the top, each function named test_... is one. Raises ValueError for what is no Python."""
    try:
        body = ast.parse(text).body
        found = [
            Step(ast.unparse(n), isinstance(n, ast.Assert) or (isinstance(n, ast.Expr) and isinstance(n.value, ast.Call))) for n in body
        ]
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not Python: {error}") from None
    return found + [Step(f"{n.name}()", True) for n in body if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]


def examine(code: str, tests: Sequence[Step], *, limits: Limits) -> Verdict:
    """Run code, then its tests, in the sandbox. A program that does not end well passes those that it passed until then."""
    token = secrets.token_hex(16)
    job = f"{json.dumps(code)}\n{json.dumps({'token': token, 'steps': tests})}\n"
    _, lines = _run((HERE / "examine.py").read_text(encoding="utf-8"), job, limits=limits, command=found_way().command)
    numbers = {i for i, step in enumerate(tests) if step.test}
    passed = {int(n) for t, _, n in (line.partition(" ") for line in lines) if t == token and n.isdecimal()}
    return Verdict(len(numbers), len(numbers & passed))


@functools.cache
def found_way() -> Way:
    """The best way that works here: found by running a program in each."""
    limits, said = Limits(20.0, 1 << 29, 1 << 24, 8), ""
    for command in WAYS:
        if command and shutil.which("unshare") is None:
            said = "there is no unshare"
            continue
        try:
            lacks, lines = _run("import os; os.write(1, b'here\\n')", "", limits=limits, command=command)
        except OSError as error:
            said = str(error)
            continue
        if "here" in lines:
            return Way(command, (*_missing(command, said), *lacks))
        said = "; ".join(lacks) or "the program did not start"
    raise OSError(f"no program can be started in the sandbox: {said}")


def _missing(command: Sequence[str], said: str) -> list[str]:
    if "--pid" in command:
        return []
    missing = ["files outside its folder can be read and changed"]
    if os.getuid() or "--user" in command:
        missing.append("a program that kills its keeper, which is of the same user, outlives its time, though not its CPU time")
    return missing if command else [*missing, f"the network can be reached{f' ({said})' if said else ''}"]


def _run(program: str, given: str, *, limits: Limits, command: Sequence[str]) -> tuple[list[str], list[str]]:
    """What the jail could not do, and the lines that the program wrote. Raises OSError where the jail does not start."""
    folder = tempfile.mkdtemp(prefix="luthier-")
    user = random.randint(*USERS) if os.getuid() == 0 and "--user" not in command else None
    settings = {
        "folder": folder, "program": program, "python": sys.executable, "closed": "--mount" in command, "apart": "--pid" in command,
        "user": user, "hidden": _hidden(), "kept": _kept(),
        **limits._asdict(),
    }  # fmt: skip
    start = [*command, sys.executable, "-I", "-S", str(HERE / "jail.py"), json.dumps(settings)]
    try:
        with tempfile.TemporaryFile() as file:
            file.write(given.encode("utf-8", "surrogatepass"))
            file.seek(0)
            process = subprocess.Popen(  # noqa: S603  (our own script)
                start, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(), start_new_session=True
            )
        with process:
            try:
                text = _read(process, time.monotonic() + limits.seconds + GRACE)
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                pass
            finally:
                process.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    first, _, rest = text.decode("utf-8", "replace").partition("\n")
    try:
        return json.loads(first)["lacks"], rest.splitlines()
    except (ValueError, KeyError, TypeError):
        raise OSError(f"the jail did not start ({' '.join(command) or 'no unshare'})") from None


def _read(process: subprocess.Popen[bytes], end: float) -> bytes:
    """What it writes until it ends, but no more than is allowed; then the pipe is closed."""
    assert process.stdout is not None
    found = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(found) < MOST and selector.select(max(0.0, end - time.monotonic())):
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                break
            found += piece
    process.stdout.close()
    return bytes(found)


def _hidden() -> list[str]:
    """Folders with secrets, sockets and devices in them: homes, run, temporary ones, dev. None lies inside another."""
    homes = {pwd.getpwuid(os.getuid()).pw_dir, os.path.expanduser("~"), "/root", "/home"}
    places = {os.path.realpath(p) for p in (*homes, "/dev", "/run", "/tmp", "/var/tmp", tempfile.gettempdir()) if os.path.isdir(p)} - {"/"}  # noqa: S108
    return sorted(p for p in places if not any(p.startswith(q + "/") for q in places))


def _kept() -> list[str]:
    """What stays there inside of hidden folders: Python, and devices that reach nothing."""
    python = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent)}
    return sorted(python | {device for device in DEVICES if os.path.exists(device)})


def _environment() -> dict[str, str]:
    """What the jail itself gets: a way to find unshare. The program in it gets nothing."""
    return {"PATH": os.environ.get("PATH", os.defpath)}
