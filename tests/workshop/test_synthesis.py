"""Synthesis against an endpoint that fails, stalls, repeats itself and says nonsense; and through kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.cli.data.synthesize import command, kind_of
from luthier.errors import DataError, EndpointError, LuthierError, RecipeError, RunError, SpaceError
from luthier.workshop.asking.journal import Journal
from luthier.workshop.synthesis.known import Known
from luthier.workshop.synthesis.synthesize import journal_of, synthesize
from tests.alignment.world import judge, said
from tests.workshop.world import FAULTS, Endpoint

SEEDS = [
    {"instruction": f"task number {i} about {w}", "input": "", "output": "yes"} for i, w in enumerate(("tea", "rain", "chess", "maps"))
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def options(url: str, kind: str = "instruct", *, endpoint: dict[str, Any] | None = None, **fields: Any) -> Any:
    place = {"url": url, "model": "m", "backoff": 0.01, "timeout": 0.3, **(endpoint or {})}
    return kind_of(kind, {"rows": 40, **fields, "endpoint": place})


@pytest.fixture
def seeds(tmp_path):
    return jsonl(tmp_path / "seeds.jsonl", SEEDS)


def whole(out: Path, found: Any) -> list[dict[str, Any]]:
    """The rows, after the books are held against the files: no row lost, none doubled."""
    rows, fates, report = lines(out / "rows.jsonl"), lines(out / "fates.jsonl"), json.loads((out / "report.json").read_text())
    kept = [f["row"] for f in fates if f["fate"] == "kept"]
    assert kept == rows
    assert len({json.dumps(r, sort_keys=True) for r in rows}) == len(rows) == report["kept"]
    assert Counter(f["filter"] for f in fates if f["fate"] == "dropped") == Counter(report["dropped"])
    assert report["candidates"] == len(fates) == report["kept"] + sum(report["dropped"].values())
    assert report["asks"] == report["answered"] + sum(report["without_answer"].values())
    assert found is None or report["stopped"] == found.stopped
    return rows


def test_faults_pass_and_change_nothing(seeds, tmp_path):
    quiet, faulty = Endpoint(repeats=0.2), Endpoint(repeats=0.2, faults=True)
    results = []
    for name, endpoint in (("a", quiet), ("b", faulty)):
        with judge(endpoint) as server:
            found = synthesize(seeds, options(server.url, rows=60), out=tmp_path / name)
        results.append(whole(tmp_path / name, found))
    assert results[0] == results[1]
    assert len(results[0]) == 60
    assert set(faulty.faulty) == set(FAULTS)
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert sum(report["failed_tries"].values()) == faulty.faulty.total()
    assert report["dropped"]["exact"] > 5
    assert report["unreadable"]
    assert report["spent"]["requests"] == len(faulty.seen)


def test_kill_9_and_go_on(seeds, tmp_path):
    """Killed twice while requests are on their way: the rows are those of a run that was left alone, within the budget."""
    alone = Endpoint(repeats=0.2)
    with judge(alone) as server:
        how = options(server.url, rows=70)
        synthesize(seeds, how, out=tmp_path / "alone")
        endpoint = Endpoint(repeats=0.2, faults=True, pause=0.02)
        with judge(endpoint) as server:
            out, budget = tmp_path / "killed", 400
            section = tmp_path / "how.yaml"
            section.write_text(
                json.dumps(
                    {
                        **how.model_dump(mode="json"),
                        "max_requests": budget,
                        "endpoint": {**how.endpoint.model_dump(mode="json"), "url": server.url},
                    }
                )
            )
            arguments = [
                sys.executable,
                "-m",
                "luthier.cli.main",
                "data",
                "synthesize",
                str(seeds),
                "--out",
                str(out),
                "--how",
                str(section),
            ]
            for wanted in (6, 40):
                endpoint.wanted = wanted
                endpoint.enough.clear()
                process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))
                assert endpoint.enough.wait(60), process.communicate(timeout=5)
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
                process.communicate()
                assert not out.exists()
            killed_at = len(endpoint.seen)
            with journal_of(out).open("ab") as file:
                file.write(b'{"reply": "torn')
            found = synthesize(seeds, kind_of(str(section), {}), out=out)
    assert whole(out, found) == lines(tmp_path / "alone" / "rows.jsonl")
    assert killed_at < len(endpoint.seen) <= found.requests <= budget
    answers = Counter(json.loads(line)["reply"] for line in journal_of(out).read_text().splitlines() if '"reply"' in line)
    assert set(answers.values()) == {1}


@pytest.mark.parametrize("budget", [{"max_requests": 23}, {"max_total_tokens": 20_000}])
def test_the_budget_is_kept_whatever_fails(seeds, tmp_path, budget):
    endpoint = Endpoint(faults=True)
    with judge(endpoint) as server:
        found = synthesize(seeds, options(server.url, rows=500, **budget), out=tmp_path / "out")
    whole(tmp_path / "out", found)
    assert found.stopped == "the budget is spent"
    given_up = sum(n for why, n in found.failures.items() if "took longer" in why)  # on a busy machine, before they were seen
    assert found.requests - given_up <= len(endpoint.seen) <= found.requests <= budget.get("max_requests", 10**9)
    assert endpoint.tokens <= found.tokens <= budget.get("max_total_tokens", 10**9)
    before = len(endpoint.seen)
    (tmp_path / "out").rename(tmp_path / "first")
    with judge(endpoint) as server:  # what is paid for is not paid again; another address is another model
        again = options(server.url, rows=500, **budget)
        synthesize(seeds, again, out=tmp_path / "out2")
        journal_of(tmp_path / "out2").rename(journal_of(tmp_path / "out3"))
        count = len(endpoint.seen)
        once_more = synthesize(seeds, again, out=tmp_path / "out3")
    assert before < count
    assert once_more.kept
    if "max_requests" in budget:
        assert len(endpoint.seen) == count
    assert once_more.requests <= budget.get("max_requests", 10**9)
    assert once_more.tokens <= budget.get("max_total_tokens", 10**9)


def test_it_stops_where_nothing_new_comes(seeds, tmp_path):
    endpoint = Endpoint(repeats=1.0)
    with judge(endpoint) as server:
        found = synthesize(seeds, options(server.url, patience=2), out=tmp_path / "out")
    assert found.stopped == "nothing new in 2 rounds"
    assert len(whole(tmp_path / "out", found)) == 1


def test_one_that_is_gone_says_so_and_leaves_the_journal(seeds, tmp_path):
    endpoint = Endpoint()
    with judge(lambda n, b, h: endpoint(n, b, h) if n < 12 else (503, b"")) as server:
        how = options(server.url, rows=200, endpoint={"retries": 0})
        with pytest.raises(EndpointError, match="failed one after the other"):
            synthesize(seeds, how, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    journal = Journal(journal_of(tmp_path / "out"))
    assert len([a for a in journal.answers.values() if a.text is not None]) == 12
    with pytest.raises(RunError, match="another process"):
        Journal(journal.path)
    journal.close()


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_ends_it_at_once(seeds, tmp_path, status):
    with judge(lambda n, b, h: (status, b"")) as server:
        with pytest.raises(EndpointError, match=f"HTTP status {status}"):
            synthesize(seeds, options(server.url, endpoint={"concurrency": 1}), out=tmp_path / "out")
        assert len(server.requests) == 1


def test_a_wait_that_is_asked_for_is_kept(seeds, tmp_path, monkeypatch):
    from threading import Event

    waits: list[float] = []
    real = Event.wait
    monkeypatch.setattr(
        Event, "wait", lambda self, timeout=None: waits.append(timeout) or False if timeout == 17.0 else real(self, timeout)
    )
    endpoint = Endpoint()

    def limited(number: int, body: Any, handler: Any) -> Any:
        if number:
            return endpoint(number, body, handler)
        handler.send_response(429)
        handler.send_header("Retry-After", "17")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return None

    with judge(limited) as server:
        synthesize(seeds, options(server.url, rows=4), out=tmp_path / "out")
    assert waits == [17.0]


def test_questions_from_documents(tmp_path):
    document = "The heron stands still. It waits for fish. " * 30
    file = jsonl(tmp_path / "documents.jsonl", [{"text": document}, {"text": "A short one about owls."}])

    def answer(number: int, body: Any, handler: Any) -> Any:
        prompt = body["messages"][0]["content"]
        assert "word for word" in prompt
        assert len(prompt.split("<passage>\n")[1].split("\n</passage>")[0].split()) <= 66
        return said(
            json.dumps(
                [
                    {"question": f"What waits in case {number}?", "answer": "it WAITS"},
                    {"question": "Q?", "answer": "a unicorn"},
                    {"answer": 1},
                ]
            )
        )

    with judge(answer) as server:
        found = synthesize(
            file, options(server.url, "{type: questions, passage_words: 50, answers: quoted, near: 1}", rows=4), out=tmp_path / "out"
        )
    rows = whole(tmp_path / "out", found)
    assert [set(r) for r in rows] == [{"context", "question", "answer"}] * 4
    assert {f.reason for f in found.fates if f.filter == "quoted"} == {"not in the passage"}
    assert {f.candidate.made_from for f in found.fates} == {(f"{file}:1",), (f"{file}:2",)}


def test_more_of_a_rare_class(tmp_path):
    rows = [{"text": f"text {i} {'x' * i}", "label": "common" if i else "rare"} for i in range(6)]
    file = jsonl(tmp_path / "rows.jsonl", rows)
    endpoint = Endpoint()
    with judge(endpoint) as server:
        found = synthesize(file, options(server.url, "rare", rows=5), out=tmp_path / "out")
    assert {r["label"] for r in whole(tmp_path / "out", found)} == {"rare"}
    assert "text 0" in endpoint.seen[0]["messages"][0]["content"]
    with judge(endpoint) as server, pytest.raises(DataError, match="did you mean 'rare'"):
        synthesize(file, options(server.url, "{type: rare, classes: [rar]}"), out=tmp_path / "b")


def test_preference_pairs_hang_on_no_order(tmp_path):
    file = jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"say something about {w}"} for w in ("tea", "rain", "chess", "jazz", "owls")])

    def answer(number: int, body: Any, handler: Any) -> Any:
        prompt = body["messages"][0]["content"]
        if "Reply with 1 or 2" in prompt:
            if "<request>\nsay something about rain" in prompt:
                return said("1")
            if "<request>\nsay something about jazz" in prompt:
                return said("cannot tell")
            return said("Answer 1." if "good" in prompt.split("</answer_1>")[0] else "2")
        topic = prompt.split()[-1]
        return said(f"good {topic}" if body["seed"] % 2 else f"bad {topic}") if topic != "owls" else said("same")

    with judge(answer) as server:
        found = synthesize(file, options(server.url, "pairs", near=1.0), out=tmp_path / "out")
    assert found.stopped == "everything was asked"
    rows = whole(tmp_path / "out", found)
    assert all(r["chosen"].startswith("good") and r["rejected"].startswith("bad") for r in rows)
    assert len(found.fates) == 5
    assert {f.filter for f in found.fates} <= {None, "judge"}


def test_what_is_there_is_not_made_again(seeds, tmp_path):
    there = {"instruction": "list the five largest rivers of the old world", "input": "", "output": "x"}
    against = jsonl(tmp_path / "against.jsonl", [{"anything": "name some birds that cannot fly at all"}])
    said_ = [
        there, {**there, "instruction": "List the five LARGEST rivers of the world!"}, {**there, "instruction": "name some birds that cannot fly"},
        {**there, "instruction": "explain how bread rises"}, {**there, "instruction": ""}, {**there, "instruction": "one two three", "output": " ".join(["w"] * 50)},
    ]  # fmt: skip
    file = jsonl(tmp_path / "all.jsonl", [*SEEDS, there])
    with judge(lambda n, b, h: said("\n".join(map(json.dumps, said_)))) as server:
        found = synthesize(file, options(server.url, max_words=40, patience=1, max_requests=1), out=tmp_path / "out", against=[against])
    fates = {f.candidate.row["instruction"]: f.filter for f in found.fates[:5]}
    assert list(fates.values()) == ["exact", "near", "near", None, "length"]


def test_bad_requests_are_told(seeds, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="either a model or an endpoint"):
        kind_of("instruct", {})
    with pytest.raises(RecipeError, match="did you mean instruct"):
        kind_of("instuct", {})
    with pytest.raises(RecipeError, match="in the clear"):
        options("http://example.com/v1", endpoint={"token_env": "TOKEN"})
    with pytest.raises(EndpointError, match="the environment has no TOKEN"):
        synthesize(seeds, options("http://127.0.0.1:9/v1", endpoint={"token_env": "TOKEN"}), out=tmp_path / "x")
    with pytest.raises(DataError, match="did you mean 'instruction'"):
        synthesize(seeds, options("http://127.0.0.1:9/v1", "{type: instruct, instruction: instruktion}"), out=tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(SpaceError, match="not empty"):
        synthesize(seeds, options("http://127.0.0.1:9/v1"), out=tmp_path / "full")
    with pytest.raises(LuthierError, match="give a run's name or folder"):
        synthesize(seeds, kind_of("instruct", {"model": "./nothing"}), out=tmp_path / "x")
    with pytest.raises(RecipeError, match="endpoint"):
        kind_of("{type: rare, endpoint: here}", {"endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m"}})
    (tmp_path / "how.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read: invalid start byte"):
        kind_of(str(tmp_path / "how.yaml"), {})
    result = CliRunner().invoke(command, [str(seeds), "--out", str(tmp_path / "x"), "--how", "instruct"])
    assert isinstance(result.exception, RecipeError)


def test_a_model_on_this_machine_writes(seeds, tmp_path, monkeypatch):
    """A writer that is asked in batches, and only for what the journal does not have."""
    from luthier.inference import writer
    from luthier.inference.rows import Written

    asked: list[int] = []

    class Fake:
        max_length = 100_000

        def __init__(self, source: Any) -> None:
            self.endpoint = Endpoint()

        def prompt_ids(self, prompt: str) -> list[int]:
            return [0] * len(prompt)

        def write(self, prompts: list[str], sampling: list[Any]) -> list[list[Written]]:
            import random

            asked.append(len(prompts))
            body = {"messages": [{"content": "x"}]}
            return [[Written(self.endpoint.text(body, random.Random(s.seed)), (1, 2), "stop", None, None, 1)] for s in sampling]

    monkeypatch.setattr(writer, "Writer", Fake)
    how = kind_of("instruct", {"model": "starter", "rows": 20})
    found = synthesize(seeds, how, out=tmp_path / "a")
    assert len(whole(tmp_path / "a", found)) == 20
    assert asked == [16]
    journal_of(tmp_path / "a").rename(journal_of(tmp_path / "b"))
    synthesize(seeds, how, out=tmp_path / "b")
    assert asked == [16]
    assert lines(tmp_path / "b" / "rows.jsonl") == lines(tmp_path / "a" / "rows.jsonl")


def test_prompts_that_are_too_long_do_not_end_it(seeds, tmp_path):
    """Their fault is their own, however many there are."""
    endpoint = Endpoint()
    with judge(lambda n, b, h: (413, b"") if n < 14 else endpoint(n, b, h)) as server:
        found = synthesize(seeds, options(server.url, rows=4), out=tmp_path / "out")
    assert found.without == {"the endpoint answered with HTTP status 413": 14}
    assert len(whole(tmp_path / "out", found)) == 4


def test_rows_without_what_it_needs_are_counted(tmp_path):
    file = tmp_path / "seeds.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in [*SEEDS, {"instruction": "", "output": "x"}]) + "{torn\n")
    with judge(Endpoint()) as server:
        found = synthesize(file, options(server.url, rows=4), out=tmp_path / "out")
    assert (found.rows, found.unusable) == (6, 2)


WORDS = st.lists(st.sampled_from(["one", "two", "three", "four", "five", "six"]), max_size=7).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=8), WORDS, st.sampled_from([0.3, 0.5, 0.7, 0.75, 1.0]))
def test_near_is_what_comparing_with_all_finds(there, text, near):
    known = Known(near=near)
    for other in there:
        known.add(other)
    new = set(text.split())
    alike = any(new and len(new & set(o.split())) >= near * len(new | set(o.split())) - 1e-9 for o in there)
    expected = "exact" if text in there else "near" if alike else None
    assert known.like(text) == expected
