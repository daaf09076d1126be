"""Labels to Label Studio and Argilla and back, and files as these tools write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.errors import DataError
from luthier.feedback import Store
from luthier.workshop.labelling.exchange import bring, send
from luthier.workshop.labelling.label_studio import configuration
from luthier.workshop.labelling.opinions import opinions, poll
from luthier.workshop.labelling.question import Question, Span

TEXT = "Ada 👩‍🚀 saw Bob"
ANSWERS = {
    "classes": st.sampled_from([["good"], ["bad"]]),
    "several": st.sampled_from([[], ["good"], ["bad", "good"]]),
    "spans": st.sampled_from([[], [Span(0, 3, "good")], [Span(0, 3, "good"), Span(12, 15, "bad")]]),
    "text": st.text(max_size=20).map(lambda t: f"{t}."),
}
PEOPLE = ["ada", "bob@example.org", "17", "7b0ab9a4-0b0e-4bd3-9e0a-6d8b1a9d1c11"]


def asked(form, named):
    return Question("classes" if form == "several" else form, ("good", "bad"), form == "several", named)


@pytest.mark.parametrize("format", ["label-studio", "argilla"])
@pytest.mark.parametrize("form", ANSWERS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_sent_comes_back(tmp_path_factory, format, form, data):
    folder = tmp_path_factory.mktemp("there")
    question = asked(form, data.draw(st.sampled_from([None, "mood"])))
    with Store(folder / "one.db") as store:
        for number in range(2):
            for name in PEOPLE:
                content = {"text": f"{TEXT} {number}", **({"text_pair": "and this"} if number and form == "classes" else {})}
                skips = data.draw(st.booleans())
                payload = question.skipped() if skips else question.payload(data.draw(ANSWERS[form]))
                store.append("label", content, annotator=name, payload=payload)
            decision = {**question.payload(data.draw(ANSWERS[form])), "adjudicated": True}
            store.append("label", {"text": f"{TEXT} 0"}, annotator="eve", payload=decision)
        before = opinions(store, question)
    send(folder / "out.json", before, question, format=format)
    found, again = bring(folder / "out.json"), bring(folder / "out.json")
    with Store(folder / "two.db") as store:
        found.keep(store)
        after = opinions(store, question)
        again.keep(store)
    assert not found.left_out
    assert found.kept == sum(len(o.entries) for o in before)
    assert (again.kept, again.repeated) == (0, found.kept)

    def told(held):
        return {o.item: (o.content, o.said, o.decided, sorted(o.skipped)) for o in held}

    assert told(after) == told(before)
    send(folder / "again.json", after, question, format=format)
    assert [strip(t) for t in json.loads((folder / "again.json").read_text())] == [
        strip(t) for t in json.loads((folder / "out.json").read_text())
    ]


def strip(task):
    """What a round may change: numbers and times of the entries, and the order in which people stand."""
    for one in task.get("annotations", []):
        del one["id"], one["created_at"]
    task.get("annotations", []).sort(key=lambda a: json.dumps(a, sort_keys=True))
    for answers in task.get("responses", {}).values() if isinstance(task.get("responses"), dict) else []:
        answers.sort(key=lambda a: a["user_id"])
    if "metadata" in task:
        own = json.loads(task["metadata"]["luthier"])
        own["skipped"] = {k: sorted(v) for k, v in own.get("skipped", {}).items()}
        task["metadata"] = own
    return task


def label_studio(*results, data=None, **more):
    return {"id": 1, "data": data or {"text": TEXT}, "annotations": [{"id": 9, "completed_by": 3, "result": list(results), **more}]}


def result(kind, value, name="q"):
    return {"id": "x", "from_name": name, "to_name": "text", "type": kind, "origin": "manual", "value": value}


def read(tmp_path, tasks, **more):
    path = tmp_path / "in.json"
    path.write_text(json.dumps(tasks))
    found = bring(path, **more)
    with Store(tmp_path / "in.db") as store:
        found.keep(store)
        return found, store.entries()


def test_label_studios_own_export(tmp_path):
    found, entries = read(
        tmp_path,
        [
            label_studio(result("choices", {"choices": ["good"]}, "mood"), lead_time=4.288, completed_by={"id": 1, "email": "a@b.c"}),
            label_studio(result("labels", {"start": 14, "end": 17, "text": "Bob", "labels": ["person"]}), was_cancelled=False),
            label_studio(result("textarea", {"text": ["one", "two"]}, "why")),
            label_studio(result("rating", {"rating": 4}), {"id": "r", "type": "relation", "from_id": "a", "to_id": "b"}),
            label_studio(result("pairwise", {"selected": "right"}), data={"prompt": "which?", "text1": "b", "text2": "a"}),
            label_studio(),
            {"id": 2, "data": {"text": "not yet"}, "annotations": []},
        ],
    )
    one, two, three, pair = entries
    assert (one.annotator, one.payload) == ("a@b.c", {"labels": ["good"], "question": "mood", "seconds": 4.29})
    assert (two.annotator, two.payload["spans"]) == ("3", [{"start": 12, "end": 15, "label": "person"}]), "counted in UTF-16 units"
    assert three.payload["text"] == "one\ntwo"
    assert (pair.kind, pair.payload["picked"]) == ("choice", 0)
    assert sum(found.left_out.values()) == 2
    assert "results of type rating, which the store has no form for" in found.left_out


def test_argillas_own_exports(tmp_path):
    two = {
        "id": "a", "fields": {"text": "x"}, "metadata": {}, "suggestions": {"mood": {"value": "bad", "score": 0.4, "agent": "model"}},
        "responses": {"mood": [{"value": "good", "user_id": "u1"}], "stars": [{"value": 4, "user_id": "u1"}]}, "vectors": {},
        "_server_id": "s",
    }  # fmt: skip
    one = {
        "fields": {"text": "y z"},
        "responses": [
            {"user_id": "u2", "status": "submitted", "values": {"who": {"value": [{"start": 2, "end": 3, "label": "p"}]}}},
            {"user_id": "u3", "status": "draft", "values": {"mood": {"value": "bad"}}},
        ],
    }
    found, entries = read(tmp_path, [two, one])
    assert [(e.annotator, e.payload) for e in entries] == [
        ("u1", {"labels": ["good"], "question": "mood"}),
        ("u2", {"spans": [{"start": 2, "end": 3, "label": "p"}], "question": "who"}),
    ]
    assert found.left_out.total() == 2
    _, texts = read(tmp_path, [{"fields": {"text": "t"}, "responses": {"why": [{"value": "since", "user_id": "u"}]}}], text=True)
    assert texts[-1].payload == {"text": "since", "question": "why"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no list of tasks"),
        ("{", "not JSON"),
        ("[]", "no list of tasks"),
        ('[{"a": 1}]', "neither Label Studio"),
        ('[{"data": {"a": "x", "b": "y"}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["g"]}}]}]}]', "--column"),
        (
            '[{"data": {"text": "ab"}, "annotations": [{"result": [{"type": "labels", "value": {"start": 0, "end": 9, "labels": ["p"]}}]}]}]',
            "0 to 9",
        ),
        ('[1, {"fields": "no", "responses": 3}]', "no data"),
        ('[{"data": {"text": "x"}, "annotations": [7, {"result": [3, {"type": "choices"}]}]}]', "without a result"),
    ],
)
def test_a_file_without_labels_is_refused_in_words(tmp_path, content, message):
    path = tmp_path / "in.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        bring(path)


def test_what_somebody_has_changed_in_a_file_is_left_out_and_the_rest_kept(tmp_path):
    good = {"result": [{"type": "choices", "from_name": "q", "value": {"choices": ["a"]}}], "completed_by": "x"}
    pair = {"type": "pairwise", "from_name": "q", "value": {"selected": "left"}}
    changed = [
        {"result": True},
        {"result": [{"type": "choices", "from_name": "q", "value": {"choices": 1}}], "completed_by": "x" * 200},
        {"result": [{"type": "labels", "from_name": "q", "value": {"labels": 1, "start": 0, "end": 1}}]},
        {"result": [], "luthier": {"form": "none"}},
        {"result": [], "luthier": {"form": "pairs"}},
        {"result": [pair], "completed_by": "x" * 200},
    ]
    tasks = [
        {"data": {"text": "one", "other": "two"} if o["result"] == [pair] else {"text": "one"}, "annotations": [o, good]} for o in changed
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    found = bring(tmp_path / "tasks.json", column="text")
    assert (len(found.said), found.left_out.total()) == (6, 6)
    own = [{"people": [1]}, {"forms": True}, {"forms": {"q": "none"}}, {"skipped": None}, {"skipped": {"q": ["x"]}}]
    own += [{"forms": {"q": "classes"}, "skipped": {"q": 1}}, {"forms": {"q": ["text"]}}, 3]
    answer = {"responses": {"q": [{"value": "a", "user_id": "u"}]}, "suggestions": {"q": {"value": "a", "agent": "decided by x"}}}
    records = [{"fields": {"text": "one"}, "metadata": {"luthier": json.dumps(o)}, **answer} for o in own]
    (tmp_path / "records.json").write_text(json.dumps(records))
    assert len(bring(tmp_path / "records.json").said) == 2 * len(own)


def test_the_configuration_names_the_question_and_its_labels(tmp_path):
    found = configuration(Question("classes", ('a "b"', "c<d"), True, "mood"), pair=True)
    assert '<Choices name="mood" toName="text" choice="multiple">' in found
    import xml.etree.ElementTree as tree

    assert [c.get("value") for c in tree.fromstring(found).iter("Choice")] == ['a "b"', "c<d"]


def test_the_question_of_a_file_is_found(tmp_path):
    _, _ = read(tmp_path, [label_studio(result("choices", {"choices": ["good", "new"]}, "mood"))])
    with Store(tmp_path / "in.db") as store:
        assert poll(store).question == Question("classes", ("good", "new"), True, "mood")
