"""Bases in 8 and 4 bits: what is packed, what is computed with it, what moves, and what cannot be."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import nn

import luthier
from luthier.errors import DependencyError, ModelError
from luthier.inference.model import Predictor
from luthier.inference.sampling import Sampling
from luthier.inference.writer import Writer
from luthier.models import load, quantize
from luthier.models.adapters.method import count, trained
from luthier.models.batch import collate
from luthier.models.forward import hidden_states, set_attention
from luthier.models.heads import Head
from luthier.models.language import language_loss
from luthier.models.load import Loaded
from luthier.models.packed import Packed4, Packed8, weight_of
from luthier.models.quantize import facts
from luthier.models.source import Source
from luthier.recipe.methods.lora import LoraOptions
from luthier.recipe.sections import Model, Training
from luthier.registry import METHODS
from luthier.training.optim import Optimizer
from luthier.workflow.measure import evaluate
from tests import tiny

BITS = ("8bit", "4bit")
SIZES: dict[str, dict[str, Any]] = {
    "opt": {"hidden_size": 64, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "llama": {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
    "gemma2": {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
    "gpt2": {"n_embd": 64, "n_inner": 128},
    "bert": {"hidden_size": 64, "intermediate_size": 128},
    "roberta": {"hidden_size": 64, "intermediate_size": 128},
    "modernbert": {"hidden_size": 64, "intermediate_size": 128},
    "t5": {"d_model": 64, "d_ff": 128, "d_kv": 16},
    "bart": {"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128},
}
KINDS = {"opt": "causal", "llama": "causal", "gemma2": "causal", "gpt2": "causal", "t5": "pairs", "bart": "pairs"}
THREE = Head("classes", 3, ("a", "b", "c"), "single_label_classification")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Tiny models whose rows are whole blocks; weights of the scale of trained ones."""
    found = {}
    for family, sizes in SIZES.items():
        found[family] = tiny.save(family, tmp_path_factory.mktemp(family), **sizes)
        if family != "t5":  # whose own are large, and whose attention is not scaled
            _scale(found[family])
    return found


