"""An Axolotl configuration as a recipe. The keys are those of its schema (base_model, datasets, adapter, ...)."""

from __future__ import annotations

from typing import Any

from luthier.recipe.imports import arguments, preferences
from luthier.recipe.imports.datasets import Named, columns_of, put_data
from luthier.recipe.imports.draft import Draft
from luthier.recipe.imports.trl import put_model, quantised, targets

NAME = "Axolotl"
MARKS = frozenset({
    "base_model", "micro_batch_size", "sequence_len", "datasets", "test_datasets", "pretraining_dataset", "adapter", "val_set_size",
    "num_epochs", "lora_target_linear", "sample_packing", "train_on_inputs", "dataset_prepared_path", "saves_per_epoch",
    "evals_per_epoch", "pad_to_sequence_len", "flash_attention", "unfrozen_parameters", "base_model_config", "rl",
})  # fmt: skip
"""Keys by which its files are recognised."""
UNNEEDED = frozenset({
    "model_type", "tokenizer_type", "tokenizer_config", "base_model_config", "processor_type", "is_llama_derived_model",
    "is_mistral_derived_model", "is_qwen_derived_model", "is_falcon_derived_model", "strict", "dataset_prepared_path",
    "dataset_processes", "dataset_keep_in_memory", "dataset_exact_deduplication_batch", "sample_packing", "eval_sample_packing",
    "sample_packing_eff_est", "sample_packing_group_size", "sample_packing_bin_size", "sample_packing_sequentially",
    "multipack_real_batches", "pad_to_sequence_len", "total_num_tokens", "total_supervised_tokens", "flash_attention",
    "flex_attention", "xformers_attention", "sdp_attention", "eager_attention", "attn_implementation", "flash_attn_cross_entropy",
    "flash_attn_rms_norm", "flash_attn_fuse_mlp", "flash_attn_fuse_qkv", "lora_fan_in_fan_out", "lora_on_cpu", "lora_mlp_kernel",
    "lora_qkv_kernel", "lora_o_kernel", "save_first_step", "save_only_model", "eval_table_size", "eval_max_new_tokens",
    "eval_batch_size", "eval_causal_lm_metrics", "loss_watchdog_threshold", "loss_watchdog_patience", "auto_resume_from_checkpoints",
    "low_cpu_mem_usage", "gpu_memory_limit", "max_memory", "device_map", "world_size", "device", "plugins", "liger_rope",
    "liger_rms_norm", "liger_glu_activation", "liger_layer_norm", "liger_fused_linear_cross_entropy", "liger_cross_entropy",
    "cut_cross_entropy", "unsloth_cross_entropy_loss", "unsloth_lora_mlp", "unsloth_lora_qkv", "unsloth_lora_o", "merge_lora",
    "merge_method", "use_tensorboard", "torch_dtype", "float32", "default_system_message", "gc_steps", "shuffle_merged_datasets",
    "ddp", "include_tokens_per_second", "use_wandb", "peft_autocast_adapter_dtype", "tokenizer_use_fast",
    "tokenizer_legacy", "batch_flattening", "dpo_use_logits_to_keep", "dpo_padding_free", "dpo_generate_during_eval",
    "dpo_use_liger_kernel", "rl_adapter_ref_model", "vllm",
})  # fmt: skip
PREFIXES = (
    "wandb_", "mlflow_", "comet_", "hub_", "use_mlflow", "use_comet", "use_otel", "otel_", "trackio_", "swanlab_", "ray_",
    "dataloader_", "ddp_",
)  # fmt: skip
WHY = {
    "special_tokens": "the tokenizer's own are taken; one without a pad token gets one",
    "tokens": "no tokens are added to a model's vocabulary",
    "added_tokens_overrides": "no tokens are added to a model's vocabulary",
    "lora_model_dir": "to train an adapter further, give its folder as model.name",
    "lora_modules_to_save": "fresh heads train whole by themselves; other modules do not train beside adapters",
    "lora_target_parameters": "adapters are put beside layers: method.target_modules",
    "peft_layers_pattern": "layers are found by themselves",
    "peft_trainable_token_indices": "single tokens' embeddings do not train beside adapters",
    "unfrozen_parameters": "method freeze names what stays frozen: method.names",
    "relora": "is not in Luthier",
    "gptq": "bases quantised by GPTQ are not read: model.quantization quantises while loading",
    "bnb_config_kwargs": "model.quantization and model.double_quantization are what there is",
    "lr_groups": "one learning rate for all, but method.plus_ratio",
    "embedding_lr": "one learning rate for all, but method.plus_ratio",
    "cosine_min_lr_ratio": "cosine falls to zero here",
    "cosine_constant_lr_ratio": "cosine falls to zero here",
    "loraplus_lr_embedding": "method.plus_ratio is for all second matrices alike",
    "noisy_embedding_alpha": "noise on embeddings is not in Luthier",
    "overrides_of_model_config": "a model's config is taken as it is, but for model.layers and model.dropout",
    "overrides_of_model_kwargs": "a model's config is taken as it is, but for model.layers and model.dropout",
    "rope_scaling": "positions are taken as the model has them",
    "s2_attention": "is not in Luthier",
    "chat_template": "the model's own chat template is used; another one: task.template, a file",
    "chat_template_jinja": "put it into a file and name that in task.template",
    "evals_per_epoch": "evaluation.every takes epoch, or a number of updates",
    "saves_per_epoch": "the best is saved by itself; checkpoints.every_steps takes a number of updates",
    "excess_length_strategy": "the end of a text that is too long is cut, and counted",
    "tensor_parallel_size": arguments.ONE_DEVICE,
    "context_parallel_size": arguments.ONE_DEVICE,
    "dpo_use_weighting": "pairs weigh alike",
    "max_prompt_len": "prompt and answer share model.max_length, and the end of what is too long is cut",
    "num_labels": "a reward is one number",
}
CHAT_TYPES = ("chat_template", "sharegpt", "chatml", "alpaca", "alpaca_chat", "gpteacher", "oasst", "instruction", "messages", "load_role")
FIELDS = {"field_instruction": "instruction", "field_input": "input", "field_output": "output", "field_system": "system"}
RL = {"dpo": "sigmoid", "ipo": "ipo", "orpo": "orpo", "kto": "kto", "simpo": "simpo"}
"""rl -> loss."""
KNOWN = frozenset({*arguments.KNOWN, *MARKS, *UNNEEDED, *WHY}) | {
    "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "load_in_8bit", "load_in_4bit", "peft_use_dora", "peft_use_rslora",
    "peft_init_lora_weights", "peft_layers_to_transform", "loraplus_lr_ratio", "lr_scheduler", "optimizer", "early_stopping_patience",
    "revision_of_model", "batch_size", "dataset_exact_deduplication", "trust_remote_code", "process_reward_model", "trl", "rl_beta",
    "orpo_alpha", "simpo_gamma", "cpo_alpha", "rpo_alpha", "kto_desirable_weight", "kto_undesirable_weight", "dpo_label_smoothing",
    "dpo_loss_type", "dpo_loss_weights", "reward_model", "dpo_norm_loss", "precompute_ref_log_probs", "center_rewards_coefficient",
}  # fmt: skip


