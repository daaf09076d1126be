"""generate, chat, fill and the label X-ray, as a user runs them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

import luthier
from luthier.cli import screen
from luthier.cli.main import root
from luthier.errors import DataError, LuthierError


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with runs of a chat model, a plain one, a translator and an encoder, each learned by heart."""
    folder = tmp_path_factory.mktemp("writing")
    animals = ["cat", "dog", "bird", "fish"]
    chats = [{"prompt": f"what is {a}", "completion": f"{a} is a {a}"} for a in animals] * 12
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    pairs = [{"text": f"{a} {b}", "label": f"{b} {a}"} for a in animals for b in animals] * 4
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (folder / "plain.txt").write_text("\n\n".join(["one two three four five six seven eight"] * 60))
    sizes = {"vocabulary": 340, "hidden_size": 32, "layers": 2, "heads": 2, "context": 96}
    for name, task, file, architecture in (
        ("chatter", "chat", "chats.jsonl", "llama"),
        ("teller", "causal", "plain.txt", "llama"),
        ("turner", "text2text", "pairs.jsonl", "t5"),
        ("filler", "masked", "plain.txt", "bert"),
    ):
        luthier.train(
            {
                "data": {**dict.fromkeys(["train", "validation", "test"], str(folder / file)), "separator": "\n\n"},
                "task": {"type": task, **({"max_new_tokens": 12} if task != "masked" else {})},
                "model": {"from_scratch": {"architecture": architecture, **sizes}},
                "training": {"epochs": 30, "batch_size": 8, "learning_rate": 5e-3, "threads": 1, "schedule": "constant"},
                "evaluation": {"bootstrap": 100, "written": 4, "every": 60},
                "output": {"folder": str(folder / "runs"), "name": name},
            }
        )
    return folder


@pytest.fixture
def say(home, monkeypatch):
    """Run a command in that folder; its output."""
    monkeypatch.chdir(home)

    def run(*arguments: str, text: str | None = None):
        return CliRunner().invoke(root, list(arguments), input=text, catch_exceptions=True)

    return run


def test_a_chat_model_answers_as_it_learned_and_stops_by_itself(say):
    told = say("generate", "chatter", "what is dog", "--temperature", "0")
    assert told.exit_code == 0, told.output
    assert told.output.strip() == "dog is a dog"
    both = json.loads(say("generate", "chatter", "what is cat", "--json", "--candidates", "2", "--seed", "1", "--logprobs").output)
    assert [len(b["answers"]) for b in both] == [2]
    assert all(a["finish"] == "stop" and len(a["logprobs"]) >= len(a["tokens"]) for a in both[0]["answers"])


def test_the_same_seed_gives_the_same_answer(say):
    options = ("generate", "teller", "one two", "--temperature", "1.5", "--seed", "4", "--max-new-tokens", "8")
    assert say(*options).output == say(*options).output


def test_a_plain_model_goes_on_and_stop_texts_end_it(say):
    assert "three four" in say("generate", "teller", "one two", "--temperature", "0").output
    assert "five" not in say("generate", "teller", "one two", "--temperature", "0", "--stop", "five").output


def test_a_text_to_text_model_takes_its_source(say):
    assert say("generate", "turner", "cat dog", "--temperature", "0").output.strip() == "dog cat"


def test_choices_and_schemas_hold(say, home):
    assert say("generate", "teller", "one", "--choice", "seven", "--choice", "eight").output.strip() in ("seven", "eight")
    (home / "schema.json").write_text(
        json.dumps({"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False})
    )
    told = say("generate", "teller", "one", "--schema", "schema.json", "--max-new-tokens", "60").output
    assert json.loads(told)["a"] in ("x", "y")


def test_chat_keeps_the_conversation_and_leaves(say):
    told = say("chat", "chatter", "--temperature", "0", text="what is bird\n/new\nwhat is fish\n/quit\nwhat is cat\n")
    assert told.exit_code == 0
    assert told.output.split("\n")[:2] == ["bird is a bird", "fish is a fish"]


def test_blanks_are_filled(say):
    found = json.loads(say("fill", "filler", "one two [MASK] four", "--count", "3", "--json").output)
    assert len(found[0]["blanks"][0]) == 3
    assert 0 < found[0]["blanks"][0][0]["probability"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "filler", "x"], "does not write"),
        (["generate", "nobody", "x"], "no run"),
        (["fill", "filler", "no blank here"], "no <"),
        (["predict", "chatter", "x"], "luthier generate"),
        (["generate", "chatter", "hello <|end|>"], "control token"),
        (["generate", "teller", "one " * 400], "room"),
        (["generate", "teller", "one", "--schema", "missing.json"], "no JSON schema"),
        (["generate", "chatter", ""], "message"),
    ],
)  # fmt: skip
def test_wrong_inputs_are_refused_in_words(say, arguments, message):
    told = say(*arguments)
    assert isinstance(told.exception, LuthierError), (told.output, told.exception)
    assert message in str(told.exception)


