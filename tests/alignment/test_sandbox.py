"""The sandbox, attacked: whatever a program does, it ends with its time, and nothing is left of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.alignment.sandbox import sandbox
from luthier.alignment.sandbox.sandbox import Limits, Step, Verdict, Way, examine, found_way, steps
from tests.alignment.world import score, totals

LIMITS = Limits(seconds=5.0, memory=256 << 20, disk=4 << 20, processes=8)
RIGHT = "def square(x): return x * x\n"
TESTS = steps("assert square(2) == 4\nassert square(3) == 9")


@pytest.fixture(scope="module", autouse=True)
def _programs_run_here():
    try:
        found_way()
    except OSError as error:
        pytest.skip(f"no sandbox on this machine: {error}")


def closed() -> bool:
    return "--mount" in found_way().command


def left_over(mark: str) -> list[str]:
    """Command lines of processes that hold a mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text(errors="replace")
        except OSError:
            continue
        found += [line] if mark in line else []
    return found


def run(code: str, limits: Limits = LIMITS, tests: list[Step] = TESTS) -> int:
    return examine(code, tests, limits=limits).passed


def test_tests_are_counted_one_by_one():
    assert examine(RIGHT, TESTS, limits=LIMITS) == Verdict(2, 2)
    assert examine("def square(x): return 4", TESTS, limits=LIMITS) == Verdict(2, 1)
    assert examine("def square(x: return", TESTS, limits=LIMITS) == Verdict(2, 0)


def test_an_endless_test_keeps_those_before_it():
    tests = steps("assert square(1) == 1\nassert square(0) == 0\nassert square(2) == 4")
    assert run("def square(x):\n    while x == 0: pass\n    return x * x", LIMITS._replace(seconds=1.0), tests) == 1


@pytest.mark.parametrize(
    "attack",
    [
        "import os\nwhile True:\n    os.fork()",
        "import threading\nwhile True:\n    threading.Thread(target=lambda: input() or exec('while 1: pass')).start()",
        "x = bytearray(1 << 33)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "import os\nos.close(1); os.closerange(3, 64)",
        "import os\nos.kill(os.getpid(), 9)",
        "raise SystemExit",
        "print('0 0'); print('passed ' * 100)",
        "def deep(): deep()\ndeep()",
        "open('big', 'wb').write(bytes(1 << 24))",
        "import socket\nsocket.create_connection(('127.0.0.1', 1), timeout=1)",
        "import os\nfor fd in range(3, 64):\n    try:\n        while True: os.write(fd, b'0' * 65536)\n    except OSError: pass\nos._exit(1)",
        "import ctypes\nctypes.string_at(0)",
    ],
)  # fmt: skip
def test_attacks_score_nothing_and_end(attack):
    before = "def square(x): return 0\n" if "print" in attack else RIGHT
    assert run(before + attack, LIMITS._replace(seconds=1.0)) == 0
    assert run(RIGHT) == 2


@pytest.mark.parametrize(
    "attack", ["while True: pass", "import time\ntime.sleep(99)", "import os\nos.read(3, 1 << 20) and exec('while 1: pass')"]
)
def test_what_does_not_end_is_ended(attack):
    assert run(RIGHT + attack, LIMITS._replace(seconds=0.5)) == 0


def test_nothing_outlives_a_program():
    escape = (
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(98.7654)'], start_new_session=True)\n"
    )
    assert run(RIGHT + escape) == 2
    assert left_over("98.7654") == []


