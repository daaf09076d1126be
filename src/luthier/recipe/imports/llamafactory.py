"""A LLaMA-Factory configuration as a recipe; data sets are looked up in its dataset_info.json where that is at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.errors import Fault, RecipeError
from luthier.recipe.imports import arguments, preferences
from luthier.recipe.imports.datasets import Named, put_data
from luthier.recipe.imports.draft import Draft
from luthier.recipe.imports.trl import model, targets

NAME = "LLaMA-Factory"
MARKS = frozenset({
    "stage", "finetuning_type", "cutoff_len", "template", "dataset_dir", "lora_target", "lora_rank", "quantization_bit", "dataset",
    "freeze_trainable_layers", "val_size", "max_samples", "plot_loss", "overwrite_cache", "preprocessing_num_workers", "mask_history",
    "eval_dataset", "quantization_method", "train_on_prompt", "adapter_name_or_path", "pref_beta", "pref_loss", "pref_ftx",
    "kto_chosen_weight", "kto_rejected_weight",
})  # fmt: skip
"""Keys by which its files are recognised."""
UNNEEDED = frozenset({
    "packing", "neat_packing", "preprocessing_num_workers", "preprocessing_batch_size", "overwrite_cache", "plot_loss", "flash_attn",
    "use_unsloth", "use_unsloth_gc", "enable_liger_kernel", "use_reentrant_gc", "upcast_layernorm", "upcast_lmhead_output",
    "cache_dir", "use_fast_tokenizer", "hf_hub_token", "ms_hub_token", "om_hub_token", "print_param_status", "infer_backend",
    "infer_dtype", "offload_folder", "use_kv_cache", "tokenized_path", "media_dir", "buffer_size", "ignore_pad_token_for_loss",
    "eval_on_each_dataset", "compute_accuracy", "include_effective_tokens_per_second", "pure_bf16", "quantization_method",
    "quantization_type", "quantization_device_map", "predict_with_generate", "tool_format", "template", "low_cpu_mem_usage",
    "freeze_vision_tower", "freeze_multi_modal_projector", "pissa_convert", "pissa_iter", "create_new_adapter", "use_v1_kernels",
    "streaming", "ddp_timeout", "adapter_folder", "dataloader_num_workers", "stage", "do_train", "reward_model",
    "reward_model_adapters", "reward_model_quantization_bit", "reward_model_type",
})  # fmt: skip
PREFIXES = (
    "swanlab_", "use_swanlab", "ray_", "resources_per_worker", "placement_strategy", "image_", "video_", "audio_", "export_", "infer_",
    "vllm_", "sglang_", "ppo_",
)  # fmt: skip
WHY = {
    "adapter_name_or_path": "to train an adapter further, give its folder as model.name",
    "additional_target": "fresh heads train whole by themselves; other modules do not train beside adapters",
    "freeze_extra_modules": "method freeze names what stays frozen: method.names",
    "resize_vocab": "no tokens are added to a model's vocabulary",
    "add_tokens": "no tokens are added to a model's vocabulary",
    "add_special_tokens": "no tokens are added to a model's vocabulary",
    "new_special_tokens_config": "no tokens are added to a model's vocabulary",
    "rope_scaling": "positions are taken as the model has them",
    "shift_attn": "is not in Luthier",
    "mixture_of_depths": "is not in Luthier",
    "use_galore": "AdamW is what there is",
    "use_apollo": "AdamW is what there is",
    "use_badam": "AdamW is what there is",
    "use_adam_mini": "AdamW is what there is",
    "use_muon": "AdamW is what there is",
    "use_llama_pro": "is not in Luthier",
    "use_dft_loss": "the loss is the cross-entropy",
    "mix_strategy": "data sets are taken one after the other and shuffled",
    "interleave_probs": "data sets are taken one after the other and shuffled",
    "loraplus_lr_embedding": "method.plus_ratio is for all second matrices alike",
    "moe_aux_loss_coef": "experts are not balanced by a loss of their own here",
    "disable_shuffling": "rows are always shuffled",
    "train_from_scratch": "describe the new model in model.from_scratch",
    "fp8": "training.precision takes fp32 or bf16",
    "split_special_tokens": "special tokens in texts are refused or kept whole",
    "pref_bco_weight": "is not in Luthier",
    "ld_alpha": "all tokens of an answer count alike",
    "ref_model": "answers are measured against the model as it began",
    "ref_model_adapters": "answers are measured against the model as it began",
    "ref_model_quantization_bit": "answers are measured against the model as it began",
}
KNOWN = frozenset({*arguments.KNOWN, *MARKS, *UNNEEDED, *WHY}) | {
    "model_name_or_path", "model_revision", "trust_remote_code", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "pissa_init",
    "loraplus_lr_ratio", "freeze_trainable_modules", "double_quantization", "disable_gradient_checkpointing", "default_system",
    "early_stopping_steps", "dpo_label_smoothing", "simpo_gamma",
}  # fmt: skip
TASKS = {"sft": "chat", "pt": "causal", "dpo": "preference", "kto": "preference", "rm": "reward"}
"""stage -> task."""
LOSSES = ("sigmoid", "hinge", "ipo", "orpo", "simpo")
"""Values of pref_loss, which are those of task.loss."""
OPTIONS = {
    "dpo": {"dpo_label_smoothing": "label_smoothing", "simpo_gamma": "gamma"},
    "kto": {"kto_chosen_weight": "good_weight", "kto_rejected_weight": "bad_weight"},
}
"""stage -> options that it alone reads."""
JUDGED = {"dpo": "ranking", "rm": "ranking", "kto": "kto_tag"}
"""stage -> what marks its data sets in dataset_info.json."""
FREEZE_KEYS = ("freeze_trainable_layers", "freeze_trainable_modules")
LORA_KEYS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target", "use_rslora", "use_dora", "pissa_init", "loraplus_lr_ratio")


def read(draft: Draft) -> None:
    """Fill the draft."""
    stage = str(draft.take("stage") or "sft")
    if stage == "ppo":
        raise preferences.policy(draft, "stage")
    if stage not in TASKS:
        raise draft.refuse("stage", "is not known here", f"stages {', '.join(TASKS)} can be imported")
    model(draft)
    draft.same({"cutoff_len": "model.max_length"})
    draft.put("task.type", TASKS[stage], "stage")
    _data(draft, stage)
    _method(draft)
    if TASKS[stage] == "preference":
        _preference(draft, stage)
    arguments.training_arguments(draft)
    patience = draft.take("early_stopping_steps")
    if patience is not None:
        draft.put("training.early_stopping", patience, "early_stopping_steps, in evaluations")
    off = draft.take("disable_gradient_checkpointing")
    if off is not None:
        draft.put("training.checkpointing", not off, "disable_gradient_checkpointing")
    for path, value in (
        ("model.max_length", 2048), ("training.learning_rate", 5e-5), ("training.epochs", 3), ("training.batch_size", 8),
        ("training.warmup", 0.0), ("training.weight_decay", 0.0), ("training.checkpointing", True),
    ):  # fmt: skip
        draft.default(path, value)
    if draft.keys.get("trust_remote_code") is True:
        draft.leave("trust_remote_code", "Luthier runs no code from a model: its architecture must be in transformers")
    if draft.keys.get("template") not in (None, "default", "empty") and stage != "pt":
        draft.leave("template", "the model's own chat template is used; another one: task.template, a file")
    draft.rest(unneeded=arguments.UNNEEDED | UNNEEDED, prefixes=PREFIXES, why=arguments.WHY | WHY, known=KNOWN)


def _preference(draft: Draft, stage: str) -> None:
    """The loss and its options."""
    loss = draft.take("pref_loss")
    if stage == "kto":
        preferences.preference(draft, "kto", "stage")
    elif loss in (None, *LOSSES):
        preferences.preference(draft, loss or "sigmoid", "pref_loss" if loss else f"{NAME}'s default")
    else:
        raise draft.refuse("pref_loss", "is no loss that is here", f"{', '.join(LOSSES)} are; for good and bad answers, stage: kto")
    for key in {**OPTIONS["dpo"], **OPTIONS["kto"]}:
        draft.take(key)
    for key, name in {**OPTIONS[stage], "pref_beta": "beta", "pref_ftx": "sft"}.items():
        preferences.option(draft, key, name)
    if draft.keys.get("ref_model") == draft.keys.get("model_name_or_path"):
        draft.take("ref_model")
    preferences.no_dropout(draft, f"{NAME} switches it off in this stage")


def _data(draft: Draft, stage: str) -> None:
    """The data sets by their names in dataset_info.json."""
    info, plain, chat = _info(draft), stage == "pt", stage == "sft"
    wanted = _names(draft.take("dataset"))
    if not wanted:
        draft.fill("data.train", "train.json", "no dataset is named")
    else:
        put_data(draft, [_named(draft, n, "dataset", info, stage) for n in wanted])
        described = [info[n] for n in wanted if isinstance(info.get(n), dict)]
        if described:
            _columns(draft, described, stage)
        elif plain:
            draft.put("data.text", "text", f"{NAME}'s default")
    held_out = _names(draft.take("eval_dataset"))
    if held_out:
        put_data(draft, [_named(draft, n, "eval_dataset", info, stage) for n in held_out], part="validation")
    share = draft.take("val_size")
    if isinstance(share, float) and 0 < share < 1:
        draft.put("data.validation_share", share, "val_size")
    elif share:
        draft.leave("val_size", "data.validation_share takes a share")
    most = draft.take("max_samples")
    if most is not None:
        draft.put("data.limit", most * max(1, len(wanted)), "max_samples of each dataset" if len(wanted) > 1 else "max_samples")
    if draft.take("train_on_prompt") and chat:
        draft.put("task.graded", "all", "train_on_prompt")
    if draft.take("mask_history") and chat:
        draft.put("task.graded", "last", "mask_history")
    system = draft.take("default_system")
    if system is not None and not plain:
        draft.put("task.system", str(system), "default_system")


def _names(value: Any) -> list[str]:
    return [n.strip() for n in (value.split(",") if isinstance(value, str) else value or ())]


def _info(draft: Draft) -> dict[str, Any]:
    """What dataset_info.json says; empty where it is not at hand."""
    folder = str(draft.take("dataset_dir") or "data")
    for place in (f"{folder}/dataset_info.json", "dataset_info.json"):
        path = draft.local(place)
        if path is not None and path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise RecipeError([Fault(f"cannot be read: {error}", str(path))]) from None
            draft.info = path.parent
            return found if isinstance(found, dict) else {}
    return {}


def _named(draft: Draft, name: str, key: str, info: dict[str, Any], stage: str) -> Named:
    """A data set by what dataset_info.json says of it: a file beside that, or an id on a hub."""
    entry = info.get(name)
    if not isinstance(entry, dict):
        why = "is not in dataset_info.json" if info else "stands in a dataset_info.json that is not at hand"
        return Named(f"{name}.json", key, why=f"{why}: name its file")
    _fits(draft, name, entry, stage)
    if entry.get("file_name"):
        folder: Path = draft.info or draft.file.parent
        return Named(str((folder / str(entry["file_name"])).resolve()), key)
    return Named(str(entry.get("hf_hub_url") or entry.get("ms_hub_url") or name), key)


def _fits(draft: Draft, name: str, entry: dict[str, Any], stage: str) -> None:
    """Raise RecipeError for answers that are compared or judged in a stage for others, and the other way round."""
    mark = "ranking" if entry.get("ranking") else "kto_tag" if (entry.get("columns") or {}).get("kto_tag") else None
    if mark != JUDGED.get(stage):
        what = {"ranking": "answers that are compared", "kto_tag": "answers that are good or bad", None: "answers that nobody judged"}
        why = f"{name} holds {what[mark]}, by dataset_info.json, and stage {stage} does not learn from these"
        stages = " or ".join(s for s in TASKS if JUDGED.get(s) == mark)
        raise RecipeError([Fault(why, str(draft.file), f"set stage: {stages}")])


def _columns(draft: Draft, described: list[dict[str, Any]], stage: str) -> None:
    """The format and the columns of the first data set; others must be alike."""
    entry, plain = described[0], stage == "pt"
    columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
    origin = "columns in dataset_info.json"
    if any((e.get("formatting"), e.get("columns")) != (entry.get("formatting"), entry.get("columns")) for e in described[1:]):
        draft.leave("dataset", "the data sets have different columns: those of the first are read, other rows are quarantined")
    if plain:
        draft.put("data.text", columns.get("prompt", "text"), origin)
        return
    if columns.get("history"):
        draft.leave("dataset", "the column of earlier turns is not read: write conversations as messages", value=columns["history"])
    if stage in JUDGED:
        _compared(draft, entry, columns, tags)
        return
    if entry.get("formatting") == "sharegpt":
        tagged = tags.get("role_tag") == "role" and tags.get("content_tag") == "content"
        draft.put("task.format", "messages" if tagged else "sharegpt", "formatting in dataset_info.json")
        usual, table = (
            {"messages": "messages" if tagged else "conversations"},
            {"messages": "messages", "system": "system", "tools": "tools"},
        )
    else:
        draft.put("task.format", "alpaca", "formatting in dataset_info.json")
        usual, table = {}, {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "tools": "tools"}
    named = {role: str(columns[theirs]) for theirs, role in table.items() if columns.get(theirs)}
    found = {role: column for role, column in named.items() if column != usual.get(role, role)}
    if found:
        draft.put("task.columns", found, origin)


def _compared(draft: Draft, entry: dict[str, Any], columns: dict[str, Any], tags: dict[str, Any]) -> None:
    """The columns of a prompt and two answers, or of an answer and whether it is good."""
    talk = entry.get("formatting") == "sharegpt"
    asked, answered = columns.get("messages" if talk else "prompt"), columns.get("response")
    if entry.get("ranking"):
        preferences.columns(draft, columns | {"prompt": asked}, "pairs", "ranking in dataset_info.json")
    else:
        named = {"prompt": None, "completion": asked} if talk else {"completion": answered}
        preferences.columns(draft, columns | named | {"label": columns["kto_tag"]}, "unpaired", "kto_tag in dataset_info.json")
    if columns.get("query") and not talk:
        why = f"this column is not put after {asked}, as {NAME} does: write what is asked as one"
        draft.leave("dataset", why, value=columns["query"])
    if not {tags.get("role_tag", "from"), tags.get("content_tag", "value")} <= {"role", "from", "content", "value"}:
        draft.leave("dataset", "messages are read with role and content, or from and value", value=tags)


def _method(draft: Draft) -> None:
    kind = draft.take("finetuning_type")
    origin = "finetuning_type" if kind else f"{NAME}'s default"
    kind, bits = kind or "lora", draft.take("quantization_bit")
    for key in (*(LORA_KEYS if kind != "lora" else ()), *(FREEZE_KEYS if kind != "freeze" else ())):
        draft.take(key)  # without meaning under another method
    if bits in (4, 8) and kind == "lora":
        draft.put("model.quantization", f"{bits}bit", "quantization_bit")
    elif bits is not None:
        draft.leave("quantization_bit", "model.quantization takes 4bit or 8bit, under adapters")
    draft.same({"double_quantization": "model.double_quantization"})
    if kind == "lora":
        draft.put("method.type", "qlora" if bits == 4 else "lora", origin)
        draft.same({
            "lora_rank": "method.rank", "lora_alpha": "method.alpha", "lora_dropout": "method.dropout", "use_rslora": "method.rslora",
            "use_dora": "method.dora", "loraplus_lr_ratio": "method.plus_ratio",
        })  # fmt: skip
        draft.default("method.rank", 8)
        targets(draft, "lora_target", all_of_them=("all",))
        if draft.take("pissa_init"):
            draft.put("method.init", "pissa", "pissa_init")
    elif kind == "full":
        draft.put("method.type", "full", origin)
    elif kind == "freeze":
        _freeze(draft, origin)
    elif kind == "oft":
        draft.put("method.type", "oft", origin)
        draft.same({"oft_block_size": "method.block_size", "module_dropout": "method.dropout"})
        targets(draft, "oft_target", all_of_them=("all",))
    else:
        raise draft.refuse("finetuning_type", "is not known here", "lora, full, freeze and oft are")


def _freeze(draft: Draft, origin: str) -> None:
    draft.put("method.type", "freeze", origin)
    layers = draft.take("freeze_trainable_layers")
    if layers is None or layers > 0:
        draft.put("method.all_but_last", layers or 2, "freeze_trainable_layers" if layers else f"{NAME}'s default")
    else:
        draft.leave("freeze_trainable_layers", "the top layers train, not the bottom ones: method.all_but_last")
    if draft.keys.get("freeze_trainable_modules") not in (None, "all"):
        draft.leave("freeze_trainable_modules", "whole layers train; method.names freezes parameters by pattern")
    else:
        draft.take("freeze_trainable_modules")