def test_plain_transformers_loads_what_was_saved(home):
    import transformers

    folder = home / "runs" / "chatter-1" / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "what is fish"}], add_generation_prompt=True, return_tensors="pt")
    told = model.generate(**asked, do_sample=False, max_new_tokens=12)
    assert tokenizer.decode(told[0, asked["input_ids"].shape[1] :], skip_special_tokens=True).strip() == "fish is a fish"


@pytest.mark.parametrize("name", ["chatter", "teller", "turner", "filler"])
def test_exports_agree_with_plain_transformers(say, home, name):
    told = say("export", f"{name}-1", f"plain-{name}", "--to", "hf")
    assert told.exit_code == 0, told.exception
    card = (home / f"plain-{name}" / "README.md").read_text()
    assert "perplexity" in card
    assert "classification" not in card


def test_runs_are_evaluated_compared_and_continued(say, home):
    told = say("evaluate", "turner-1", "--json")
    assert told.exit_code == 0, told.exception
    assert say("evaluate", "chatter-1", "chats.jsonl").exit_code == 0
    first = luthier.find("chatter-1", root=home / "runs")
    longer = luthier.continue_run(first, epochs=1)
    assert longer.facts["model"] == str(first.model)
    told = say("compare", "chatter-1", longer.id)
    assert told.exit_code == 0, told.exception
    assert "perplexity" in told.output


def test_check_shows_the_label_x_ray(say, home):
    recipe = {
        "data": dict.fromkeys(["train", "validation", "test"], "chats.jsonl"), "task": {"type": "chat"},
        "model": {"from_scratch": {"vocabulary": 340, "hidden_size": 16, "layers": 1, "heads": 2, "context": 96}},
    }  # fmt: skip
    (home / "check.yaml").write_text(yaml.safe_dump(recipe))
    told = say("check", "check.yaml", "--html", "x.html")
    assert told.exit_code == 0, told.output
    assert "Assistant:" in told.output
    page = (home / "x.html").read_text()
    marked = re.findall(r"<mark>(.*?)</mark>", page, re.S)
    assert len(marked) == 2
    assert all(m.endswith("&lt;|end|&gt;") for m in marked)
    assert "http" not in page
    refused = say("check", "check.yaml", "--set", "model.max_length=8", "--set", "data.max_bad_share=0.9", "--html", "y.html")
    assert isinstance(refused.exception, LuthierError)
    assert "--accept" in str(refused.exception)
    assert (home / "y.html").is_file()


def test_the_report_shows_what_was_written(home):
    page = (home / "runs" / "turner-1" / "report.html").read_text()
    assert "Written answers" in page
    scores = luthier.find("turner-1", root=home / "runs").scores["methods"]["model"]
    assert {"bleu", "chrf", "rouge_l", "exact_match", "token_f1", "perplexity", "bits_per_byte"} <= set(scores)
    assert scores["exact_match"]["n"] == 4
    assert scores["loss"]["n"] > 4


def test_a_tokenizer_without_a_pad_token_is_saved_without_one(home, tmp_path):
    """Else the run's own model would be refused for the next training: its pad token would be its end token."""
    import transformers

    folder = tmp_path / "padless"
    shutil.copytree(home / "runs" / "chatter-1" / "model", folder)
    (folder / "luthier.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    recipe = {
        "data": dict.fromkeys(["train", "validation", "test"], str(home / "chats.jsonl")), "task": {"type": "chat", "max_new_tokens": 4},
        "model": str(folder), "training": {"max_steps": 1, "threads": 1}, "evaluation": {"bootstrap": 100, "written": 2},
        "output": {"folder": str(tmp_path / "runs")},
    }  # fmt: skip
    run = luthier.train(recipe)
    assert transformers.AutoTokenizer.from_pretrained(run.model).pad_token is None
    assert luthier.train({**recipe, "model": str(run.model)}).facts["status"] == "done"


def test_a_model_trained_in_bf16_writes_in_evaluation(tmp_path, monkeypatch):
    """Its tables stay fp32, and plain transformers code has to get along with that."""
    from luthier.models import embedding

    monkeypatch.setattr(embedding, "MIN_ELEMENTS", 1)
    (tmp_path / "a.txt").write_text("\n\n".join(["one two three four five six"] * 20))
    run = luthier.train(
        {
            "data": {**dict.fromkeys(["train", "validation", "test"], str(tmp_path / "a.txt")), "separator": "\n\n"},
            "task": {"type": "causal", "max_new_tokens": 4},
            "model": {"from_scratch": {"vocabulary": 300, "hidden_size": 32, "layers": 1, "heads": 2, "context": 64}},
            "training": {"max_steps": 2, "threads": 1, "precision": "bf16"},
            "evaluation": {"bootstrap": 100, "written": 2},
            "output": {"folder": str(tmp_path / "runs")},
        }
    )
    assert len(run.lines("predictions/samples.jsonl")) == 2