def _scale(folder: Path) -> None:
    """Weights of standard deviation 0.02 leave a tiny model's layers without a say."""
    path = folder / "model.safetensors"
    weights = {n: t * 6 if t.ndim == 2 and "embed" not in n and "shared" not in n else t for n, t in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def loaded(folder: Path, quantization: str = "none", *, head: Head | None = None, **options: Any) -> Loaded:
    section = Model(name=str(folder), quantization=quantization, **{k: options.pop(k) for k in ("double_quantization",) if k in options})  # type: ignore[arg-type]
    return load.load(Source(str(folder), str(folder), None), section, head=lambda _: head or Head("causal"), seed=3, **options)


def packed_layers(model: nn.Module) -> dict[str, Any]:
    return {n: m for n, m in model.named_modules() if isinstance(m, (Packed4, Packed8))}


def dequantised(quantised: Loaded, folder: Path, *, head: Head | None = None) -> Loaded:
    """The fp32 model that a quantised one stands for."""
    plain = loaded(folder, head=head)
    layers = dict(plain.model.named_modules())
    for name, layer in packed_layers(quantised.model).items():
        weight = weight_of(layer)
        layers[name].weight.data.copy_(weight.t() if layer.turned else weight)  # type: ignore[union-attr, operator]
    here = dict(plain.model.named_parameters())
    for name, parameter in quantised.model.named_parameters():
        if parameter.dtype == torch.bfloat16:
            here[name].data.copy_(parameter)
    return plain


def head_for(family: str) -> Head:
    return Head(KINDS[family]) if family in KINDS else THREE  # type: ignore[arg-type]


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("shape", [(64, 64), (96, 192), (3, 64)])
def test_four_bits_are_those_of_bitsandbytes(shape, nested, monkeypatch):
    import bitsandbytes as bnb

    monkeypatch.setattr("luthier.models.packed.PIECE", 1024)
    weight = torch.randn(shape, dtype=torch.float16)
    ours = Packed4(nn.Linear(shape[1], shape[0]), nested=nested)
    ours.pack(weight)
    theirs = bnb.nn.Linear4bit(shape[1], shape[0], bias=False, compress_statistics=nested, quant_type="nf4", compute_dtype=torch.bfloat16)
    theirs.weight = bnb.nn.Params4bit(weight, compress_statistics=nested, quant_type="nf4", module=theirs)
    theirs.to("cpu")
    state, other = ours.weight.quant_state, theirs.weight.quant_state
    assert torch.equal(ours.weight.data, theirs.weight.data)
    assert torch.equal(state.absmax, other.absmax)
    if nested:
        assert torch.equal(state.offset, other.offset)
        assert torch.equal(state.state2.absmax, other.state2.absmax)
    other.dtype = torch.bfloat16  # what both compute in
    assert torch.equal(weight_of(ours), bnb.functional.dequantize_4bit(theirs.weight.data, other).float())


def test_eight_bits_are_those_of_bitsandbytes(monkeypatch):
    import bitsandbytes as bnb

    monkeypatch.setattr("luthier.models.packed.PIECE", 1024)
    weight = torch.randn(50, 100)
    ours = Packed8(nn.Linear(100, 50))
    ours.pack(weight)
    theirs = bnb.nn.Linear8bitLt(100, 50, bias=False, has_fp16_weights=False)
    theirs.weight = bnb.nn.Int8Params(weight.clone(), has_fp16_weights=False, requires_grad=False)
    theirs.to("cpu")
    assert torch.equal(ours.weight.data, theirs.weight.CB)
    assert torch.equal(ours.weight.SCB, theirs.weight.SCB)


@pytest.mark.parametrize(("bits", "most"), [("4bit", 0.11), ("8bit", 0.011)])
def test_a_layer_is_as_near_as_its_bits_allow(bits, most):
    plain = nn.Linear(512, 768)
    layer: Any = Packed8(plain) if bits == "8bit" else Packed4(plain, nested=True)
    layer.pack(nn.init.normal_(plain.weight.data))
    x = torch.randn(32, 512)
    assert most / 3 < apart(layer(x), plain(x)) < most
    assert apart(layer(x), nn.functional.linear(x, weight_of(layer), plain.bias)) < 4e-3


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("family", SIZES)
def test_answers_are_those_of_the_weights_it_stands_for(family, bits, folders):
    head = head_for(family)
    found = loaded(folders[family], bits, head=head)
    plain = dequantised(found, folders[family], head=head)
    assert found.quantization == bits
    assert found.layout.kind == plain.layout.kind
    assert found.drawn == plain.drawn
    assert packed_layers(found.model)
    ids = torch.tensor([[5, 9, 6, 7, 20, 11, 13]])
    more = {"decoder_input_ids": ids[:, 2:]} if head.kind == "pairs" else {}
    for each in (found, plain):
        set_attention(each.model, None)
    with torch.no_grad():
        assert apart(found.model(input_ids=ids, **more).logits, plain.model(input_ids=ids, **more).logits) < 2e-2


@pytest.mark.parametrize("family", SIZES)
def test_all_else_is_what_plain_loading_gives(family, folders):
    """Norms, biases, buffers, what is drawn from the seed, and ties."""
    head = head_for(family)
    found, plain = loaded(folders[family], "8bit", head=head).model, loaded(folders[family], head=head).model
    assert {n for n, _ in found.named_buffers()} == {n for n, _ in plain.named_buffers()}
    assert all(torch.equal(b, found.get_buffer(n)) for n, b in plain.named_buffers())
    packed = {f"{n}.weight" for n in packed_layers(found)}
    rest = {n: p for n, p in plain.named_parameters() if n not in packed}
    ours = dict(found.named_parameters())
    assert set(ours) == packed | set(rest)
    assert all(torch.equal(ours[n], p.to(ours[n].dtype)) for n, p in rest.items())
    narrow = {n for n, p in ours.items() if p.dtype == torch.bfloat16}
    ends = {id(m.weight) for m in (found.get_input_embeddings(), found.get_output_embeddings()) if m is not None}
    assert narrow <= {n for n, p in ours.items() if id(p) in ends}


def test_names_with_and_without_the_prefix(folders, tmp_path):
    """Published checkpoints hold the base model alone, or the base under the head's names."""
    for source, kind in ((folders["opt"], Head("causal")), (folders["bert"], THREE)):
        folder = tmp_path / kind.kind
        folder.mkdir()
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        weights = load_file(folder / "model.safetensors")
        with_prefix = any(n.startswith("model.") for n in weights)
        renamed = {n.removeprefix("model.") if with_prefix else f"bert.{n}": t for n, t in weights.items()}
        save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
        one, other = loaded(source, "4bit", head=kind).model, loaded(folder, "4bit", head=kind).model
        assert all(torch.equal(p, other.get_parameter(n)) for n, p in one.named_parameters())


def test_shards_and_a_head_of_its_own(folders, tmp_path):
    """Sharded files; a tied head whose own weights in the file differ is not tied, as transformers has it."""
    model = hf.AutoModelForCausalLM.from_pretrained(folders["opt"])
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    tiny.tokenizer("opt").save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    one, other = loaded(folders["opt"], "8bit").model, loaded(tmp_path, "8bit").model
    assert all(torch.equal(p, other.get_parameter(n)) for n, p in one.named_parameters())
    assert other.get_output_embeddings().weight is other.get_input_embeddings().weight  # type: ignore[union-attr, operator]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    last = tmp_path / sorted(set(index["weight_map"].values()))[-1]
    save_file({**load_file(last), "lm_head.weight": torch.randn(tiny.VOCABULARY, 64)}, last, metadata={"format": "pt"})
    apart_ = loaded(tmp_path, "8bit").model
    assert apart_.get_output_embeddings().weight is not apart_.get_input_embeddings().weight  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("bits", BITS)
def test_memory_peaks_at_the_packed_size_and_a_tensor(bits, tmp_path, monkeypatch):
    """Counted at torch's allocator: what is alive while loading, beside what stays; mapped pages are the file's."""
    monkeypatch.setattr("luthier.models.packed.PIECE", 1 << 14)
    folder = tiny.save(
        "opt",
        tmp_path / "wide",
        **{**SIZES["opt"], "hidden_size": 256, "ffn_dim": 1024, "word_embed_proj_dim": 256, "num_hidden_layers": 8},
    )
    config = hf.AutoConfig.from_pretrained(folder)
    section = Model(name=str(folder), quantization=bits)  # type: ignore[arg-type]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        found = quantize.stream(Source(str(folder), str(folder), None), config, section, auto=hf.AutoModelForCausalLM)
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    mapped = (folder / "model.safetensors").stat().st_size // 2
    events = [e for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"] if e.get("name") == "[memory]"]
    now = peak = 0
    for event in sorted((e for e in events if abs(e["args"]["Bytes"]) < mapped), key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    largest = 4 * 256 * 1024
    packed = sum(layer.weight.numel() * layer.weight.element_size() for layer in packed_layers(found.model).values())
    assert packed <= now < packed + largest
    assert peak < now + largest


def trainer(found: Loaded) -> tuple[Any, Optimizer]:
    """LoRA that has begun to move, and what trains it."""
    METHODS.load("lora")(LoraOptions(rank=4), seed=0).apply(found)
    kept = load.for_training(found.model, device=torch.device("cpu"), dtype=torch.float32, head=found.head)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in found.model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.05, generator=draw)
    return found, Optimizer(found.model, Training(), kept=kept)


def step(found: Loaded, optimizer: Optimizer) -> tuple[float, dict[str, torch.Tensor]]:
    batch = collate([{"input_ids": s[:-1], "labels": s[1:]} for s in tiny.sentences(6, seed=4)])
    torch.manual_seed(5)  # dropout
    total, number = language_loss(found.model, batch, found.layout)
    total.backward()
    gradients = {n: p.grad.clone() for n, p in found.model.named_parameters() if p.grad is not None}
    optimizer.step(learning_rate=1e-3, weight=number, norm=optimizer.gradient_norm(number))
    optimizer.clear()
    return float(total) / number, gradients


@pytest.mark.parametrize("family", ["opt", "llama", "gpt2"])
@pytest.mark.parametrize("bits", BITS)
def test_a_step_is_that_of_the_weights_it_stands_for(bits, family, folders):
    """Against the fp32 model with the same weights and adapters: what is left is the rounding of bf16 products."""
    found, optimizer = trainer(loaded(folders[family], bits))
    plain, other = trainer(dequantised(loaded(folders[family], bits), folders[family]))
    frozen = {n: p.detach().clone() for n, p in found.model.named_parameters() if not p.requires_grad}
    (loss, ours), (expected, theirs) = step(found, optimizer), step(plain, other)
    assert loss == pytest.approx(expected, rel=3e-3)
    assert set(ours) == set(theirs)
    assert gradients_apart(ours, theirs) < 6e-2
    for mode in (False, True, False):  # evaluation leaves everything as it is, and gradients flow after it
        found.model.train(mode)
        with torch.no_grad():
            hidden_states(found.model, collate([{"input_ids": [5, 6, 7]}]), found.layout)
    found.model.train()
    _, again = step(found, optimizer)
    assert all(float(g.norm()) > 0 for n, g in again.items() if "lora_A" in n)
    assert all(torch.equal(p, found.model.get_parameter(n)) for n, p in frozen.items())
    assert {p.dtype for n, p in found.model.named_parameters() if "norm" in n or "bias" in n} <= {torch.float32}
    assert all(".lora_" in n for n in trained(found.model))


def gradients_apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return apart(*(torch.cat([g[n].flatten() for n in sorted(g)]) for g in (a, b)))


@pytest.mark.parametrize("family", ["opt", "llama", "gpt2"])
@pytest.mark.parametrize("bits", BITS)
def test_nothing_but_the_products_is_rounded(bits, family, folders, monkeypatch):
    """With fp32 products in the packed layers, loss and gradients are those of the fp32 model."""
    for kind in (Packed4, Packed8):
        monkeypatch.setattr(kind, "forward", lambda self, x: nn.functional.linear(x, weight_of(self), self.bias))
    found, optimizer = trainer(loaded(folders[family], bits))
    plain, other = trainer(dequantised(loaded(folders[family], bits), folders[family]))
    (loss, ours), (expected, theirs) = step(found, optimizer), step(plain, other)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradients_apart(ours, theirs) < 1e-5


@pytest.mark.parametrize("bits", BITS)
def test_what_flows_back_is_rounded_as_what_flows_on(bits):
    plain = nn.Linear(512, 768)
    layer: Any = Packed8(plain) if bits == "8bit" else Packed4(plain, nested=True)
    layer.pack(nn.init.normal_(plain.weight.data))
    x, upstream = torch.randn(32, 512, requires_grad=True), torch.randn(32, 768)
    (found,) = torch.autograd.grad(layer(x), x, upstream)
    assert apart(found, upstream @ weight_of(layer)) < 4e-3


@pytest.mark.parametrize("bits", BITS)
def test_parameters_are_counted_as_what_they_stand_for(bits, folders):
    found, plain = loaded(folders["opt"], bits), loaded(folders["opt"])
    assert count(found.model)[1] == count(plain.model)[1]


@pytest.mark.parametrize("type_", ["lora", "adalora", "ia3", "oft", "vera", "prompt", "p-tuning", "prefix"])
@pytest.mark.parametrize("bits", BITS)
def test_every_adapter_stands_on_it(bits, type_, folders):
    from luthier.registry import METHOD_OPTIONS

    found = loaded(folders["llama"], bits)
    METHODS.load(type_)(METHOD_OPTIONS.load(type_)(type=type_), seed=0).apply(found)
    load.for_training(found.model, device=torch.device("cpu"), dtype=torch.float32, head=found.head)
    batch = collate(
        [{"input_ids": [*found.virtual, *s[:-1]], "labels": [*[-100] * len(found.virtual), *s[1:]]} for s in tiny.sentences(4, high=12)]
    )
    total, _ = language_loss(found.model, batch, found.layout)
    total.backward()
    assert all(p.grad is not None for p in found.model.parameters() if p.requires_grad)


@pytest.fixture
def writing(tmp_path, folders) -> dict[str, Any]:
    path = tmp_path / "text.txt"
    path.write_text("\n---\n".join(t for t, _ in tiny.moods_rows(40)))
    return {
        "data": {"train": str(path), "separator": "\n---\n", "validation_share": 0.2, "test_share": 0.2},
        "task": {"type": "causal", "max_new_tokens": 4, "prompts": ["we found"]},
        "model": {"name": str(folders["opt"])},
        "method": {"type": "lora", "rank": 4},
        "training": {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3, "threads": 1},
        "evaluation": {"bootstrap": 100, "written": 2, "baselines": []},
        "output": {"folder": str(tmp_path / "runs"), "name": "packed"},
    }


@pytest.mark.parametrize(("method", "model", "expected"), [
    ("lora", {"quantization": "8bit"}, {"quantization": "8bit", "double_quantization": True}),
    ("qlora", {}, {"quantization": "4bit", "double_quantization": True}),
    ("qlora", {"double_quantization": False}, {"quantization": "4bit", "double_quantization": False}),
])  # fmt: skip
def test_a_run_is_loaded_again_as_it_was_trained(method, model, expected, writing, tmp_path):
    writing["model"] |= model
    writing["method"]["type"] = method
    run = luthier.train(writing)
    assert run.facts["sources"].get("model.quantization") == ("inferred: method qlora" if method == "qlora" else "python")
    card = json.loads((run.model / "luthier.json").read_text())["base"]
    assert {k: card[k] for k in expected} == expected
    names = set(load_file(run.model / "adapter_model.safetensors"))
    assert names
    assert all("lora_" in n for n in names)
    for path in (tmp_path / "runs").rglob("weights.safetensors"):
        assert all("lora_" in n for n in load_file(path))
    again = [loaded(run.model), Writer.open(run.model).loaded]
    assert [facts(a) for a in again] == [{k: card[k] for k in ("quantization", "double_quantization", "precision")}] * 2
    assert Writer.open(run.model).write(["we found"], Sampling(max_new_tokens=4))[0][0].text
    scores, _ = evaluate(run)
    assert scores["loss"]["value"] == pytest.approx(run.scores["methods"]["model"]["loss"]["value"], rel=1e-5)


def test_a_classifier_is_loaded_again_with_the_same_outputs(folders, recipe):
    recipe["model"] = {"name": str(folders["bert"])}
    recipe["method"] = {"type": "qlora", "rank": 4}
    run = luthier.train(recipe)
    found = Predictor(run.model)
    assert found.loaded.quantization == "4bit"
    held = [row["text"] for row in run.lines("predictions/test.jsonl")]
    saved = load_file(run.folder / "predictions" / "test.safetensors")["outputs"]
    assert torch.allclose(torch.from_numpy(found.outputs(held)).to(saved.dtype), saved, atol=2e-2)


def test_fp32_keeps_the_table_whole(folders):
    """training.precision is for the table and the head: all else is fp32 with bf16 products in any case."""
    kinds = {p: facts(loaded(folders["opt"], "8bit", precision=p))["precision"] for p in ("fp32", "bf16")}
    assert kinds == {"fp32": "fp32", "bf16": "bf16"}


@pytest.mark.parametrize("method", ["full", "freeze", "bitfit", "norms"])
def test_methods_that_move_the_base_are_refused(method, writing):
    writing["model"]["quantization"] = "8bit"
    writing["method"] = {"type": method}
    with pytest.raises(ModelError, match=rf"model.quantization: method {method} moves weights of the base"):
        luthier.train(writing)


def test_what_else_is_refused(writing, folders, tmp_path, monkeypatch):
    scratch = {**writing, "model": {"from_scratch": {"layers": 1, "hidden_size": 64}}, "method": {"type": "qlora"}}
    with pytest.raises(ModelError, match="a new model has no weights to quantise"):
        luthier.train(scratch)
    narrow = tiny.save("bert", tmp_path / "narrow")
    with pytest.raises(ModelError, match="no layer that can be packed in 4bit"):
        loaded(narrow, "4bit", head=THREE)
    weights = load_file(narrow / "model.safetensors")
    save_file({n: t for n, t in weights.items() if "layer.1.output" not in n}, narrow / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="layers are in no file"):
        loaded(narrow, "8bit", head=THREE)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(DependencyError, match=r"luthier\[quantization\]"):
        loaded(folders["opt"], "4bit")


def test_adapters_of_a_quantised_base_are_not_merged_into_it(writing):
    writing["method"]["type"] = "qlora"
    run = luthier.train(writing)
    with pytest.raises(ModelError, match="luthier merge"):
        luthier.train({**writing, "model": {"name": str(run.model)}, "method": {"type": "full"}})


def test_importing_it_says_nothing():
    code = "import luthier.models.load, bitsandbytes, peft.tuners.lora.bnb"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "kernels" not in said.stdout + said.stderr
    assert logging.getLogger("bitsandbytes").level == logging.ERROR
