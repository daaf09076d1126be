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
    with pytest.raises(RecipeError, match="preferences"):
        taken(yaml.safe_dump(base | {"dataset": "pairs"}), tmp_path)
    unknown = taken(yaml.safe_dump(base | {"dataset": "elsewhere"}), tmp_path)
    assert left(unknown.to_fill) == {"data.train": "elsewhere.json"}


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


def test_every_key_of_trl_is_known():
    from trl import ModelConfig, ScriptArguments, SFTConfig

    fields = {f.name for kind in (SFTConfig, ModelConfig, ScriptArguments) for f in dataclasses.fields(kind)}
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
    with pytest.raises(RecipeError, match="preferences"):
        taken(json.dumps({"input": {}, "preferred_output": [], "non_preferred_output": []}), tmp_path, name="p.jsonl")


@pytest.mark.parametrize(
    ("text", "name", "why"),
    [
        ("a: 1", "x.yaml", "no tool"),
        ("- 1", "x.yaml", "no keys"),
        ("a: [", "x.yaml", "not YAML"),
        ("{", "x.json", "not JSON"),
        ("data: rows.csv", "x.yaml", "already"),
        ('{"text": "a"}', "x.jsonl", "neither messages nor"),
        ("base_model: m\nrl: dpo", "x.yaml", "preferences"),
        ("base_model: m\nadapter: ia3\nsequence_len: 5", "x.yaml", "adapter"),
        ("model_name_or_path: m\nstage: dpo", "x.yaml", "preferences"),
        ("model_name_or_path: m\nfinetuning_type: other", "x.yaml", "finetuning_type"),
        ("model_name_or_path: m\nnum_generations: 4", "x.yaml", "GRPO"),
        ("model_name_or_path: m\nuse_peft: true\nbeta: 0.1", "x.yaml", "DPO"),
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
