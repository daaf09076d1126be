"""Other tools' files as recipes: what is taken, what is left, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from luthier.errors import RecipeError
from luthier.recipe import load_recipe
from luthier.recipe.imports import arguments, trl
from luthier.recipe.imports.recognise import Imported, import_file
from luthier.tasks.comparisons import comparison

AXOLOTL = """
base_model: NousResearch/Meta-Llama-3-8B
model_type: AutoModelForCausalLM
load_in_8bit: false
load_in_4bit: true
datasets:
  - path: tatsu-lab/alpaca
    type: alpaca
dataset_prepared_path:
val_set_size: 0.05
output_dir: ./outputs/qlora-out
adapter: qlora
lora_model_dir:
sequence_len: 4096
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
wandb_project: mine
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: paged_adamw_32bit
lr_scheduler: cosine
learning_rate: 2e-4
train_on_inputs: false
bf16: auto
fp16:
tf32: false
gradient_checkpointing: true
flash_attention: true
early_stopping_patience: 3
warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.0
seed: 7
max_step: 10
special_tokens:
  pad_token: "<|end_of_text|>"
"""
LLAMA_FACTORY = """
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: q_proj,v_proj
quantization_bit: 8
dataset: talk,questions
dataset_dir: data
template: llama3
cutoff_len: 2048
max_samples: 1000
val_size: 0.1
overwrite_cache: true
preprocessing_num_workers: 16
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
neftune_noise_alpha: 5
"""
TRL = """
model_name_or_path: Qwen/Qwen2.5-0.5B
dataset_name: chats.jsonl
learning_rate: 2.0e-4
max_steps: 200
warmup_steps: 20
max_length: 512
packing: true
assistant_only_loss: true
per_device_train_batch_size: 2
eos_token: '<|im_end|>'
eval_strategy: steps
eval_steps: 100
use_peft: true
lora_r: 32
lora_alpha: 16
lora_target_modules: all-linear
load_in_4bit: true
push_to_hub: true
hub_token: hf_do_not_show
"""
DPO = {
    "model_name_or_path": "starter", "dataset_name": "pairs.jsonl", "beta": 0.2, "max_length": 256, "use_peft": True, "lora_dropout": 0.1,
    "disable_dropout": True,
}  # fmt: skip
PAIR = {"prompt": "hello", "chosen": "good day", "rejected": "no"}
MADE = {"role": "assistant", "content": "good day"}
CHAT = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]}


def taken(text: str, folder: Path, *, name: str = "config.yaml", **options) -> Imported:
    path = folder / name
    path.write_text(text)
    found = import_file(path, folder=folder, **options)
    written = folder / "recipe.yaml"
    written.write_text(found.text)
    assert load_recipe(written).recipe == found.recipe, "the text is the recipe"
    return found


def values(found: Imported) -> dict:
    return yaml.safe_load(found.text)


def left(items) -> dict:
    return {item.key: item.value for item in items}


def task(found: Imported) -> dict:
    """What the written recipe says of the task."""
    return values(found)["task"]


def read(found: Imported, row: dict):
    """The comparison that the task of an imported recipe reads off a row; a text where it is none."""
    options = found.recipe.task
    return comparison(row, options.format, names=options.columns, system=options.system, threshold=None)


def said(found) -> tuple:
    """What was asked, what was answered, best first or alone, and whether it is good."""
    return found.prompt[-1]["content"], *(a[-1]["content"] for a in found.answers), found.ratings[0] > 0


def test_axolotl(tmp_path):
    found = taken(AXOLOTL, tmp_path)
    assert found.tool == "Axolotl"
    assert values(found) == {
        "data": {"name": "alpaca", "train": "train.*", "validation_share": 0.05},
        "task": {"type": "chat", "format": "alpaca"},
        "model": {"name": "NousResearch/Meta-Llama-3-8B", "max_length": 4096, "quantization": "4bit"},
        "method": {"type": "qlora", "rank": 32, "alpha": 16, "dropout": 0.05, "target_modules": "all-linear"},
        "training": {
            "batch_size": 2, "gradient_accumulation": 4, "epochs": 4, "learning_rate": 2e-4, "schedule": "cosine", "warmup": 0.03,
            "weight_decay": 0.0, "precision": "auto", "checkpointing": True, "early_stopping": 3, "seed": 7,
        },
        "output": {"folder": "outputs", "name": "qlora-out"},
    }  # fmt: skip
    assert left(found.lost) == {
        "datasets[0].type": "alpaca", "warmup_steps": 10, "evals_per_epoch": 4, "optimizer": "paged_adamw_32bit", "max_step": 10,
        "special_tokens": {"pad_token": "<|end_of_text|>"},
    }  # fmt: skip
    assert "is it max_steps?" in next(i.why for i in found.lost if i.key == "max_step")
    assert [i.key for i in found.to_fill] == ["data.train", "data.origin"]
    assert found.unneeded == (
        "dataset_prepared_path", "flash_attention", "fp16", "load_in_8bit", "lora_model_dir", "model_type", "sample_packing",
        "saves_per_epoch", "tf32", "train_on_inputs", "wandb_project",
    )  # fmt: skip
    assert "rank: 32" in found.text
    assert "# lora_r\n" in found.text


def test_axolotl_own_prompts_files_and_plain_text(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"q": "a", "a": "b"}\n')
    own = {
        "base_model": "starter", "sequence_len": 512, "micro_batch_size": 8, "batch_size": 32, "learning_rate": 1e-4, "train_on_inputs": True,
        "datasets": [{"path": "rows.jsonl", "ds_type": "json", "type": {"field_instruction": "q", "field_output": "a", "format": "[{instruction}]"}}],
        "test_datasets": [{"path": "rows.jsonl", "split": "train"}], "lr_scheduler": "constant", "val_set_size": 0,
    }  # fmt: skip
    found = taken(yaml.safe_dump(own), tmp_path)
    recipe = found.recipe
    assert (recipe.data.train, recipe.data.validation) == (["rows.jsonl"], ["rows.jsonl"])
    assert (recipe.task.columns, recipe.task.graded) == ({"instruction": "q", "output": "a"}, "all")
    assert (recipe.training.gradient_accumulation, recipe.training.warmup, recipe.method.type) == (4, 0.0, "full")
    assert left(found.lost) == {"datasets[0].type.format": "[{instruction}]", "val_set_size": 0}
    plain = {"base_model": "starter", "datasets": [{"path": "rows.jsonl", "type": "completion", "field": "q"}], "learning_rate": "1e-4"}
    recipe = taken(yaml.safe_dump(plain), tmp_path).recipe
    assert (recipe.task.type, recipe.data.text, recipe.training.learning_rate) == ("causal", "q", 1e-4)


def test_axolotl_a_pinned_data_set_is_pinned(tmp_path):
    entry = {"path": "owner/set", "revision": "a" * 40, "data_files": "train.jsonl", "type": "chat_template", "field_messages": "turns"}
    found = taken(yaml.safe_dump({"base_model": "m/n", "datasets": [entry], "chat_template": "chatml", "learning_rate": 1e-4}), tmp_path)
    data = found.recipe.data
    assert (data.name, data.origin, data.train) == ("set", f"hf:owner/set@{'a' * 40}", ["train.jsonl"])
    assert found.recipe.task.columns == {"messages": "turns"}
    assert left(found.lost) == {"chat_template": "chatml"}
    assert not found.to_fill


def info(folder: Path, **entries) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "dataset_info.json").write_text(json.dumps(entries))


def test_llama_factory_looks_its_data_up(tmp_path):
    columns = {"prompt": "ask", "query": "extra", "response": "output"}
    info(tmp_path, talk={"file_name": "talk.json", "columns": columns}, questions={"file_name": "q.json", "columns": columns})
    for name in ("talk.json", "q.json"):
        (tmp_path / "data" / name).write_text("[]")
    found = taken(LLAMA_FACTORY, tmp_path)
    assert found.tool == "LLaMA-Factory"
    assert values(found) == {
        "data": {"train": ["data/talk.json", "data/q.json"], "limit": 2000, "validation_share": 0.1},
        "task": {"type": "chat", "format": "alpaca", "columns": {"instruction": "ask", "input": "extra"}},
        "model": {"name": "meta-llama/Meta-Llama-3-8B-Instruct", "max_length": 2048, "quantization": "8bit"},
        "method": {"type": "lora", "rank": 8, "target_modules": ["q_proj", "v_proj"]},
        "training": {
            "batch_size": 1, "gradient_accumulation": 8, "learning_rate": 1e-4, "epochs": 3.0, "schedule": "cosine", "warmup": 0.1,
            "precision": "bf16", "weight_decay": 0.0, "checkpointing": True,
        },
        "checkpoints": {"every_steps": 500},
        "output": {"folder": "saves/llama3-8b/lora", "name": "sft"},
    }  # fmt: skip
    assert left(found.lost) == {"trust_remote_code": True, "template": "llama3", "neftune_noise_alpha": 5}
    assert not found.to_fill
    assert found.unneeded == (
        "dataset_dir", "do_train", "logging_steps", "overwrite_cache", "plot_loss", "preprocessing_num_workers",
    )  # fmt: skip


def test_llama_factory_other_methods_and_stages(tmp_path):
    info(
        tmp_path,
        talk={"hf_hub_url": "owner/talk", "formatting": "sharegpt", "columns": {"messages": "turns"},
              "tags": {"role_tag": "role", "content_tag": "content"}},
        books={"file_name": "books.txt", "columns": {"prompt": "text"}},
        pairs={"file_name": "pairs.json", "ranking": True},
    )  # fmt: skip
    (tmp_path / "data" / "books.txt").write_text("words")
    base = {"model_name_or_path": "starter", "stage": "sft", "dataset": "talk", "finetuning_type": "freeze", "freeze_trainable_layers": 3}
    recipe = taken(yaml.safe_dump(base), tmp_path).recipe
    assert (recipe.method.type, recipe.method.all_but_last) == ("freeze", 3)
    assert (recipe.task.format, recipe.task.columns, recipe.data.name) == ("messages", {"messages": "turns"}, "talk")
    plain = taken(yaml.safe_dump(base | {"stage": "pt", "dataset": "books", "finetuning_type": "full"}), tmp_path)
    assert (plain.recipe.task.type, plain.recipe.data.train, plain.recipe.method.type) == ("causal", ["data/books.txt"], "full")
    assert (plain.unneeded, plain.lost) == (("freeze_trainable_layers",), ())
    four = taken(yaml.safe_dump(base | {"finetuning_type": "lora", "quantization_bit": 4, "mask_history": True}), tmp_path).recipe
    assert (four.method.type, four.model.quantization, four.task.graded) == ("qlora", "4bit", "last")
    with pytest.raises(RecipeError, match="answers that are compared") as raised:
        taken(yaml.safe_dump(base | {"dataset": "pairs"}), tmp_path)
    assert raised.value.faults[0].remedy == "set stage: dpo or rm"
    unknown = taken(yaml.safe_dump(base | {"dataset": "elsewhere"}), tmp_path)
    assert left(unknown.to_fill) == {"data.train": "elsewhere.json"}


def judged_by_llama_factory(folder: Path) -> dict:
    """A configuration for data sets of answers that are compared or judged."""
    columns = {"prompt": "ask", "chosen": "good", "rejected": "bad", "system": "system"}
    info(
        folder,
        pairs={"file_name": "p.json", "ranking": True, "columns": columns},
        wider={"file_name": "p.json", "ranking": True, "columns": columns | {"query": "extra", "history": "before"}},
        talks={"file_name": "t.json", "formatting": "sharegpt", "ranking": True,
               "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}},
        odd={"file_name": "t.json", "formatting": "sharegpt", "ranking": True, "tags": {"role_tag": "who"},
             "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}},
        marks={"file_name": "k.json", "columns": {"prompt": "ask", "response": "output", "kto_tag": "liked"}},
        marked={"file_name": "k.json", "formatting": "sharegpt", "columns": {"messages": "turns", "kto_tag": "label"}},
        talk={"file_name": "c.json"},
    )  # fmt: skip
    for name in ("p.json", "t.json", "k.json", "c.json"):
        (folder / "data" / name).write_text("[]")
    return {"model_name_or_path": "starter", "stage": "dpo", "dataset": "pairs", "lora_dropout": 0.1}


def test_llama_factory_learns_preferences(tmp_path):
    base = judged_by_llama_factory(tmp_path)
    options = {
        "pref_beta": 0.2,
        "pref_ftx": 0.5,
        "dpo_label_smoothing": 0.1,
        "kto_chosen_weight": 2.0,
        "ppo_epochs": 4,
        "ref_model": "starter",
    }
    found = taken(yaml.safe_dump(base | options | {"default_system": "Be kind.", "template": "llama3", "train_on_prompt": True}), tmp_path)
    assert task(found) == {
        "type": "preference", "format": "pairs", "columns": {"prompt": "ask", "chosen": "good", "rejected": "bad"}, "loss": "sigmoid",
        "beta": 0.2, "label_smoothing": 0.1, "sft": 0.5, "system": "Be kind.",
    }  # fmt: skip
    assert values(found)["model"]["dropout"] == values(found)["method"]["dropout"] == 0.0
    assert found.recipe.training.learning_rate == 5e-5
    assert left(found.lost) == {"template": "llama3"}
    assert set(found.unneeded) == {"kto_chosen_weight", "ppo_epochs", "ref_model", "train_on_prompt"}
    assert said(read(found, {"ask": "hello", "good": "good day", "bad": "no"})) == ("hello", "good day", "no", True)
    simpo = taken(yaml.safe_dump(base | {"pref_loss": "simpo", "simpo_gamma": 1.0, "pref_beta": 2.5, "pref_ftx": 0.1}), tmp_path)
    options = task(simpo)
    assert (options["loss"], options["gamma"], options["beta"], options["sft"]) == ("simpo", 1.0, 2.5, 0.1)
    for loss in ("ipo", "hinge"):
        assert task(taken(yaml.safe_dump(base | {"pref_loss": loss}), tmp_path))["loss"] == loss
    others = {
        "pref_ftx": 0.1,
        "simpo_gamma": 1.0,
        "pref_bco_weight": 0.5,
        "ld_alpha": 0.5,
        "ref_model": "other",
        "label_smoothing_factor": 0.1,
    }
    orpo = taken(yaml.safe_dump(base | others | {"pref_loss": "orpo"}), tmp_path)
    assert left(orpo.lost) == others
    assert (orpo.recipe.task.loss, orpo.recipe.task.beta, orpo.recipe.task.sft) == ("orpo", 0.1, 0.0)


def test_llama_factory_learns_from_good_and_bad_answers(tmp_path):
    base = judged_by_llama_factory(tmp_path) | {"stage": "kto", "dataset": "marks", "kto_chosen_weight": 1.5, "kto_rejected_weight": 0.5}
    found = taken(yaml.safe_dump(base | {"pref_beta": 0.3, "pref_loss": "sigmoid", "pref_ftx": 0.1}), tmp_path)
    assert task(found) == {
        "type": "preference", "format": "unpaired", "columns": {"prompt": "ask", "completion": "output", "label": "liked"}, "loss": "kto",
        "beta": 0.3, "good_weight": 1.5, "bad_weight": 0.5,
    }  # fmt: skip
    assert left(found.lost) == {"pref_ftx": 0.1}
    assert said(read(found, {"ask": "hello", "output": "no", "liked": False})) == ("hello", "no", False)
    talk = taken(yaml.safe_dump(base | {"dataset": "marked"}), tmp_path)
    assert talk.recipe.task.columns == {"completion": "turns"}
    row = {"turns": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "good day"}], "label": True}
    assert said(read(talk, row)) == ("hello", "good day", True)


def test_llama_factory_reads_its_rows_where_it_can(tmp_path):
    base = judged_by_llama_factory(tmp_path)
    talks = taken(yaml.safe_dump(base | {"dataset": "talks", "stage": "rm"}), tmp_path)
    assert task(talks) == {"type": "reward", "format": "pairs", "columns": {"prompt": "conversations"}}
    assert "dropout" not in values(talks)["model"]
    row = {
        "conversations": [{"from": "human", "value": "hello"}],
        "chosen": {"from": "gpt", "value": "hi"},
        "rejected": {"from": "gpt", "value": "no"},
    }
    assert said(read(talks, row)) == ("hello", "hi", "no", True)
    wider = taken(yaml.safe_dump(base | {"dataset": "wider"}), tmp_path)
    assert [(i.key, i.value) for i in wider.lost] == [("dataset", "before"), ("dataset", "extra")]
    odd = taken(yaml.safe_dump(base | {"dataset": "odd"}), tmp_path)
    assert left(odd.lost) == {"dataset": {"role_tag": "who"}}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"pref_loss": "kto_pair"}, "kto_pair is no loss that is here"),
        ({"dataset": "talk"}, "answers that nobody judged"),
        ({"dataset": "marks"}, "answers that are good or bad"),
        ({"stage": "kto"}, "answers that are compared"),
        ({"stage": "pt"}, "answers that are compared"),
        ({"stage": "sft", "dataset": "marks"}, "answers that are good or bad"),
        ({"stage": "ppo", "reward_model": "saves/rm"}, "stage: ppo trains a policy on rewards.*task policy"),
        ({"stage": "grow"}, "stage: grow is not known here"),
        ({"dpo_label_smoothing": 0.7}, "task.label_smoothing"),
    ],
)
def test_llama_factory_files_that_are_refused(changed, why, tmp_path):
    with pytest.raises(RecipeError, match=why):
        taken(yaml.safe_dump(judged_by_llama_factory(tmp_path) | changed), tmp_path)


AXOLOTL_RL = {
    "base_model": "starter",
    "learning_rate": 1e-5,
    "adapter": "lora",
    "lora_dropout": 0.05,
    "datasets": [{"path": "p.jsonl", "type": "chatml.intel"}],
}


def axolotl_rl(folder: Path, **keys) -> Imported:
    return taken(yaml.safe_dump(AXOLOTL_RL | keys), folder)


def test_axolotl_learns_preferences(tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps({"question": "hello", "chosen": "good day", "rejected": "no"}))
    options = {"rl_beta": 0.3, "dpo_label_smoothing": 0.1, "rpo_alpha": 0.5, "precompute_ref_log_probs": True, "dpo_norm_loss": True}
    found = axolotl_rl(tmp_path, rl="dpo", **options, dpo_use_weighting=True, max_prompt_len=512, dpo_padding_free=True)
    assert task(found) == {
        "type": "preference", "format": "pairs", "columns": {"prompt": "question"}, "loss": "sigmoid", "label_smoothing": 0.1,
        "normalize": True, "beta": 0.3, "sft": 0.5, "reference": "precomputed",
    }  # fmt: skip
    assert values(found)["model"]["dropout"] == values(found)["method"]["dropout"] == 0.0
    assert left(found.lost) == {"datasets[0].type": "chatml.intel", "dpo_use_weighting": True, "max_prompt_len": 512}
    assert found.unneeded == ("dpo_padding_free",)
    assert said(read(found, {"question": "hello", "chosen": "good day", "rejected": "no"})) == ("hello", "good day", "no", True)
    ipo = axolotl_rl(tmp_path, rl="ipo", dpo_label_smoothing=0.1, trl={"beta": 0.4, "use_vllm": True}, rl_beta=0.2)
    assert (ipo.recipe.task.loss, ipo.recipe.task.beta, ipo.recipe.task.label_smoothing) == ("ipo", 0.4, 0.0)
    assert {k: v for k, v in left(ipo.lost).items() if "data" not in k} == {"dpo_label_smoothing": 0.1, "trl.use_vllm": True}
    orpo = axolotl_rl(tmp_path, rl="orpo", orpo_alpha=0.2, datasets=[{"path": "p.jsonl", "type": "chat_template.argilla"}])
    assert (orpo.recipe.task.loss, orpo.recipe.task.beta, left(orpo.lost)) == ("orpo", 0.2, {"rl": "orpo"})
    simpo = task(axolotl_rl(tmp_path, rl="simpo", simpo_gamma=1.0, rl_beta=2.0))
    assert (simpo["loss"], simpo["gamma"], simpo["beta"], simpo["sft"]) == ("simpo", 1.0, 2.0, 1.0)
    assert task(axolotl_rl(tmp_path, rl="simpo", simpo_gamma=1.0, cpo_alpha=0.0))["sft"] == 0.0
    lists = task(axolotl_rl(tmp_path, rl="dpo", dpo_loss_type=["hinge", "sft"], dpo_loss_weights=[1.0, 0.3]))
    assert (lists["loss"], lists["sft"]) == ("hinge", 0.3)


def test_axolotl_learns_from_good_and_bad_answers_and_rewards(tmp_path):
    kind = {
        "field_prompt": "ask",
        "field_completion": "said",
        "field_label": "liked",
        "prompt_format": "<{prompt}>",
        "completion_format": "{completion}",
    }
    entry = {"path": "k.jsonl", "type": kind}
    found = axolotl_rl(tmp_path, rl="kto", kto_desirable_weight=2.0, kto_undesirable_weight=0.5, simpo_gamma=1.0, datasets=[entry])
    assert task(found) == {
        "type": "preference", "format": "unpaired", "columns": {"prompt": "ask", "completion": "said", "label": "liked"}, "loss": "kto",
        "good_weight": 2.0, "bad_weight": 0.5,
    }  # fmt: skip
    assert left(found.lost) == {"datasets[0].type.prompt_format": "<{prompt}>", "simpo_gamma": 1.0}
    assert said(read(found, {"ask": "hello", "said": "no", "liked": 0})) == ("hello", "no", False)
    entry = {"path": "r.jsonl", "type": "bradley_terry.chat_template"}
    reward = axolotl_rl(tmp_path, reward_model=True, center_rewards_coefficient=0.01, num_labels=1, datasets=[entry])
    assert task(reward) == {"type": "reward", "format": "pairs", "columns": {"prompt": "input"}, "center": 0.01}
    assert not reward.lost
    assert set(left(reward.to_fill)) == {"data.train"}


@pytest.mark.parametrize(
    ("entry", "row", "columns"),
    [
        ({"type": "chat_template.default", "field_chosen": "good"},
         {"messages": [{"role": "user", "content": "hello"}], "good": MADE, "rejected": {"role": "assistant", "content": "no"}},
         {"prompt": "messages", "chosen": "good"}),
        ({"type": "chat_template.default", "field_messages": "turns", "field_rejected": "rejected"},
         {"turns": [{"role": "user", "content": "hello"}], "chosen": MADE, "rejected": "no"}, {"prompt": "turns"}),
        ({"type": "llama3.argilla"}, {"instruction": "hello", "chosen_response": "good day", "rejected_response": "no"},
         {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"}),
        ({"type": "chatml.argilla"}, PAIR, {}),
        ({"type": "llama3.icr"}, {"input": "hello", "chosen": "good day", "rejected": "no", "system": ""}, {"prompt": "input"}),
        ({"type": "chatml.ultra"},
         {"prompt": "hello", "chosen": [{"role": "user", "content": "hello"}, MADE],
          "rejected": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "no"}]}, {}),
        ({"type": {"field_prompt": "ask", "field_chosen": "chosen"}}, {"ask": "hello", "chosen": "good day", "rejected": "no"}, {"prompt": "ask"}),
        ({}, PAIR, {}),
    ],
    ids=lambda v: str(v.get("type", "")) if isinstance(v, dict) else "",
)  # fmt: skip
def test_axolotl_reads_its_rows_where_it_can(entry, row, columns, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    found = axolotl_rl(tmp_path, rl="dpo", datasets=[{"path": "p.jsonl", **entry}])
    assert found.recipe.task.columns == columns
    assert said(read(found, row)) == ("hello", "good day", "no", True)


def test_axolotl_types_that_are_not_known_are_left(tmp_path):
    found = axolotl_rl(tmp_path, rl="dpo", datasets=[{"path": "p.jsonl", "type": "mine.own"}, {"path": "q.jsonl", "type": "chatml.intel"}])
    assert left(found.lost) == {"datasets[0].type": "mine.own", "datasets[].type": ["chatml.intel"]}
    assert (found.recipe.task.format, found.recipe.task.columns) == ("auto", {})


def test_trl(tmp_path):
    (tmp_path / "chats.jsonl").write_text(json.dumps(CHAT))
    found = taken(TRL, tmp_path)
    assert found.tool == "TRL"
    assert values(found) == {
        "data": {"train": "chats.jsonl"},
        "task": {"type": "chat", "graded": "assistant"},
        "model": {"name": "Qwen/Qwen2.5-0.5B", "max_length": 512, "quantization": "4bit", "double_quantization": False},
        "method": {"type": "qlora", "rank": 32, "alpha": 16, "dropout": 0.05, "target_modules": "all-linear"},
        "training": {
            "max_steps": 200, "batch_size": 2, "learning_rate": 2e-4, "warmup": 0.1, "epochs": 3, "weight_decay": 0.0, "checkpointing": True,
        },
        "evaluation": {"every": 100},
    }  # fmt: skip
    assert left(found.lost) == {"eos_token": "<|im_end|>"}
    assert found.unneeded == ("eval_strategy", "hub_token", "packing", "push_to_hub")
    assert "hf_do_not_show" not in found.text


def test_trl_reads_the_task_off_the_columns(tmp_path):
    (tmp_path / "rows.csv").write_text("body,other\nwords,1\n")
    (tmp_path / "pairs.json").write_text('[{"prompt": "a", "completion": "b"}]')
    base = {"model_name_or_path": "starter", "dataset_name": "rows.csv", "dataset_text_field": "body", "packing": True}
    plain = taken(yaml.safe_dump(base), tmp_path).recipe
    assert (plain.task.type, plain.data.text, plain.method.type) == ("causal", "body", "full")
    pairs = taken(yaml.safe_dump(base | {"dataset_name": "pairs.json"}), tmp_path).recipe
    assert (pairs.task.type, pairs.task.graded) == ("chat", "assistant")
    every = taken(yaml.safe_dump(base | {"dataset_name": "pairs.json", "completion_only_loss": False}), tmp_path).recipe
    assert every.task.graded == "all"


def test_the_arguments_of_sft_config_as_json(tmp_path):
    """All of them at their defaults: nothing is lost, and what is not there is left to fill in."""
    from trl import SFTConfig

    found = taken(json.dumps(SFTConfig(output_dir="out", use_cpu=True, bf16=False).to_dict()), tmp_path, name="config.json")
    assert found.tool == "TRL"
    assert not found.lost
    assert [i.key for i in found.to_fill] == ["model.name", "data.train"]
    assert found.recipe.training.batch_size == 8


def trl_pairs(folder: Path, **keys) -> Imported:
    (folder / "pairs.jsonl").write_text(json.dumps(PAIR))
    return taken(yaml.safe_dump(DPO | keys), folder)


def test_trl_learns_preferences(tmp_path):
    found = trl_pairs(tmp_path)
    assert found.tool == "TRL"
    assert values(found) == {
        "data": {"train": "pairs.jsonl"},
        "task": {"type": "preference", "loss": "sigmoid", "beta": 0.2},
        "model": {"name": "starter", "max_length": 256, "dropout": 0.0},
        "method": {"type": "lora", "rank": 16, "alpha": 32, "dropout": 0.0},
        "training": {"learning_rate": 1e-6, "epochs": 3, "batch_size": 8, "warmup": 0.0, "weight_decay": 0.0, "checkpointing": True},
    }  # fmt: skip
    assert set(left(found.lost)) == {"lora_target_modules"}
    assert not found.unneeded
    assert "dropout" not in values(trl_pairs(tmp_path, disable_dropout=False))["model"]
    others = {"ld_alpha": 0.5, "f_divergence_type": "forward_kl", "use_weighting": True, "sync_ref_model": True, "max_prompt_length": 128}
    assert left(trl_pairs(tmp_path, **others, lora_target_modules="all-linear").lost) == others
    plain = trl_pairs(tmp_path, ld_alpha=1.0, f_divergence_type="reverse_kl", use_weighting=False, precompute_ref_log_probs=False)
    assert {"ld_alpha", "f_divergence_type", "use_weighting", "precompute_ref_log_probs"} <= set(plain.unneeded)
    assert task(trl_pairs(tmp_path, precompute_ref_log_probs=True))["reference"] == "precomputed"
    assert task(trl_pairs(tmp_path, rpo_alpha=0.5))["sft"] == 0.5


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"loss_type": "hinge"}, {"loss": "hinge"}),
        ({"loss_type": ["ipo"]}, {"loss": "ipo"}),
        ({"loss_type": "sigmoid_norm"}, {"loss": "sigmoid", "normalize": True}),
        ({"loss_type": ["robust"], "label_smoothing": 0.1}, {"loss": "robust", "label_smoothing": 0.1}),
        ({"loss_type": ["robust"]}, {"loss": "sigmoid"}),
        ({"loss_type": ["sigmoid", "sft"]}, {"loss": "sigmoid", "sft": 1.0}),
        ({"loss_type": ["sft", "sigmoid"], "loss_weights": [0.2, 1.0]}, {"loss": "sigmoid", "sft": 0.2}),
    ],
)  # fmt: skip
def test_losses_of_trl(keys, wanted, tmp_path):
    found = trl_pairs(tmp_path, **keys, lora_target_modules="all-linear")
    assert task(found) == {"type": "preference", "beta": 0.2} | wanted
    assert not found.lost


def test_what_trl_weighs_or_smooths_otherwise_is_told(tmp_path):
    found = trl_pairs(tmp_path, loss_type=["hinge", "sft"], loss_weights=[2.0, 1.0], label_smoothing=0.1, lora_target_modules="all-linear")
    assert (found.recipe.task.loss, found.recipe.task.sft) == ("hinge", 0.5)
    assert left(found.lost) == {"loss_weights": [2.0, 1.0], "label_smoothing": 0.1}
    sigmoid = trl_pairs(tmp_path, label_smoothing=0.1, lora_target_modules="all-linear")
    assert left(sigmoid.lost) == {"label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}, "is not one loss"),
        ({"loss_type": ["sigmoid", "hinge"]}, "is not one loss"),
        ({"loss_type": "sft"}, "is not one loss"),
        ({"loss_type": "apo_zero"}, "loss_type: apo_zero is no loss that is here"),
        ({"loss_type": "apo_zero_unpaired"}, "is no loss that is here"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, "loss_weights"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": ["a", 0]}, "loss_weights"),
        ({"loss_type": "dr_grpo"}, "task policy"),
        ({"num_generations": 4}, "num_generations: 4 trains a policy on rewards.*task policy"),
        ({"reward_model_path": "m"}, "task policy"),
        ({"max_completion_length": 64}, "task policy"),
        ({"cpo_alpha": 1.0}, "is for CPO"),
        ({"is_encoder_decoder": None}, "is for ORPO"),
        ({"teacher_model_name_or_path": None, "max_completion_length": 64}, "is for distillation"),
    ],
)
def test_trainers_and_losses_of_trl_that_are_refused(keys, why, tmp_path):
    with pytest.raises(RecipeError, match=why):
        trl_pairs(tmp_path, **keys)


def test_trl_learns_from_good_and_bad_answers(tmp_path):
    (tmp_path / "marks.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b", "label": True}))
    keys = DPO | {"dataset_name": "marks.jsonl", "lora_target_modules": "all-linear"}
    found = taken(yaml.safe_dump(keys | {"desirable_weight": 1.5, "undesirable_weight": 0.5, "loss_type": "kto"}), tmp_path)
    assert task(found) == {"type": "preference", "loss": "kto", "beta": 0.2, "good_weight": 1.5, "bad_weight": 0.5}
    assert found.recipe.training.learning_rate == 1e-6
    assert not found.lost
    assert taken(yaml.safe_dump(keys), tmp_path).recipe.task.loss == "kto", "by the columns"


def test_trl_learns_rewards(tmp_path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR | {"margin": 1}))
    base = {"model_name_or_path": "starter", "dataset_name": "pairs.jsonl", "max_length": 100}
    found = taken(yaml.safe_dump(base | {"center_rewards_coefficient": 0.01, "chat_template_path": "plain.jinja"}), tmp_path)
    assert task(found) == {"type": "reward", "center": 0.01, "margin": "margin", "template": "plain.jinja"}
    assert (found.recipe.training.learning_rate, found.recipe.model.dropout, found.recipe.model.max_length) == (1e-4, 0.0, 100)
    assert "longer rows are cut" in found.text
    with pytest.raises(RecipeError, match="no key says whether"):
        taken(yaml.safe_dump(base), tmp_path)


@pytest.mark.parametrize("kind", ["DPOConfig", "KTOConfig", "RewardConfig"])
def test_the_arguments_of_other_configs_as_json(kind, tmp_path):
    """All of them at their defaults: nothing is lost, as with SFTConfig."""
    import trl as tool

    arguments = getattr(tool, kind)(output_dir="out", use_cpu=True, bf16=False).to_dict()
    found = taken(json.dumps(arguments), tmp_path, name="config.json")
    assert found.tool == "TRL"
    assert not found.lost
    assert [i.key for i in found.to_fill] == ["model.name", "data.train"]
    expected = {
        "DPOConfig": {"type": "preference", "loss": "sigmoid", "beta": 0.1},
        "KTOConfig": {"type": "preference", "loss": "kto", "beta": 0.1, "good_weight": 1.0, "bad_weight": 1.0},
        "RewardConfig": {"type": "reward"},
    }  # fmt: skip
    assert task(found) == expected[kind]
    assert found.recipe.training.learning_rate == arguments["learning_rate"]


@pytest.mark.parametrize(
    ("kind", "why"), [("GRPOConfig", "task policy"), ("RLOOConfig", "task policy"), ("DistillationConfig", "distillation")]
)
def test_the_arguments_of_policies_as_json_are_refused(kind, why, tmp_path):
    import trl as tool

    with pytest.raises(RecipeError, match=why):
        taken(json.dumps(getattr(tool, kind)(output_dir="out", use_cpu=True, bf16=False).to_dict()), tmp_path, name="config.json")


def test_every_key_of_trl_is_known():
    from trl import DPOConfig, KTOConfig, ModelConfig, RewardConfig, ScriptArguments, SFTConfig

    kinds = (SFTConfig, DPOConfig, KTOConfig, RewardConfig, ModelConfig, ScriptArguments)
    fields = {f.name for kind in kinds for f in dataclasses.fields(kind)}
    assert fields - trl.KNOWN == set()
    assert not arguments.UNNEEDED & set(arguments.WHY)


@pytest.mark.parametrize(
    ("row", "form"), [(CHAT, "messages"), ({"prompt": "a", "completion": "b"}, "prompt_completion")], ids=["messages", "pairs"]
)
def test_openai(row, form, tmp_path):
    found = taken("\n".join([json.dumps(row)] * 3), tmp_path, name="chats.jsonl")
    assert found.tool == "OpenAI"
    assert values(found) == {
        "data": {"train": "chats.jsonl"}, "task": {"type": "chat", "format": form}, "model": {"name": "starter"}, "method": {"type": "lora"},
    }  # fmt: skip
    assert [i.key for i in found.to_fill] == ["model.name"]
    assert not found.lost


def test_openai_says_what_it_does_not_read(tmp_path):
    message = {"role": "assistant", "content": [{"type": "text", "text": "x"}], "weight": 0, "function_call": {}}
    row = {"messages": [message], "functions": [], "parallel_tool_calls": False, "extra": 1}
    found = taken(json.dumps(row), tmp_path, name="chats.jsonl")
    assert set(left(found.lost)) == {"functions", "extra", "messages[].weight", "messages[].content", "messages[].function_call"}
    assert found.unneeded == ("parallel_tool_calls",)


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.json"])
def test_openai_preferences(name, tmp_path):
    row = {"input": {"messages": [{"role": "user", "content": "hello"}], "tools": []}, "preferred_output": [MADE],
           "non_preferred_output": [{"role": "assistant", "content": "no"}]}  # fmt: skip
    found = taken(json.dumps(row), tmp_path, name=name)
    assert found.tool == "OpenAI"
    assert values(found) == {
        "data": {"train": name}, "task": {"type": "preference", "format": "openai"}, "model": {"name": "starter"}, "method": {"type": "lora"},
    }  # fmt: skip
    assert [i.key for i in found.to_fill] == ["model.name"]
    assert not found.lost
    assert said(read(found, row)) == ("hello", "good day", "no", True)


def test_openai_preferences_say_what_is_not_read(tmp_path):
    asked = {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "parallel_tool_calls": True, "store": True}
    row = {"input": asked, "preferred_output": [MADE | {"function_call": {}}], "non_preferred_output": 1, "extra": 1}
    found = taken(json.dumps(row), tmp_path, name="p.jsonl")
    assert set(left(found.lost)) == {"extra", "input.store", "messages[].content", "messages[].function_call"}
    assert found.unneeded == ("input.parallel_tool_calls",)
    with pytest.raises(RecipeError, match="do not hold input"):
        taken(json.dumps({"preferred_output": [], "non_preferred_output": []}), tmp_path, name="q.jsonl")


@pytest.mark.parametrize(
    ("text", "name", "why"),
    [
        ("a: 1", "x.yaml", "no tool"),
        ("- 1", "x.yaml", "no keys"),
        ("a: [", "x.yaml", "not YAML"),
        ("{", "x.json", "not JSON"),
        ("data: rows.csv", "x.yaml", "already"),
        ('{"text": "a"}', "x.jsonl", "neither messages nor"),
        ("base_model: m\nrl: grpo", "x.yaml", "rl: grpo trains a policy on rewards.*task policy"),
        ("base_model: m\nrl: ebft", "x.yaml", "rl: ebft is not known here"),
        ("base_model: m\nprocess_reward_model: true\nsequence_len: 5", "x.yaml", "scores steps"),
        ("base_model: m\nadapter: ia3\nsequence_len: 5", "x.yaml", "adapter"),
        ("model_name_or_path: m\nfinetuning_type: other", "x.yaml", "finetuning_type"),
        ("base_model: m\nlearning_rate: fast\nnum_epochs: 2", "x.yaml", "learning_rate"),
    ],
)
def test_wrong_files_are_refused(text, name, why, tmp_path):
    with pytest.raises(RecipeError, match=why):
        taken(text, tmp_path, name=name)


def test_a_file_of_two_tools_asks_whose_it_is(tmp_path):
    text = "model_name_or_path: starter\npacking: true\ndataset: talk\ndataset_name: rows.jsonl\ncutoff_len: 100\nlearning_rate: 0.1"
    with pytest.raises(RecipeError, match="--from"):
        taken(text, tmp_path)
    assert taken(text, tmp_path, tool="llamafactory").recipe.model.max_length == 100
    assert "dataset" in left(taken(text, tmp_path, tool="trl").lost)


def test_texts_of_a_file_cannot_break_out_of_the_comments(tmp_path):
    keys = {
        "base_model": "m/n",
        "sequence_len": 9,
        "learning_rate": 0.1,
        "odd\nkey: 1": "a\nb: [",
        "chat_template_jinja": "{{ a }}\n\n{% b %}\n",
    }
    found = taken(yaml.safe_dump(keys), tmp_path)
    assert left(found.lost)["chat_template_jinja"] == "{{ a }}\n\n{% b %}\n"
    assert "odd key: 1" in found.text


def test_the_command_writes_and_tells(tmp_path):
    (tmp_path / "chats.jsonl").write_text(json.dumps(CHAT))
    (tmp_path / "sft.yaml").write_text(TRL)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        code = f"import sys\nsys.argv = ['luthier', *{arguments!r}]\nfrom luthier.cli.main import main\ntry:\n    main()\nfinally:\n    print('HEAVY', 'torch' in sys.modules)"
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("import", "sft.yaml", "--out", "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert "written to mine.yaml: 20 values from a file of TRL" in done.stdout
    assert "eos_token: <|im_end|>" in done.stdout
    assert "not needed here\n  eval_strategy, hub_token, packing, push_to_hub" in done.stdout
    assert "HEAVY False" in done.stdout
    assert load_recipe(tmp_path / "mine.yaml").recipe.model.name == "Qwen/Qwen2.5-0.5B"
    again = run("import", "sft.yaml", "--out", "mine.yaml")
    assert again.returncode == 1
    assert "there already" in again.stderr
