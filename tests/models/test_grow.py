"""A head takes other labels: what it knows stays bit for bit, by name, whatever the architecture, the head and what trains it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from luthier.errors import ModelError
from luthier.models.grow import as_saved, known_labels
from luthier.models.heads import Head
from luthier.models.load import load
from luthier.models.source import Source
from luthier.recipe.sections import Model
from tests import tiny

OLD, NEW = ("a", "b", "c"), ("a", "b", "c", "d", "e")
ROWS = {"bert": "classifier", "distilbert": "classifier", "roberta": "classifier.out_proj", "gpt2": "score", "llama": "score"}


def saved(family: str, folder: Path, *, auto: type = hf.AutoModelForSequenceClassification) -> Path:
    """A model that has learned three labels."""
    torch.manual_seed(1)
    config = tiny.config(family, num_labels=3)
    config.id2label, config.label2id = dict(enumerate(OLD)), {n: i for i, n in enumerate(OLD)}
    model = auto.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and parameter.shape == (3,):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    tiny.tokenizer(family).save_pretrained(folder)
    return folder


def loaded(folder: Path, labels: tuple[str, ...], *, kind: str = "classes", head: str = "linear", seed: int = 0, finished: bool = False):
    made = Head(kind, len(labels), labels, "single_label_classification" if kind == "classes" else None)  # type: ignore[arg-type]
    section = Model(name=str(folder), head=head)
    return load(Source(str(folder), str(folder), None), section, head=lambda _: made, seed=seed, finished=finished)


@pytest.mark.parametrize("family", ROWS)
def test_rows_of_known_labels_stay_bit_for_bit(family, tmp_path):
    folder = saved(family, tmp_path)
    before = load_file(folder / "model.safetensors")
    found = loaded(folder, NEW)
    state, name = found.model.state_dict(), ROWS[family]
    assert torch.equal(state[f"{name}.weight"][:3], before[f"{name}.weight"])
    assert state[f"{name}.weight"].shape[0] == 5
    assert not found.fresh_head
    assert found.grown is not None
    assert found.grown.new == {"d": 3, "e": 4}
    assert 0 < float(state[f"{name}.weight"][3:].abs().max()) < 0.2
    if f"{name}.bias" in before:
        assert torch.equal(state[f"{name}.bias"][:3], before[f"{name}.bias"])
        assert torch.allclose(state[f"{name}.bias"][3:], before[f"{name}.bias"].mean())
    same = {n: torch.equal(state[n], v) for n, v in before.items() if not n.startswith(name)}
    assert all(same.values())


def test_fresh_rows_come_from_the_seed(tmp_path):
    folder = saved("bert", tmp_path)
    first, again, other = (loaded(folder, NEW, seed=s).model.state_dict()["classifier.weight"] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first[3:], other[3:])
    assert torch.equal(first[:3], other[:3])


def test_rows_follow_their_names(tmp_path):
    folder = saved("bert", tmp_path)
    before = load_file(folder / "model.safetensors")["classifier.weight"]
    found = loaded(folder, ("c", "new", "a"))
    state = found.model.state_dict()["classifier.weight"]
    assert torch.equal(state[[0, 2]], before[[2, 0]])
    assert found.grown is not None
    assert (found.grown.kept, found.grown.dropped) == (("c", "a"), ("b",))
    assert "loses those of 1 that the data do not have: 'b'" in str(found.grown)
    permuted = loaded(folder, ("b", "c", "a"))
    assert torch.equal(permuted.model.state_dict()["classifier.weight"], before[[1, 2, 0]])


def test_the_grown_model_answers_for_every_label_and_its_config_names_them(tmp_path):
    found = loaded(saved("bert", tmp_path), NEW)
    assert tuple(found.model.config.id2label.values()) == NEW
    assert found.model.classifier(torch.zeros(1, 32)).shape == (1, 5)
    assert found.model.num_labels == found.model.config.num_labels == 5
    assert found.head.labels == NEW


def test_names_that_nobody_knows_leave_things_as_they_were(tmp_path):
    folder = saved("bert", tmp_path)
    before = load_file(folder / "model.safetensors")["classifier.weight"]
    same = loaded(folder, ("x", "y", "z"))  # as many, under other names: a head to begin with
    assert same.grown is None
    assert torch.equal(same.model.state_dict()["classifier.weight"], before)
    more = loaded(folder, ("w", "x", "y", "z"))
    assert more.grown is None
    assert more.fresh_head
    assert as_saved(Head("causal"), OLD) is None
    assert known_labels(hf.GPT2Config()) == ("LABEL_0", "LABEL_1")


def test_a_finished_model_is_not_grown(tmp_path):
    with pytest.raises(ModelError):
        loaded(saved("bert", tmp_path), NEW, finished=True)


def test_tags_grow_too(tmp_path):
    folder = saved("bert", tmp_path, auto=hf.AutoModelForTokenClassification)
    before = load_file(folder / "model.safetensors")
    state = loaded(folder, NEW, kind="words").model.state_dict()
    assert torch.equal(state["classifier.weight"][:3], before["classifier.weight"])
    assert torch.equal(state["classifier.bias"][:3], before["classifier.bias"])


def test_an_mlp_grows_its_last_layer_alone(tmp_path):
    folder = tiny.save("bert", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": dict(enumerate(OLD)), "label2id": {n: i for i, n in enumerate(OLD)}}
    (folder / "config.json").write_text(json.dumps(config))
    first = loaded(folder, OLD, head="mlp")
    assert first.fresh_head
    weights = {k: torch.randn_like(v) for k, v in first.model.head.state_dict().items()}
    save_file(weights, folder / "head.safetensors")
    found = loaded(folder, NEW, head="mlp")
    state = found.model.head.state_dict()
    assert not found.fresh_head
    assert torch.equal(state["1.weight"], weights["1.weight"])
    assert torch.equal(state["4.weight"][:3], weights["4.weight"])
    assert torch.equal(state["4.bias"][:3], weights["4.bias"])
    assert found.model.head(torch.zeros(2, 32)).shape == (2, 5)


def test_a_head_without_a_row_a_label_is_refused(tmp_path, monkeypatch):
    folder = saved("bert", tmp_path)
    (tmp_path / "odd_head.py").write_text(
        "import torch\n\nclass Odd(torch.nn.Module):\n    def __init__(self, width, outputs):\n        super().__init__()\n"
        "        self.form = torch.nn.Parameter(torch.zeros(width, outputs))\n\n    def forward(self, x):\n        return x @ self.form\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    save_file({"form": torch.zeros(32, 3)}, folder / "head.safetensors")
    with pytest.raises(ModelError, match=r"cannot take other labels.*\n.*torch.nn.Linear"):
        loaded(folder, NEW, head="odd_head:Odd")