def read(draft: Draft) -> None:
    """Fill the draft."""
    _model(draft)
    _judged(draft)
    _data(draft)
    _method(draft)
    _training(draft)
    if preferences.compares(draft):
        preferences.no_dropout(draft, f"{NAME}'s default")
    if draft.keys.get("trust_remote_code") is True:
        draft.leave("trust_remote_code", "Luthier runs no code from a model: its architecture must be in transformers")
    draft.rest(unneeded=arguments.UNNEEDED | UNNEEDED, prefixes=PREFIXES, why=arguments.WHY | WHY, known=KNOWN)


def _model(draft: Draft) -> None:
    name = draft.take("base_model")
    if name is None:
        draft.fill("model.name", "starter", "no base_model is named")
    else:
        put_model(draft, str(name), "base_model")
    draft.same({"revision_of_model": "model.revision", "sequence_len": "model.max_length"})
    draft.default("model.max_length", 512)


def _judged(draft: Draft) -> None:
    """The task and its options, where answers are compared or judged."""
    rl = str(draft.take("rl") or "")
    if draft.keys.get("process_reward_model"):
        raise draft.refuse("process_reward_model", "scores steps", "write a recipe with the task reward, for whole answers: docs/reward.md")
    if rl in ("grpo", "gdpo"):
        raise preferences.policy(draft, "rl")
    if rl and rl not in RL:
        raise draft.refuse("rl", "is not known here", f"{', '.join(RL)} are")
    if rl:
        _preference(draft, rl)
    elif draft.take("reward_model"):
        draft.put("task.type", "reward", "reward_model")
        draft.same({"center_rewards_coefficient": "task.center"})
        if draft.keys.get("num_labels") == 1:
            draft.take("num_labels")


