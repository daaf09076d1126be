"""Chat logs to feedback: what readers did, by rules whose books balance."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.cli.main import root
from luthier.errors import DataError
from luthier.feedback import Store, training_rows
from luthier.workflow.behaviour import chosen_rules, import_logs

ASK = {"role": "user", "content": "what is it?"}


def talk(answer="an owl", **said):
    return {"messages": [ASK, {"role": "assistant", "content": answer, **said}]}


def imported(tmp_path, rows, name="logs.jsonl", **options):
    path = tmp_path / name
    path.write_text("\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows))
    found = import_logs([path], **options)
    with Store(tmp_path / "feedback.db") as store:
        found.keep(store)
        return found, {form: training_rows(store, form).rows for form in ("pairs", "unpaired")}


def said(rows):
    return {tuple(v for k, v in row.items() if k != "prompt") for row in rows}


def test_each_thing_a_reader_does_becomes_its_rows(tmp_path):
    rows = [
        talk("an owl", rating="thumbs_up"),
        talk("a cat", feedback={"rating": "thumbsDown"}),
        {**talk("a dog"), "rating": 1},
        talk("a hen", rating=-1),
        talk("an aul", edited="an owl, I think"),
        talk("a mouse", original="a mose"),
        talk("a bee", regenerated=["a be", {"role": "assistant", "content": "a bea"}, "a bee"]),
        talk("a cow", rating=False, regenerated=["a calf"]),
        {"prompt": "what is it?", "response": "a fox", "thumbs": "up", "user_id": "ada@example.org"},
        talk("nothing said"),
        {"messages": [ASK, ASK]},
        {"else": 1},
    ]
    found, made = imported(tmp_path, rows)
    assert said(made["unpaired"]) >= {
        ("an owl", True),
        ("a cat", False),
        ("a dog", True),
        ("a hen", False),
        ("a cow", False),
        ("a fox", True),
    }
    assert said(made["pairs"]) == {("an owl, I think", "an aul"), ("a mouse", "a mose"), ("a bee", "a be"), ("a bee", "a bea")}
    assert (found.rows, found.kept, sum(found.dropped.values()), len(found.quarantined)) == (12, 9, 1, 2)
    assert found.books["regenerated"].dropped == {"says the same": 1, "the one kept was rated down": 1}
    again, _ = imported(tmp_path, rows)
    assert (again.entries, again.repeated) == (0, found.entries)
    with Store(tmp_path / "feedback.db") as store:
        assert not any("example" in e.annotator for e in store.entries())


def test_numbers_are_thumbs_only_where_all_are(tmp_path):
    found, made = imported(tmp_path, [talk("a", rating=1), talk("b", rating=5), talk("c", rating="3")])
    assert (found.books["numbers"].kept, found.books["thumbs"].found, made["unpaired"]) == (3, 0, [])
    assert found.notes == ["the ratings 1, 3, 5 are read as numbers"]


def test_trees_of_messages_tell_what_was_thrown_away(tmp_path):
    def node(name, parent, role, text):
        return {"id": name, "parent": parent, "message": {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}}}

    nodes = [node("u", "r", "user", "what is it?"), node("x", "u", "assistant", "a cat"), node("y", "u", "assistant", "an owl")]
    tree = {"r": {"id": "r", "parent": None, "message": None}, **{n["id"]: n for n in nodes}}
    history = {
        "u": {"parentId": None, "role": "user", "content": "who?"},
        "x": {"parentId": "u", "role": "assistant", "content": "me", "annotation": {"rating": -1}},
        "y": {"parentId": "u", "role": "assistant", "content": "you", "annotation": {"rating": 1}},
    }
    rows = [{"mapping": tree, "current_node": "y"}, {"user_id": "u1", "chat": {"history": {"messages": history, "currentId": "y"}}}]
    _, made = imported(tmp_path, rows, name="conversations.json")
    assert said(made["pairs"]) == {("an owl", "a cat"), ("you", "me")}
    assert made["pairs"][0]["prompt"] == [ASK]


def test_odd_logs_are_read_and_each_row_is_dropped_for_its_own_reason(tmp_path):
    history = {
        "1": {"role": "user", "content": "who?", "parentId": None},
        "2": {"role": "assistant", "content": "me", "parentId": 1, "rating": 5},
    }
    rows = [
        talk("huge", rating=10**400),
        talk("same", edited="same"),
        talk("kept", regenerated=[None, 5, {"role": "assistant"}, "thrown"]),
        {"history": {"messages": history, "currentId": 2}},
        {"history": {"messages": {**history, "2": {**history["2"], "parentId": ["1"]}}, "currentId": ["2"]}},
    ]
    found, made = imported(tmp_path, rows)
    assert said(made["pairs"]) == {("kept", "thrown")}
    assert found.dropped == {"not a finite number": 1, "says the same": 1}
    assert (found.kept, found.books["numbers"].kept) == (2, 1)
    assert [q.reason for q in found.quarantined] == ["roles out of order: message 1 is assistant"]


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "up", "x", "👎"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["rating", "content", "role", "text"]), inner, max_size=2),
    max_leaves=4,
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "gpt", "system", "nobody"]), "content": st.sampled_from(["hello", "there", "", None])},
    optional=dict.fromkeys(("rating", "feedback", "edited", "original", "regenerated"), anything),
)
row = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(message, max_size=4) | anything,
        "rating": anything,
        "mapping": anything,
        "history": anything,
        "id": anything,
    },
) | st.just(talk(rating=True))


@given(rows=st.lists(row, min_size=1, max_size=5), rules=st.sets(st.sampled_from(["thumbs", "edits", "regenerated"])))
@settings(max_examples=60, deadline=None)
def test_rows_in_are_rows_kept_dropped_and_quarantined(rows, rules):
    with tempfile.TemporaryDirectory() as folder:
        chosen = chosen_rules([*sorted(rules), "thumbs", "numbers"])
        found, _ = imported(Path(folder), [*rows, talk("sure", rating=True, edited="surely", regenerated=["no"])], rules=chosen)
    assert found.rows == len(rows) + 1 == found.kept + sum(found.dropped.values()) + len(found.quarantined)
    for books in found.books.values():
        assert books.found == books.kept + sum(books.dropped.values())
    assert found.entries + found.repeated == sum(b.kept for b in found.books.values())


def test_the_rules_are_shown_and_wrong_input_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("logs.jsonl").write_text(json.dumps(talk("secret words", rating=True)) + "\n{broken\n" + json.dumps(talk("b")) + "\n")
    told = CliRunner().invoke(root, ["feedback", "import", "logs.jsonl"])
    assert told.exit_code == 0, told.exception
    assert "rows      3 in: 1 kept, 1 dropped, 1 quarantined" in told.output
    assert "logs.jsonl:2: not JSON" in told.output
    stats = CliRunner().invoke(root, ["feedback", "stats"])
    assert "1 entries about 1 items" in stats.output
    assert "secret" not in told.output + stats.output
    for arguments, message in ((["--rules", "thumb"], "did you mean thumbs"), (["--rules", "edits"], "nothing in 3 rows")):
        assert message in str(CliRunner().invoke(root, ["feedback", "import", "logs.jsonl", *arguments]).exception)
    with pytest.raises(DataError, match="no such file"):
        import_logs([tmp_path / "none.jsonl"], rules=chosen_rules([]))
    nothing = CliRunner().invoke(root, ["feedback", "import", "none.jsonl", "--store", "new.db"])
    assert "no such file" in str(nothing.exception)
    assert not (tmp_path / "new.db").exists()
