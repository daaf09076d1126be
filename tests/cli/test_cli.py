"""The command line as a user meets it: light, and every fault in words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.terminal import luthier

HEAVY = ("torch", "numpy", "transformers", "pyarrow", "sklearn")


@pytest.fixture
def recipe_file(recipe, tmp_path) -> Path:
    recipe["output"] = {"name": "tiny"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def modules_after(code: str, folder: Path) -> set[str]:
    script = f"import sys\nsys.argv = ['luthier', *{code!r}.split()]\nfrom luthier.cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass\nprint('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return set(next(line for line in done.stdout.splitlines() if line.startswith("MODULES")).split())


def test_help_imports_nothing_heavy(tmp_path):
    assert not modules_after("--help", tmp_path) & {*HEAVY, "pydantic", "yaml"}


def test_check_without_a_model_imports_nothing_heavy(recipe_file, tmp_path):
    loaded = modules_after(f"check {recipe_file} --no-model", tmp_path)
    assert "luthier.workflow.dataset" in loaded
    assert not loaded & set(HEAVY)


def test_a_process_of_its_own_trains_and_refuses(recipe_file, tmp_path):
    """As a shell starts it: exit codes, and what goes to which stream."""

    def shell(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "luthier.cli.main", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    trained = shell("train", recipe_file)
    assert trained.returncode == 0, trained.stderr
    assert "report.html" in trained.stdout
    assert "Traceback" not in trained.stderr
    refused = shell("check", "nothing.yaml")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "nothing.yaml" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_whole_way_from_check_to_export(recipe_file, tmp_path):
    checked = luthier("check", recipe_file, folder=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "ragged, pooled at the first token" in checked.stdout
    trained = luthier("train", recipe_file, "--set", "training.epochs=3", folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "95% bootstrap intervals" in trained.stdout
    assert "report.html" in trained.stdout
    report = (tmp_path / "runs" / "tiny-1" / "report.html").read_text()
    assert "http://" not in report
    assert "https://" not in report
    assert "<script" not in report
    told = [json.loads(line) for line in luthier("predict", "tiny-1", "the film was lovely", folder=tmp_path).stdout.splitlines()]
    piped = luthier("predict", "latest", folder=tmp_path, stdin='the film was lovely\n{"text": "so rude"}\n')
    assert [json.loads(line).get("text") or json.loads(line)["row"]["text"] for line in piped.stdout.splitlines()] == [
        "the film was lovely",
        "so rude",
    ]
    assert json.loads(piped.stdout.splitlines()[0])["scores"] == pytest.approx(told[0]["scores"], abs=1e-6)
    evaluated = json.loads(luthier("evaluate", "tiny-1", "--json", folder=tmp_path).stdout)
    recorded = json.loads((tmp_path / "runs" / "tiny-1" / "scores.json").read_text())["methods"]["model"]
    assert evaluated["scores"]["accuracy"]["value"] == recorded["accuracy"]["value"]
    again = luthier("train", recipe_file, "--set", "training.seed=1", "--set", "data.validation_share=0.15", folder=tmp_path)
    assert again.returncode == 0
    exported = luthier("export", "tiny-1", "out", "--to", "hf", folder=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "out" / "README.md").is_file()
    second = luthier("export", "tiny-1", "out", folder=tmp_path)
    assert second.returncode == 1
    assert "not empty" in second.stderr
    listed = luthier("runs", folder=tmp_path).stdout
    assert "tiny-1" in listed
    assert "tiny-2" in listed


def test_compare_pairs_the_rows_of_two_runs(recipe_file, tmp_path):
    for epochs in (1, 4):
        assert luthier("train", recipe_file, "--set", f"training.epochs={epochs}", folder=tmp_path).returncode == 0
    done = luthier("compare", "tiny-1", "tiny-2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "24 shared test rows" in done.stdout
    assert "p = " in done.stdout
    found = json.loads(luthier("compare", "tiny-1", "tiny-2", "--json", folder=tmp_path).stdout)
    assert len(found["rows"]) == found["a_only_right"] + found["b_only_right"]


def test_explain_says_where_each_value_came_from(recipe_file, tmp_path):
    done = luthier("explain", recipe_file, "--set", "training.learning_rate=3e-4", "--json", folder=tmp_path)
    values = {v["path"]: v for v in json.loads(done.stdout)["values"]}
    assert values["training.learning_rate"] == {"path": "training.learning_rate", "value": 3e-4, "source": "flag"}
    assert values["training.epochs"]["source"] == "file"
    assert values["training.weight_decay"]["source"] == "default"
    assert values["model.max_length"]["source"].startswith("inferred: what the model takes")
    assert values["task.labels"]["value"] == ["negative", "neutral", "positive"]


def _set(recipe, path, value):
    from luthier.recipe.load import _put

    _put(recipe, path, value)


FAULTS = {
    "unknown key": ("training.learning_rat", 1, "unknown key 'learning_rat'", "did you mean training.learning_rate"),
    "bad value": ("training.warmup", 3, "training.warmup", "share of the updates"),
    "missing file": ("data.train", "nothing.csv", "no such file", "data.train"),
    "missing column": ("data.text", "txt", "no column 'txt'", "did you mean 'text'"),
    "unknown model": ("model.name", "./nowhere", "no model folder", "config.json"),
    "misspelt hub id": ("model.name", "minilmm", "cannot be loaded", "did you mean minilm"),
    "unknown metric": ("evaluation.metric", "f1macro", "has no score 'f1macro'", "did you mean f1_macro"),
    "too long": ("model.max_length", 5000, "takes at most 64 tokens", "set it to 64"),
    "too many layers": ("model.layers", 9, "has 2 layers", "model.layers"),
    "no such head": ("model.head", "nothing:here", "no module 'nothing'", "model.head"),
    "unwritable folder": ("output.folder", "/proc/runs", "cannot be written", "output.folder"),
    "prompt": ("task.prompt", "{text} {label}", "gives the label away", "take that column out"),
    "device": ("training.device", "mps", "has no mps", "training.device: auto"),
}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_faults_are_words_not_tracebacks(name, recipe, tmp_path):
    path, value, message, remedy = FAULTS[name]
    recipe["output"] = {}
    _set(recipe, path, value)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    done = luthier("check", file, folder=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr


def test_all_faults_of_a_recipe_come_together(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {text: 3, lable: x}\ntraining: {epochs: -1, schedule: lineer}\nmodle: minilm\n")
    done = luthier("check", file, folder=tmp_path)
    assert done.returncode == 1
    for part in ("data.train", "did you mean data.label", "training.epochs", "training.schedule", "did you mean model", "data.text"):
        assert part in done.stderr, part


@pytest.mark.parametrize(
    ("text", "message"),
    [("data: [", "not YAML"), ("- a\n", "mapping of sections"), ("data: {train: a.csv}\ndata: {train: b.csv}\n", "stands twice")],
)
def test_broken_yaml_is_named_with_its_line(tmp_path, text, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    done = luthier("check", file, folder=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "recipe.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_with_its_own_code_or_pickles_is_refused(recipe, tmp_path):
    recipe["output"] = {}
    for name, change, message in (
        ("code", {"auto_map": {"AutoModel": "evil.Model"}}, "wants to run its own code"),
        ("pickles", None, "format that can run code"),
    ):
        folder = tiny.save("bert", tmp_path / name)
        if change:
            config = json.loads((folder / "config.json").read_text()) | change
            (folder / "config.json").write_text(json.dumps(config))
        else:
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe | {"model": {"name": str(folder)}}))
        done = luthier("train", file, folder=tmp_path)
        assert done.returncode == 1
        assert message in done.stderr
        assert not (tmp_path / "runs").exists()


def test_wrong_usage_and_missing_runs(tmp_path):
    assert "did you mean train" in luthier("trian", folder=tmp_path).stderr
    gone = luthier("predict", "demo-1", "x", folder=tmp_path)
    assert gone.returncode == 1
    assert "no run 'demo-1'" in gone.stderr
    none = luthier("runs", folder=tmp_path)
    assert none.returncode == 0
    assert "luthier demo" in none.stdout


def test_predict_says_what_a_row_lacks(recipe_file, tmp_path):
    assert luthier("train", recipe_file, folder=tmp_path).returncode == 0
    done = luthier("predict", "tiny-1", folder=tmp_path, stdin='{"txt": "a"}\n')
    assert done.returncode == 1
    assert "row 1: empty text" in done.stderr
    assert "this model reads 'text'" in done.stderr
    file = tmp_path / "new.csv"
    file.write_text("text,label\nthe film was great,unsure\n ,x\n")
    done = luthier("predict", "tiny-1", "--file", file, folder=tmp_path)
    assert done.returncode == 0
    (answer,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert answer["row"]["label"] == "unsure"
    assert answer["label"] != "unsure"
    assert "new.csv:3: empty text" in done.stderr
    long = luthier("predict", "tiny-1", "film " * 200, folder=tmp_path)
    assert "1 of 1 texts are cut to 64 tokens" in long.stderr


def test_doctor_reports_as_json(tmp_path):
    found = json.loads(luthier("doctor", "--json", folder=tmp_path).stdout)
    assert found["threads"] >= 1
    assert set(found["versions"]) >= {"torch", "transformers", "luthier"}