def _preference(draft: Draft, rl: str) -> None:
    """The loss and its options."""
    if rl == "dpo":
        preferences.listed(draft, "dpo_loss_type", "dpo_loss_weights", origin="rl")
        preferences.smoothing(draft, "dpo_label_smoothing", sigmoid=True)
        preferences.option(draft, "dpo_norm_loss", "normalize")
    else:
        preferences.preference(draft, RL[rl], "rl")
    inner = draft.take("trl")
    for name, value in inner.items() if isinstance(inner, dict) else ():
        if name == "beta" and value is not None:
            draft.put("task.beta", value, "beta in trl")
        elif value not in (None, False):
            draft.leave(f"trl.{name}", "is for models that learn from rewards", value=value)
    for key in ("rl_beta", "orpo_alpha") if rl == "orpo" else ("rl_beta",):
        if "task.beta" not in draft.values:
            preferences.option(draft, key, "beta")
        else:
            draft.take(key)
    for key, name in (("kto_desirable_weight", "good_weight"), ("kto_undesirable_weight", "bad_weight"), ("simpo_gamma", "gamma")):
        preferences.option(draft, key, name)
    preferences.option(draft, "rpo_alpha" if rl != "simpo" else "cpo_alpha", "sft", note=", row by row")
    if rl == "simpo":
        draft.default("task.sft", 1.0)
    if rl == "orpo":
        draft.leave("rl", "the likelihood that orpo adds is of answers alone here, there of prompts too")
    if draft.take("precompute_ref_log_probs") and rl in ("dpo", "ipo", "kto"):
        draft.put("task.reference", "precomputed", "precompute_ref_log_probs")


def _data(draft: Draft) -> None:
    listed = draft.take("datasets")
    pretraining = draft.take("pretraining_dataset")
    if pretraining is not None:
        entries, key, task = pretraining if isinstance(pretraining, list) else [pretraining], "pretraining_dataset", "causal"
        entries = [e if isinstance(e, dict) else {"path": e} for e in entries]
    else:
        entries, key, task = [e if isinstance(e, dict) else {"path": e} for e in listed or ()], "datasets", None
    if not entries:
        draft.fill("data.train", "train.jsonl", "no datasets are named")
        return
    files = put_data(draft, [_named(e, f"{key}[{i}].path") for i, e in enumerate(entries)])
    tests = draft.take("test_datasets")
    if tests is not None:
        put_data(draft, [_named(e, f"test_datasets[{i}].path") for i, e in enumerate(tests)], part="validation")
    judged = preferences.compares(draft)
    kinds = [_kind(e, whole=judged) for e in entries] if task is None else ["completion"]
    if len(set(map(str, kinds))) > 1:
        draft.leave(f"{key}[].type", "a recipe has one task: rows of the other types are quarantined", value=kinds[1:])
    if judged:
        preferences.described(draft, entries[0], f"{key}[0]", columns_of(files[0]) if files and files[0].is_file() else [])
    else:
        _task(draft, entries[0], kinds[0], key)
    for name, value in entries[0].items():
        _entry_key(draft, f"{key}[0].{name}", name, value)
    share = draft.take("val_set_size")
    if isinstance(share, float) and 0 < share < 1:
        draft.put("data.validation_share", share, "val_set_size")
    elif share is not None:
        what = "Luthier holds rows out to choose and to measure by" if not share else "data.validation_share takes a share"
        draft.leave("val_set_size", f"{what}: see data.validation_share and data.test_share")
    if draft.take("train_on_inputs") and draft.values["task.type"].value == "chat":
        draft.put("task.graded", "all", "train_on_inputs")
    if draft.take("dataset_exact_deduplication"):
        draft.put("data.duplicates", "drop", "dataset_exact_deduplication")


def _named(entry: dict[str, Any], key: str) -> Named:
    files = entry.get("data_files") or ()
    return Named(str(entry.get("path", "")), key, [files] if isinstance(files, str) else list(files), entry.get("revision"))


def _kind(entry: dict[str, Any], *, whole: bool) -> Any:
    kind = entry.get("type")
    return "its own" if isinstance(kind, dict) else str(kind) if whole else str(kind or "chat_template").partition(":")[0].partition(".")[0]


def _task(draft: Draft, entry: dict[str, Any], kind: str, key: str) -> None:
    """The task of a data set's type, and the columns that hold it."""
    at = f"{key}[0]"
    if kind in ("completion", "pretrain"):
        draft.put("task.type", "causal", f"{at}.type" if key == "datasets" else key)
        column = entry.get("field") or entry.get("text_column")
        draft.put("data.text", column or "text", f"{at}.field" if column else "Axolotl's default")
    else:
        draft.put("task.type", "chat", f"{at}.type")
        columns = _columns(entry, kind)
        if columns:
            draft.put("task.columns", columns, at)
        if kind == "its own":
            draft.put("task.format", "alpaca", f"{at}.type")
            for name in ("format", "no_input_format", "system_prompt", "system_format"):
                if entry["type"].get(name):
                    why = "the model's chat template is put around rows; task.system is a system message"
                    draft.leave(f"{at}.type.{name}", why, value=entry["type"][name])
        elif kind.startswith("alpaca"):
            draft.put("task.format", "alpaca", f"{at}.type")
            draft.leave(f"{at}.type", "the model's chat template is put around rows, not Alpaca's prompt", value=entry.get("type"))
        elif kind not in CHAT_TYPES:
            draft.leave(f"{at}.type", "the format is recognised by the columns: see task.format", value=entry.get("type"))


