"""A judge over HTTP that answers, fails, stalls, and says nonsense."""

from __future__ import annotations

import time

import numpy as np
import pytest

from luthier.alignment.rewards.reward import Asked
from luthier.alignment.scoring import Scorer
from luthier.errors import RewardError
from tests.alignment.world import judge, options, said, score

PROMPT = [{"role": "user", "content": "say it"}]


def http(server, **fields):
    return {"type": "http", "url": server.url, "backoff": 0.0, **fields}


def lengths(number, body, handler):
    return {"scores": [len(c) for c in body["completions"]]}


def test_it_gets_prompt_completions_and_row_and_gives_scores():
    with judge(lengths) as server:
        assert score(http(server), ["a", "bbb"], {"answer": "x", "day": np.datetime64("2020-01-01")}).total.tolist() == [[1, 3]]
        headers, body, path = server.requests[0]
    assert body == {"prompt": PROMPT, "completions": ["a", "bbb"], "row": {"answer": "x", "day": "2020-01-01"}}
    assert path == "/score"
    assert "Authorization" not in headers


def test_a_plain_list_is_read_too():
    with judge(lambda n, b, h: [0.5, None]) as server:
        found = score(http(server), ["a", "b"])
    np.testing.assert_array_equal(found.total, [[0.5, np.nan]])
    assert dict(found.faults) == {"http: gave no score": 1}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, b"no"), "HTTP status 404"), ((301, b""), "HTTP status 301"), ((307, b""), "HTTP status 307"), (b"<html>", "not JSON"), ({"scores": [1]}, "no list of 2 scores"),
        ({"scores": "ab"}, "no list of 2 scores"), ("ab", "no list of 2 scores"), (b"[" * 99_999, "not JSON"), (b" " * ((1 << 22) + 1), "longer than 4 MiB"),
        ({"scores": [True, "7"]}, "gave no score"), (b'{"scores": [NaN, Infinity]}', "gave nan"),
    ],
)  # fmt: skip
def test_nonsense_is_a_fault_and_not_asked_again(answer, reason):
    with judge(lambda n, b, h: answer) as server:
        with pytest.raises(RewardError, match=reason):
            score(http(server), ["a", "b"])
        assert [path for _, _, path in server.requests] == ["/score"]


def test_what_may_pass_is_tried_again():
    with judge(lambda n, b, h: (503, b"") if n < 2 else [1.0]) as server:
        assert score(http(server), ["a"]).total.tolist() == [[1]]
        assert len(server.requests) == 3
    with judge(lambda n, b, h: (429, b"")) as server:
        with pytest.raises(RewardError, match="HTTP status 429"):
            score(http(server, retries=1), ["a"])
        assert len(server.requests) == 2


def test_one_that_hangs_up_or_is_not_there():
    def hang_up(number, body, handler):
        handler.connection.close()

    with judge(hang_up) as server, pytest.raises(RewardError, match="the judge cannot be asked"):
        score(http(server, retries=0), ["a"])
    with pytest.raises(RewardError, match="the judge cannot be asked: ConnectionRefusedError"):
        score(http(server, retries=0), ["a"])


@pytest.mark.parametrize("when", ["before", "headers", "body"])
def test_one_that_drips_is_cut_off(when):
    def drip(number, body, handler):
        if when != "before":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 999\r\n\r\n" if when == "body" else b"X: "))
        try:
            for _ in range(100):
                time.sleep(0.05)
                if when != "before":
                    handler.wfile.write(b"1")
                    handler.wfile.flush()
        except OSError:
            return

    with judge(drip) as server, pytest.raises(RewardError, match=r"took longer than 0\.3 s"):
        score(http(server, retries=0, timeout=0.3), ["a"])


def test_the_token_is_sent_and_never_told(monkeypatch, caplog, capfd):
    monkeypatch.setenv("JUDGE_TOKEN", "hunter2")
    with judge(lambda n, b, h: (401, h.headers["Authorization"].encode())) as server:
        section = http(server, token_env="JUDGE_TOKEN")
        with pytest.raises(RewardError) as caught:
            score(section, ["a"])
        assert server.requests[0][0]["Authorization"] == "Bearer hunter2"
    assert "hunter2" not in str(caught.value) + caplog.text + "".join(capfd.readouterr()) + str(options(section)[0].model_dump())
    monkeypatch.setenv("JUDGE_TOKEN", "hunter2\r\nX-Evil: 1")
    with pytest.raises(RewardError) as caught:
        score(section, ["a"])
    assert "hunter2" not in str(caught.value)


def test_no_proxy_is_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with judge(lengths) as server:
        assert score(http(server), ["a"]).total.tolist() == [[1]]


def test_so_many_requests_at_once_and_the_order_is_kept():
    def slow(number, body, handler):
        time.sleep(0.05)
        return lengths(number, body, handler)

    with judge(slow) as server, Scorer(options(http(server, concurrency=3)), folder=None) as scorer:
        found = scorer.score([Asked(PROMPT, ["a" * i], {}) for i in range(1, 10)])
        assert found.total[:, 0].tolist() == list(range(1, 10))
        assert server.most_at_once == 3


def test_a_chat_model_grades_each_completion():
    def grade(number, body, handler):
        assert body["model"] == "judge-7b"
        text = body["messages"][0]["content"]
        return said("I think 7" if "good {row}" in text else "10/20" if "odd" in text else "no idea" if "strange" in text else "0")

    with judge(grade) as server:
        found = score(http(server, model="judge-7b"), ["good {row}", "bad", "odd", "strange"])
        text = server.requests[0][1]["messages"][0]["content"]
    np.testing.assert_allclose(found.total, [[0.7, 0, np.nan, np.nan]])
    assert dict(found.faults) == {"http: the judge's number is not from 0 to 10": 1, "http: the judge's reply has no number": 1}
    assert "user: say it" in text
    assert "from 0 (useless) to 10 (perfect)" in text


def test_the_instruction_may_name_columns():
    section = {"model": "m", "instruction": "{answer}? {completion}", "lowest": 1, "highest": 5}
    with judge(lambda n, b, h: said("4")) as server:
        assert score(http(server, **section), ["x"], {"answer": "y"}).total.tolist() == [[0.75]]
        assert server.requests[0][1]["messages"][0]["content"] == "y? x"
        assert options(http(server, **section))[0].columns == ("answer",)
        with pytest.raises(RewardError, match="no column 'answer'"):
            score(http(server, **section), ["x"], {"gold": "y"})
    with judge(lambda n, b, h: {"error": "x"}) as server, pytest.raises(RewardError, match="no chat completion"):
        score(http(server, **section), ["x"], {"answer": "y"})


def test_closing_ends_the_waiting():
    import threading

    with judge(lambda n, b, h: (503, b"")) as server:
        scorer = Scorer(options(http(server, backoff=60.0)), folder=None)
        threading.Timer(0.2, scorer.close).start()
        with pytest.raises(RewardError, match="503"):
            scorer.score([Asked(PROMPT, ["a"], {})])