def test_probes_show_what_was_forgotten(tmp_path):
    """A model that has learned one text loses it while it learns another, and the run says so."""
    (tmp_path / "old.txt").write_text("\n\n".join(["one two three four five six"] * 40))
    (tmp_path / "new.txt").write_text("\n\n".join(["red green blue white black"] * 40))
    base = {
        "data": {**dict.fromkeys(["train", "validation", "test"], str(tmp_path / "old.txt")), "separator": "\n\n"}, "task": {"type": "causal", "max_new_tokens": 4},
        "model": {"from_scratch": {"vocabulary": 300, "hidden_size": 32, "layers": 1, "heads": 2, "context": 64}},
        "training": {"epochs": 15, "batch_size": 8, "learning_rate": 5e-3, "threads": 1},
        "evaluation": {"bootstrap": 100, "written": 0}, "output": {"folder": str(tmp_path / "runs")},
    }  # fmt: skip
    first = luthier.train(base)
    second = luthier.train(
        {
            **base,
            "data": {**base["data"], **dict.fromkeys(["train", "validation", "test"], str(tmp_path / "new.txt"))},
            "model": str(first.model),
            "evaluation": {"bootstrap": 100, "written": 0, "probes": {"old": str(tmp_path / "old.txt")}},
        }
    )
    found = second.scores["probes"]["old"]
    assert found["model"]["perplexity"]["value"] > 1.2 * found["base"]["perplexity"]["value"]
    assert second.scores["methods"]["model"]["loss"]["value"] < second.scores["methods"]["base"]["loss"]["value"]
    assert "Elsewhere" in second.report.read_text()


TALKS = {
    "task": {"type": "chat", "max_new_tokens": 4},
    "model": {"from_scratch": {"vocabulary": 300, "hidden_size": 32, "layers": 1, "heads": 2, "context": 64}},
    "training": {"max_steps": 2, "threads": 1},
    "evaluation": {"bootstrap": 100, "written": 0},
}


def _talks(path, answers):
    path.write_text("".join(json.dumps({"prompt": "say it", "completion": a}) + "\n" for a in answers))
    return str(path)


def test_probes_leave_out_the_rows_that_training_would(tmp_path):
    """A row that the template refuses is in no figure, and the others keep their own bytes."""
    train = _talks(tmp_path / "train.jsonl", ["yes indeed", "no never", "well maybe"] * 10)
    clean, mixed = ["first", "second longer answer"], ["first", "bad <|end|> mark", "second longer answer"]
    recipe = {
        **TALKS, "data": dict.fromkeys(["train", "validation", "test"], train), "output": {"folder": str(tmp_path / "runs")},
        "evaluation": {**TALKS["evaluation"], "probes": {"clean": _talks(tmp_path / "a.jsonl", clean), "mixed": _talks(tmp_path / "b.jsonl", mixed)}},
    }  # fmt: skip
    run = luthier.train(recipe)
    assert run.scores["probes"]["clean"] == run.scores["probes"]["mixed"]
    assert {Path(p).name for p in run.facts["data"]["files"]} >= {"a.jsonl", "b.jsonl"}


def test_a_missing_probe_is_refused_before_training(tmp_path):
    """Also for a model from nothing, which has no figures from before."""
    train = _talks(tmp_path / "train.jsonl", ["yes indeed", "no never", "well maybe"] * 10)
    recipe = {
        **TALKS, "data": dict.fromkeys(["train", "validation", "test"], train), "output": {"folder": str(tmp_path / "runs")},
        "evaluation": {**TALKS["evaluation"], "probes": {"gone": str(tmp_path / "gone.jsonl")}},
    }  # fmt: skip
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        luthier.check(recipe)
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        luthier.train(recipe)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/log.jsonl"))


def test_your_own_scores_are_shown(tmp_path, monkeypatch):
    """In scores, terminal and report, whatever their number."""
    (tmp_path / "mine.py").write_text("def politeness(text, reference):\n    return 0.25\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    train = _talks(tmp_path / "train.jsonl", ["yes indeed", "no never", "well maybe"] * 10)
    run = luthier.train(
        {
            **TALKS, "data": dict.fromkeys(["train", "validation", "test"], train), "output": {"folder": str(tmp_path / "runs")},
            "task": {**TALKS["task"], "scorers": ["mine:politeness"]}, "evaluation": {"bootstrap": 100, "written": 3},
        }
    )  # fmt: skip
    assert run.scores["own_scores"] == ["politeness"]
    assert run.scores["written_rows"] == 3
    assert run.scores["methods"]["model"]["politeness"]["value"] == 0.25
    assert "politeness" in run.report.read_text()
    monkeypatch.setattr(screen, "console", Console(width=200))
    assert "politeness" in [c.header for c in screen.scores_table(run).columns]