def _columns(entry: dict[str, Any], kind: str) -> dict[str, str]:
    held = entry["type"] if kind == "its own" else entry
    found = {role: str(held[name]) for name, role in FIELDS.items() if held.get(name) and held[name] != role}
    for name, role, usual in (("field_messages", "messages", ("messages", "conversations")), ("field_tools", "tools", ("tools",))):
        if entry.get(name) and entry[name] not in usual:
            found[role] = str(entry[name])
    return found


ENTRY = {
    "path", "type", "data_files", "revision", "field", "text_column", "field_messages", "field_tools", "ds_type", "name", "conversation",
    "message_field_role", "message_field_content", "message_property_mappings", "roles", "trust_remote_code", "preprocess_shards",
    *FIELDS, *preferences.FIELDS,
}  # fmt: skip
"""Keys of a data set that are dealt with, or that say what Luthier finds by itself."""


def _entry_key(draft: Draft, at: str, name: str, value: Any) -> None:
    usual = {"split": "train", "train_on_eos": "turn", "roles_to_train": ["assistant"], "chat_template": "tokenizer_default"}
    if name in ENTRY or value in (None, False) or usual.get(name) == value:
        return
    why = {
        "split": "name the files of that split in data.train",
        "chat_template": "the model's own chat template is used; another one: task.template, a file",
        "train_on_eos": "the stop token of each learned turn is learned",
        "roles_to_train": "assistant turns are learned, the last of them, or all: task.graded",
        "shards": "data.limit draws fewer rows",
    }
    draft.leave(at, why.get(name, "is not read"), value=value)


def _method(draft: Draft) -> None:
    adapter, four, eight = draft.take("adapter"), draft.take("load_in_4bit"), draft.take("load_in_8bit")
    if adapter is None:
        draft.put("method.type", "full", "no adapter")
        for key in ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_linear"):
            if draft.take(key) is not None:
                draft.unneeded.append(key)
        return
    if adapter not in ("lora", "qlora"):
        raise draft.refuse("adapter", "is not known here", "lora and qlora are")
    quantised(draft, four=four or adapter == "qlora", eight=eight, key="adapter")
    draft.same({
        "lora_r": "method.rank", "lora_alpha": "method.alpha", "lora_dropout": "method.dropout", "peft_use_dora": "method.dora",
        "peft_use_rslora": "method.rslora", "peft_layers_to_transform": "method.layers", "loraplus_lr_ratio": "method.plus_ratio",
    })  # fmt: skip
    targets(draft, "lora_target_modules", all_of_them=("all-linear",))
    if draft.take("lora_target_linear"):
        draft.put("method.target_modules", "all-linear", "lora_target_linear")
    start = draft.take("peft_init_lora_weights")
    if start in ("gaussian", "pissa", "olora", "orthogonal"):
        draft.put("method.init", start, "peft_init_lora_weights")
    elif start not in (None, True):
        draft.leave("peft_init_lora_weights", "method.init takes default, gaussian, pissa, olora or orthogonal")


def _training(draft: Draft) -> None:
    arguments.smoothing(draft)
    draft.same(arguments.SAME | {
        "micro_batch_size": "training.batch_size", "num_epochs": "training.epochs", "early_stopping_patience": "training.early_stopping",
    })  # fmt: skip
    total = draft.take("batch_size")
    if isinstance(total, int) and "gradient_accumulation_steps" not in draft.keys:
        micro = draft.values["training.batch_size"].value if "training.batch_size" in draft.values else 1
        draft.put("training.gradient_accumulation", max(1, total // micro), "batch_size / micro_batch_size")
    arguments.output(draft)
    arguments.steps(draft)
    arguments.schedule(draft, "lr_scheduler")
    arguments.optimizer(draft, "optimizer")
    arguments.numbers(draft)
    arguments.checkpointing(draft, "gradient_checkpointing", "activation_checkpointing")
    if draft.keys.get("evals_per_epoch") == 1:
        draft.take("evals_per_epoch")
        draft.put("evaluation.every", "epoch", "evals_per_epoch")
    arguments.evaluation(draft)
    if draft.keys.get("saves_per_epoch") == 1:
        draft.take("saves_per_epoch")
        draft.unneeded.append("saves_per_epoch")
    for path, value in (
        ("training.batch_size", 1), ("training.epochs", 1), ("training.schedule", "cosine"), ("training.warmup", 0.03),
        ("training.weight_decay", 0.0),
    ):  # fmt: skip
        draft.default(path, value)
