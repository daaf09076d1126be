"""Every method on every kind of model: it learns, leaves the rest alone, and loads in plain peft or transformers with the same answers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file

import luthier
from luthier.errors import LuthierError, ModelError
from luthier.inference.model import Predictor
from luthier.inference.writer import Writer
from luthier.models import load as loading
from luthier.models.adapters import streaming
from luthier.models.adapters.several import Adapters
from luthier.models.heads import Head
from luthier.models.source import Source
from luthier.recipe.sections import Model
from luthier.registry import METHOD_OPTIONS, METHODS, TASKS
from luthier.runs.store import find
from luthier.serving.export import export_hf
from luthier.serving.merge import combine, merge
from luthier.workflow.fit import Fit
from tests import tiny

FAMILIES = {"bert": "classification", "llama": "chat", "t5": "text2text"}
AUTO = {
    "bert": transformers.AutoModelForSequenceClassification,
    "llama": transformers.AutoModelForCausalLM,
    "t5": transformers.AutoModelForSeq2SeqLM,
}
FEW = {"virtual_tokens": 4}
OPTIONS = {
    "prompt": FEW, "p-tuning": FEW, "prefix": FEW, "lora": {"rank": 4}, "qlora": {"rank": 4}, "vera": {"rank": 8}, "oft": {"block_size": 8},
    "adalora": {"initial_rank": 4, "rank": 2},
}  # fmt: skip
REFUSED = {
    ("bitfit", "llama"): "no biases", ("bitfit", "t5"): "no biases", ("prefix", "bert"): "encoder", ("prefix", "t5"): "two caches",
}  # fmt: skip
RATES = {
    "ia3": 0.3,
    "prompt": 0.3,
    "p-tuning": 0.05,
    "prefix": 0.3,
    "norms": 0.1,
    "bitfit": 0.1,
    "vera": 0.1,
    "oft": 0.03,
    "adalora": 0.03,
    "lora": 0.02,
}
PLAIN = [n for n in METHOD_OPTIONS.names() if n != "qlora"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A model of each family, and rows whose answer one word decides."""
    folder = tmp_path_factory.mktemp("adapters")
    rows = [{"text": t, "label": label, "prompt": t, "completion": label} for t, label in tiny.moods_rows(48)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for family in FAMILIES:
        tiny.save(family, folder / family, **({"initializer_range": 0.3} if family == "bert" else {}))  # so that its texts differ at first
    return folder


def recipe(world: Path, family: str, method: dict[str, object], **training: object) -> dict[str, object]:
    train = str(world / "rows.jsonl")
    task: dict[str, object] = {"type": FAMILIES[family]}
    data = dict.fromkeys(["train", "validation", "test"], train)
    if family == "llama":
        task |= {"columns": {"prompt": "prompt", "completion": "completion"}, "format": "prompt_completion", "max_new_tokens": 4}
    return {
        "data": data, "task": task, "model": {"name": str(world / family), "dropout": 0.0}, "method": method,
        "training": {"max_steps": 15, "batch_size": 16, "threads": 1, "learning_rate": RATES.get(str(method["type"]), 0.01), **training},
        "evaluation": {"written": 0, "bootstrap": 100, "restore_best": False, "every": 100}, "output": {"folder": str(world / "runs"), "name": f"{family}-{method['type']}"},
    }  # fmt: skip


def plain_model(run: luthier.Run, family: str) -> torch.nn.Module:
    """The run's model as somebody without Luthier loads it."""
    if (run.model / "adapter_config.json").is_file():
        config = json.loads((run.model / "adapter_config.json").read_text())
        labels = {"num_labels": 3} if family == "bert" else {}
        base = AUTO[family].from_pretrained(config["base_model_name_or_path"], **labels)
        return peft.PeftModel.from_pretrained(base, run.model).eval()
    return AUTO[family].from_pretrained(run.model).eval()


def answers(model: torch.nn.Module, run: luthier.Run, family: str) -> torch.Tensor:
    """Its logits for a text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.model)
    given = tokenizer("the film was great", return_tensors="pt")
    if family == "t5":
        given = {"input_ids": given["input_ids"], "decoder_input_ids": torch.tensor([[0, 5, 9]])}
    elif family == "llama":
        given = {"input_ids": given["input_ids"]}
    with torch.no_grad():
        return model(**given).logits


def own_answers(run: luthier.Run, family: str) -> torch.Tensor:
    """The same logits by the code that Luthier answers with."""
    if family == "bert":
        found = Predictor(run.model)
        return torch.tensor(found.outputs(["the film was great"]))
    writer = Writer(Source(str(run.model), str(run.model), None))
    loaded = writer.loaded
    ids = torch.tensor([[*loaded.virtual, *writer.tokenizer("the film was great").input_ids]])
    loading.language.set_attention(loaded.model, None)
    extra = {"decoder_input_ids": torch.tensor([[0, 5, 9]])} if family == "t5" else {}
    with torch.no_grad():
        return loaded.model(input_ids=ids, **extra).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PLAIN)
def test_every_method_on_every_kind_of_model(name, family, world):
    method = {"type": name, **OPTIONS.get(name, {})}
    if (name, family) in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name, family]):
            luthier.train(recipe(world, family, method))
        return
    run = trained(world, family, method)
    first, last = (run.lines("log.jsonl")[i]["loss"] for i in (0, -1))
    assert last < first - 0.01, "it learns"
    again, _ = luthier.evaluate(run)
    for score, found in run.scores["methods"]["model"].items():
        assert again[score]["value"] == pytest.approx(found["value"], abs=1e-5), "what was saved is what was trained"
    model = plain_model(run, family)
    before = dict(AUTO[family].from_pretrained(world / family, **({"num_labels": 3} if family == "bert" else {})).state_dict())
    plain = answers(model, run, family)
    mine = own_answers(run, family)
    width = min(plain.shape[1], mine.shape[1]) if plain.ndim == 3 else None
    if width is not None:
        plain, mine = plain[:, -width:], mine[:, -width:]
    assert torch.allclose(plain.double(), mine.double(), atol=2e-5), "plain libraries answer the same"
    if name != "full":
        free = json.loads((run.folder / "trained.json").read_text())
        inner = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        state = {n.replace("base_layer.", ""): t for n, t in inner.state_dict().items()}
        same = [n for n, t in before.items() if n in state and n not in free and not n.startswith("classifier")]
        assert same
        assert all(torch.equal(before[n], state[n]) for n in same), "frozen weights are bit for bit what they were"


RUNS: dict[str, luthier.Run] = {}


def trained(world: Path, family: str, method: dict[str, object], **training: object) -> luthier.Run:
    """A finished run, to be read only; each kind is trained once."""
    key = json.dumps([family, method, training], sort_keys=True)
    if key not in RUNS:
        RUNS[key] = luthier.train(recipe(world, family, method, **training))
    return RUNS[key]


KIN = {
    "rslora": {"rslora": True}, "dora": {"dora": True}, "gaussian": {"init": "gaussian"}, "pissa": {"init": "pissa"}, "olora": {"init": "olora"},
    "orthogonal": {"init": "orthogonal"}, "plus": {"plus_ratio": 8.0}, "ranks": {"ranks": {"q_proj": 8}}, "pissa-rslora": {"init": "pissa", "rslora": True},
    "attention": {"target_modules": "attention"}, "named": {"target_modules": ["v_proj"], "layers": [1]}, "dropout": {"dropout": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("kin", KIN)
def test_the_kin_of_lora_load_in_plain_peft(kin, world):
    run = trained(world, "llama", {"type": "lora", "rank": 4, **KIN[kin]}, learning_rate=0.005)
    first, last = (run.lines("log.jsonl")[i]["loss"] for i in (0, -1))
    assert last < first - 0.01
    plain, mine = answers(plain_model(run, "llama"), run, "llama"), own_answers(run, "llama")
    assert torch.allclose(plain, mine, atol=2e-5)
    if KIN[kin].get("init") in ("pissa", "olora"):
        base = AUTO["llama"].from_pretrained(world / "llama").state_dict()
        inner = plain_model(run, "llama").get_base_model().state_dict()
        assert all(torch.equal(t, base[k]) for n, t in inner.items() if (k := n.replace("base_layer.", "")) in base), (
            "the base is as it was"
        )


MERGEABLE = ("lora", "adalora", "ia3", "oft", "vera")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", MERGEABLE)
def test_merged_models_answer_the_same(name, family, world, tmp_path):
    """The adapter folder, the streamed merge and the export give the same logits; so does a merge in memory."""
    run = trained(world, family, {"type": name, **OPTIONS.get(name, {})})
    expected = answers(plain_model(run, family), run, family)
    merge(run.model, tmp_path / "merged")
    plain = AUTO[family].from_pretrained(tmp_path / "merged").eval()
    assert not any("lora" in n or "ia3" in n or "oft" in n or "vera" in n for n in plain.state_dict())
    assert torch.allclose(answers(plain, run, family), expected, atol=1e-5)
    export_hf(run, tmp_path / "exported")
    assert torch.allclose(answers(AUTO[family].from_pretrained(tmp_path / "exported").eval(), run, family), expected, atol=1e-5)


def test_dora_merges_too(world, tmp_path):
    run = trained(world, "llama", {"type": "lora", "rank": 4, "dora": True})
    merge(run.model, tmp_path / "merged")
    plain = AUTO["llama"].from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(answers(plain, run, "llama"), answers(plain_model(run, "llama"), run, "llama"), atol=1e-5)


def test_a_merge_holds_one_shard(world, tmp_path, monkeypatch):
    """A base in many shards becomes a merged model in as many, and never are the tensors of two in memory."""
    model = AUTO["llama"].from_pretrained(world / "llama")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    tiny.tokenizer("llama").save_pretrained(tmp_path / "sharded")
    made = recipe(world, "llama", {"type": "lora", "rank": 4})
    run = luthier.train({**made, "model": {"name": str(tmp_path / "sharded"), "dropout": 0.0}})
    written = []
    monkeypatch.setattr(
        streaming, "save_file", lambda tensors, path, **more: (written.append(len(tensors)), save_file(tensors, path, **more))
    )
    merge(run.model, tmp_path / "merged", dtype="bf16")
    shards = sorted((tmp_path / "merged").glob("*.safetensors"))
    assert len(shards) == len(list((tmp_path / "sharded").glob("*.safetensors"))) == len(written) > 2
    assert max(written) < sum(written) / 2
    merged = AUTO["llama"].from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16
    assert torch.allclose(answers(merged.float().eval(), run, "llama"), answers(plain_model(run, "llama"), run, "llama"), atol=5e-2)


def test_learned_tokens_cannot_be_merged(world, tmp_path):
    run = trained(world, "llama", {"type": "prompt", **FEW})
    with pytest.raises(ModelError, match="no weights to be merged"):
        merge(run.model, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    whole = trained(world, "llama", {"type": "full"}, max_steps=1)
    with pytest.raises(ModelError, match="whole model"):
        merge(whole.model, tmp_path / "merged")


def test_adapters_are_switched_and_combined_on_one_base(world, tmp_path):
    runs = [trained(world, "llama", {"type": "lora", "rank": 4}, seed=seed) for seed in (0, 1)]
    alone = [answers(plain_model(r, "llama"), r, "llama") for r in runs]
    loaded = loading.load(
        Source(str(world / "llama"), str(world / "llama"), None), Model(name=str(world / "llama")), head=lambda c: Head("causal")
    )
    loaded.model.eval()
    loading.language.set_attention(loaded.model, None)
    base = answers(loaded.model, runs[0], "llama")
    several = Adapters(loaded, {"one": runs[0].model, "two": runs[1].model})
    for name, expected in zip(("one", "two", "one"), (alone[0], alone[1], alone[0]), strict=True):
        several.use(name)
        assert torch.allclose(answers(loaded.model, runs[0], "llama"), expected, atol=1e-5)
    several.merge()
    assert torch.allclose(answers(loaded.model, runs[0], "llama"), alone[0], atol=1e-5)
    several.unmerge()
    with several.off():
        assert torch.allclose(answers(loaded.model, runs[0], "llama"), base, atol=1e-5)
    for how in ("linear", "svd", "ties", "dare_linear", "dare_ties"):
        several.combine(how, {"one": 0.5, "two": 0.5}, how=how)
        several.use(how)
        mixed = answers(loaded.model, runs[0], "llama")
        assert not torch.allclose(mixed, alone[0], atol=1e-4)
        combine({runs[0].model: 0.5, runs[1].model: 0.5}, tmp_path / how, how=how)
        again = Writer(Source(str(tmp_path / how), str(tmp_path / how), None)).loaded.model
        loading.language.set_attention(again, None)
        assert torch.allclose(answers(again, runs[0], "llama"), mixed, atol=2e-5)
    with pytest.raises(ModelError, match="no adapters 'three'"):
        several.use("three")


def test_another_base_is_refused(world, tmp_path):
    """Adapters know the digests of what they stand on."""
    shutil.copytree(world / "llama", tmp_path / "base")
    made = recipe(world, "llama", {"type": "lora", "rank": 4}, max_steps=2)
    run = luthier.train({**made, "model": {"name": str(tmp_path / "base"), "dropout": 0.0}})
    Writer(Source(str(run.model), str(run.model), None))
    model = AUTO["llama"].from_pretrained(tmp_path / "base")
    model.model.norm.weight.data += 1
    model.save_pretrained(tmp_path / "base")
    with pytest.raises(ModelError, match="not the one it was trained on"):
        Writer(Source(str(run.model), str(run.model), None))
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ModelError, match="base model is gone"):
        Writer(Source(str(run.model), str(run.model), None))


@pytest.mark.parametrize("method", [{"type": "lora", "rank": 4}, {"type": "full"}, {"type": "bitfit"}])
def test_training_goes_on_from_adapters(method, world):
    """The same method trains the same adapters further; others start from the merged weights. Both from where the first run ended."""
    first = trained(world, "bert", {"type": "lora", "rank": 4})
    made = recipe(world, "bert", method, max_steps=2, learning_rate=1e-8)
    second = luthier.train({**made, "model": {"name": str(first.model), "dropout": 0.0}})
    assert second.scores["methods"]["base"]["accuracy"] == first.scores["methods"]["model"]["accuracy"]
    assert (second.model / "adapter_config.json").exists() is (method["type"] == "lora")
    assert torch.allclose(
        answers(plain_model(second, "bert"), second, "bert"), answers(plain_model(first, "bert"), first, "bert"), atol=1e-3
    )


def test_adapters_of_another_kind_are_not_stacked(world):
    first = trained(world, "bert", {"type": "lora", "rank": 4}, max_steps=2)
    made = recipe(world, "bert", {"type": "ia3"}, max_steps=2)
    with pytest.raises(ModelError, match="carries adapters"):
        luthier.train({**made, "model": {"name": str(first.model), "dropout": 0.0}})


def test_an_mlp_head_is_trained_whole_beside_adapters(world):
    made = recipe(world, "bert", {"type": "lora", "rank": 4})
    run = luthier.train({**made, "model": {"name": str(world / "bert"), "dropout": 0.0, "head": "mlp"}})
    assert {p.name for p in run.model.glob("*.safetensors")} == {"adapter_model.safetensors", "head.safetensors"}
    found = Predictor(run.model)
    rows = run.lines("predictions/test.jsonl")[:8]
    assert [p["label"] for p in found.predict([r["text"] for r in rows])] == [r["label"] for r in rows]


@pytest.mark.parametrize("name", ["lora", "adalora", "freeze", "prompt"])
def test_a_killed_run_resumes_to_the_same_bits(name, world, monkeypatch):
    """Adapters, AdaLoRA's scores and masks, and gradual unfreezing go on as if nothing had happened."""
    method = {"type": name, **OPTIONS.get(name, {}), **({"unfreeze": 0.8} if name == "freeze" else {})}
    made = recipe(world, "llama", method, max_steps=16)
    made["checkpoints"] = {"every_steps": 4}
    whole = luthier.train(made)
    stops = []

    def stop(self, report, log, note=Fit._note):
        note(self, report, log)
        if report.step == 10 and not stops:
            stops.append(report.step)
            raise KeyboardInterrupt

    monkeypatch.setattr(Fit, "_note", stop)
    with pytest.raises(KeyboardInterrupt):
        luthier.train(made)
    torn = find(sorted((world / "runs").glob(f"llama-{name}-*"), key=lambda p: int(p.name.rpartition("-")[2]))[-1])
    assert torn.facts["status"] == "interrupted"
    again = luthier.resume(torn)
    assert stops == [10]
    assert again.facts["weights_digest"] == whole.facts["weights_digest"]


def test_layers_thaw_from_the_top(world):
    """Gradual unfreezing: nothing below the head moves at first, then the top layers, the embeddings last."""
    loaded = loading.load(
        Source("bert", str(world / "bert"), None), Model(name=str(world / "bert")), head=lambda c: Head("classes", 3, ("a", "b", "c"))
    )
    options = METHOD_OPTIONS.load("freeze")(layers=2, unfreeze=0.5)
    method = METHODS.load("freeze")(options)
    method.apply(loaded)
    free = []
    for step in range(12):
        method.before_update(loaded.model, step, 12)
        names = {
            n.split(".layer.")[1][0] if ".layer." in n else "embeddings"
            for n, p in loaded.model.named_parameters()
            if (p.requires_grad and "encoder" in n) or (p.requires_grad and "embeddings" in n)
        }
        free.append("".join(sorted(names)))
    assert free == ["", "", "1", "1", "01", "01", "01embeddings", *["01embeddings"] * 5]


def mlp_of(width: int) -> torch.nn.Module:
    """Stands for a head that a task brings."""
    return torch.nn.Linear(width, 3)


def test_what_fits_where_is_in_the_docs(world):
    """The table of methods and tasks, as the models themselves answer it. LUTHIER_WRITE_DOCS=1 writes it anew."""
    heads = {
        "classification": ("bert", Head("classes", 3, ("a", "b", "c"))),
        "few_shot": ("bert", Head("classes", 3, ("a", "b", "c"), "single_label_classification", pooling="mean")),
        "tagging": ("bert", Head("words", 3, ("a", "b", "c"))),
        "parsing": ("bert", Head("module", module=mlp_of)),
        "span": ("bert", Head("span")),
        "embedding": ("bert", Head("vector")),
        "multitask": ("bert", Head("module", module=mlp_of)),
        "masked": ("bert", Head("masked")),
        "causal": ("llama", Head("causal")),
        "chat": ("llama", Head("causal")),
        "preference": ("llama", Head("causal")),
        "policy": ("llama", Head("causal")),
        "reward": ("llama", Head("classes", 1, ("reward",), "regression")),
        "text2text": ("t5", Head("pairs")),
    }
    kinds = {task: family for task, (family, _) in heads.items()}
    assert set(kinds) == set(TASKS.names())
    lines = ["| method | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    notes: dict[str, int] = {}
    for name in METHOD_OPTIONS.names():
        cells = []
        for task, family in kinds.items():
            loaded = loading.load(
                Source(family, str(world / family), None), Model(name=str(world / family)), head=lambda c, task=task: heads[task][1]
            )
            loaded.quantization = "4bit" if name == "qlora" else "none"
            reason = METHODS.load(name)(METHOD_OPTIONS.load(name)(**OPTIONS.get(name, {}))).refusal(loaded)
            cells.append("yes" if reason is None else f"no ({notes.setdefault(reason, len(notes) + 1)})")
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    table = "\n".join([*lines, "", *(f"{number}. {reason}" for reason, number in notes.items())])
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    before, _, rest = page.read_text(encoding="utf-8").partition("<!-- matrix -->\n")
    _, _, after = rest.partition("<!-- end of matrix -->")
    wanted = f"{before}<!-- matrix -->\n{table}\n<!-- end of matrix -->{after}"
    if os.environ.get("LUTHIER_WRITE_DOCS"):
        page.write_text(wanted, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == wanted


def test_faults_in_method_options_are_told(world):
    for method, message in (
        ({"type": "lorra"}, "did you mean lora"), ({"type": "lora", "rnak": 3}, "did you mean method.rank"), ({"type": "freeze", "names": ["("]}, "regular expression"),
        ({"type": "lora", "dora": True, "init": "pissa"}, "does not go with dora"), ({"rank": 4}, "says no type"), ({"type": "adalora", "rank": 20}, "only shrink"),
    ):  # fmt: skip
        with pytest.raises(LuthierError, match=message):
            luthier.train(recipe(world, "bert", {"type": "lora"}) | {"method": method})
    for method, message in (
        ({"type": "lora", "target_modules": ["nothing"]}, "no module is called"), ({"type": "freeze", "layers": 9}, "has 2 layers"),
        ({"type": "prompt", "virtual_tokens": 64}, "no room"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=message):
            luthier.train(recipe(world, "bert", method))
    with pytest.raises(ModelError, match="nothing to train"):
        luthier.train(recipe(world, "llama", {"type": "freeze", "names": [".*"]}))
    with pytest.raises(ModelError, match="takes no adapter"):
        luthier.train(recipe(world, "llama", {"type": "lora", "target_modules": ["lm_head"]}))


def test_the_rate_of_adapters_has_a_limit_that_spares_the_head(recipe, monkeypatch):
    """Beyond it LoRA collapses on MiniLM; toy models are below the width from which it holds."""
    import luthier

    def planned(method):
        changed = {**recipe, "method": method, "training": {"epochs": 1, "max_steps": 1, "threads": 1}}
        changed["evaluation"] = {"base_model": False, "baselines": []}
        return luthier.train(changed).facts["plan"]

    free, whole = planned("lora"), planned("full")
    assert free["learning_rate"] == pytest.approx(15 * whole["learning_rate"])
    assert (free["rate_factor"], whole["rate_factor"]) == (15.0, 1.0)
    monkeypatch.setattr("luthier.workflow.plan.WIDE", 8)
    limited = planned("lora")
    assert limited["learning_rate"] == pytest.approx(1e-3)
    assert limited["rate_factor"] == pytest.approx(1e-3 / whole["learning_rate"])
    assert planned("full")["learning_rate"] == whole["learning_rate"]