def test_a_program_ends_with_its_time_when_training_was_killed(tmp_path):
    asking = (
        "from luthier.alignment.sandbox.sandbox import *\n"
        "found_way()\nprint('ready', flush=True)\n"
        'examine(\'import subprocess, sys; subprocess.run([sys.executable, "-c", "import time; time.sleep(96.5432)"])\','
        " [], limits=Limits(2.0, 1 << 28, 1 << 22, 8))"
    )
    with subprocess.Popen([sys.executable, "-c", asking], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == b"ready\n"
        assert _soon(lambda: any(line.endswith("time.sleep(96.5432)\0") for line in left_over("96.5432")))
        training.kill()
    assert _soon(lambda: left_over("96.5432") == [])


def _soon(fact) -> bool:
    """Whether it comes true before the patience of a test is over."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if fact():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    "fact",
    [
        "not dict(os.environ) or set(os.environ) <= {'LC_CTYPE'}",
        "os.path.samefile(os.getcwd(), '.') and os.listdir('.') == []",
        "sys.flags.isolated == 1",
        "os.getuid() != 0 or open('/proc/self/status').read() == ''",
        "not sys.stdin.read()",
    ],
)
def test_it_knows_nothing_of_where_it_runs(fact, monkeypatch):
    if "getuid" in fact and "--user" in found_way().command:
        pytest.skip("the user is mapped to root of a namespace without rights")
    monkeypatch.setenv("SECRET", "hunter2")
    assert run(f"{RIGHT}import os, sys\nif not ({fact}): os._exit(1)") == 2


def test_files_elsewhere_can_be_neither_written_nor_read_where_they_are_secret(tmp_path):
    if not closed():
        pytest.skip("no mount namespace on this machine")
    (tmp_path / "secret").write_text("hunter2")
    target = tmp_path / "target"
    target.write_text("as it was")
    target.chmod(0o666)
    assert run(f"{RIGHT}open({str(target)!r}, 'w').write('changed')") == 0
    assert target.read_text() == "as it was"
    assert run(f"{RIGHT}open({str(tmp_path / 'secret')!r}).read()") == 0
    home = os.path.expanduser("~")
    needed = [p for p in (sys.prefix, sys.base_prefix) if p.startswith(home + "/")]
    fact = f"all(any(n.startswith(os.path.join({home!r}, e)) for n in {needed!r}) for e in os.listdir({home!r}))"
    assert run(f"{RIGHT}import os\nif not {fact}: os._exit(1)") == 2
    assert run(f"{RIGHT}open('here', 'w').write('x')") == 2


def test_of_devices_there_are_those_alone_that_reach_nothing():
    if not closed():
        pytest.skip("no mount namespace on this machine")
    harmless = ["full", "null", "random", "urandom", "zero"]
    assert run(f"{RIGHT}import os\nif sorted(os.listdir('/dev')) != {harmless!r}: os._exit(1)") == 2
    assert (
        run(f"{RIGHT}import os\nif open('/dev/zero', 'rb').read(1) + os.urandom(1) == b'': os._exit(1)\nopen('/dev/null', 'w').write('x')")
        == 2
    )
    assert run(f"{RIGHT}open('/dev/new', 'w')") == 0


def test_the_sum_of_files_is_limited():
    if not closed():
        pytest.skip("no mount namespace on this machine")
    assert run(f"{RIGHT}for i in range(8): open(str(i), 'wb').write(bytes(1 << 20))") == 0
    assert run(f"{RIGHT}for i in range(3): open(str(i), 'wb').write(bytes(1 << 20))") == 2


def test_nothing_is_left_on_disk(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run(RIGHT + "import os\nos.makedirs('a/b/c'); open('a/b/x', 'w').write('x'); os.chmod('a', 0)")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", sandbox.WAYS[1:])
def test_with_less_isolation_limits_still_hold_and_it_is_said(command, monkeypatch):
    """What machines without some namespaces do."""
    try:
        lacks, lines = sandbox._run("import os; os.write(1, b'here\\n')", "", limits=LIMITS, command=command)
    except OSError as error:
        pytest.skip(str(error))
    if "here" not in lines:
        pytest.skip("this Python cannot be run by another user")
    monkeypatch.setattr(sandbox, "found_way", lambda: Way(command, tuple(lacks)))
    assert run(RIGHT) == 2
    assert run(RIGHT + "while True: pass", LIMITS._replace(seconds=0.5)) == 0
    escape = (
        "import os, subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(97.6543)'], start_new_session=True)\n"
    )
    assert run(RIGHT + escape) == 2
    assert left_over("97.6543") == []


def test_without_unshare_it_says_what_does_not_hold(monkeypatch):
    real = subprocess.Popen

    def popen(command, **rest):
        if command[0] == "unshare":
            raise OSError("unshare: not permitted")
        return real([sys.executable, "-c", "print('{\"lacks\": []}'); print('here')"], **rest)

    monkeypatch.setattr(sandbox.subprocess, "Popen", popen)
    way = found_way.__wrapped__()
    assert way.command == ()
    assert way.lacks[0] == "files outside its folder can be read and changed"
    assert way.lacks[-1] == "the network can be reached (unshare: not permitted)"
    assert any("kills its keeper" in fact for fact in way.lacks) == (os.getuid() != 0)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("x = 1\nassert x\nprint(x)\n", [False, True, True]),
        ("def check(f):\n    assert f(1)\ncheck(abs)", [False, True]),
        ("def test_a(): assert 1\ndef other(): pass", [False, False, True]),
        ("", []),
    ],
)
def test_statements_that_are_tests(text, kinds):
    assert [s.test for s in steps(text)] == kinds


def test_the_reward_reads_code_and_tests():
    row = {"tests": "assert square(2) == 4\nassert square(-1) == 1\nassert square(0) == 1"}
    texts = [f"Here:\n```python\n{RIGHT}```\nDone.", RIGHT, "no code", "```js\nx\n```"]
    assert totals("unit_test", texts, row) == pytest.approx([2 / 3, 2 / 3, 0, 0])
    assert totals({"type": "unit_test", "grade": "all"}, texts, row) == [0, 0, 0, 0]
    assert totals(
        {"type": "unit_test", "grade": "all", "column": "list"},
        texts[:1],
        {"list": ["assert square(1) == 1", "y = 2\nassert square(y) == 4"]},
    ) == [1]
    module = "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\nif __name__ == '__main__':\n    raise SystemExit"
    assert totals("unit_test", [module], {"tests": "def test_a():\n    assert A(3).x == 3"}) == [1]


@pytest.mark.parametrize(
    ("tests", "said"), [("x = 1", "no tests in 'tests'"), ("assert (", "not Python"), (3, "holds 3, neither"), (["assert ("], "not Python")]
)
def test_rows_without_tests_have_no_score(tests, said):
    from luthier.alignment.rewards.reward import Asked
    from luthier.alignment.scoring import Scorer
    from tests.alignment.world import options

    with Scorer(options("unit_test"), folder=Path()) as scorer:
        found = scorer.score([Asked([], [RIGHT], {"tests": tests}), Asked([], [RIGHT], {"tests": "assert square(1)"})])
        assert not scorer.notes or found_way().lacks
    [reason] = found.faults
    assert said in reason
    assert found.total[1].tolist() == [1]


def test_a_sandbox_that_breaks_is_a_fault(monkeypatch):
    from luthier.alignment.rewards import unit_test
    from luthier.errors import RewardError

    def broken(*_, **__):
        raise OSError("too many open files")

    monkeypatch.setattr(unit_test, "examine", broken)
    with pytest.raises(RewardError, match="first: too many open files"):
        score("unit_test", [RIGHT], {"tests": "assert 1"})
