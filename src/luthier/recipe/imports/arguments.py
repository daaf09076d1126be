"""The names that TRL, LLaMA-Factory and Axolotl share: those of transformers' TrainingArguments.

Enters: a draft. Leaves: the training, evaluation and checkpoint sections in it.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from luthier.recipe.imports import preferences
from luthier.recipe.imports.draft import Draft

SAME = {
    "gradient_accumulation_steps": "training.gradient_accumulation",
    "learning_rate": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "adam_epsilon": "training.epsilon",
    "seed": "training.seed",
    "save_total_limit": "checkpoints.keep",
    "load_best_model_at_end": "evaluation.restore_best",
}
SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "one_cycle": "one_cycle",
    "reduce_lr_on_plateau": "plateau",
}
ADAMW = (
    "adamw",
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_hf",
    "adamw_anyprecision",
    "adamw_apex_fused",
    "adamw_torch_xla",
    "fused_adamw",
)
SMALL_ADAMW = (
    "adamw_8bit",
    "adamw_bnb_8bit",
    "adamw_torch_8bit",
    "adamw_torch_4bit",
    "paged_adamw",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
)
UNNEEDED = frozenset({
    "accelerator_config", "activation_offloading", "auto_find_batch_size", "average_tokens_across_devices", "batch_eval_metrics",
    "bf16_full_eval", "data_seed", "dataloader_drop_last", "dataloader_in_order", "dataloader_multiprocessing_context",
    "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor", "ddp_backend",
    "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_static_graph", "ddp_timeout", "debug",
    "disable_tqdm", "do_eval", "do_train", "enable_jit_checkpoint", "eval_accumulation_steps", "eval_delay", "eval_do_concat_batches",
    "eval_on_start", "eval_use_gather_object", "fp16_full_eval", "full_determinism", "greater_is_better", "group_by_length",
    "half_precision_backend", "hub_always_push", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy", "hub_token",
    "ignore_data_skip", "include_for_metrics", "include_num_input_tokens_seen", "include_tokens_per_second", "label_names",
    "length_column_name", "liger_kernel_config", "local_rank", "log_level", "log_level_replica", "log_on_each_node", "logging_dir",
    "logging_first_step", "logging_nan_inf_filter", "logging_steps", "logging_strategy", "overwrite_output_dir", "parallelism_config",
    "past_index", "per_device_eval_batch_size", "prediction_loss_only", "project", "push_to_hub", "ray_scope", "remove_unused_columns",
    "report_to", "restore_callback_states_from_checkpoint", "resume_from_checkpoint", "run_name", "save_on_each_node",
    "save_only_model", "save_safetensors", "skip_memory_metrics", "tf32", "torch_compile", "torch_compile_backend",
    "torch_compile_mode", "torch_empty_cache_steps", "tpu_num_cores", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id",
    "train_sampling_strategy", "use_cache", "use_cpu", "use_ipex", "use_liger_kernel", "use_mps_device", "activation_checkpointing_kwargs",
    "gradient_checkpointing_kwargs", "low_cpu_mem_usage",
})  # fmt: skip
"""Names without meaning here: logs, hubs, processes, devices, and what Luthier does by itself."""
ONE_DEVICE = "Luthier trains on one device"
WHY = {
    "deepspeed": ONE_DEVICE,
    "fsdp": ONE_DEVICE,
    "fsdp_config": ONE_DEVICE,
    "neftune_noise_alpha": "noise on embeddings is not in Luthier",
    "lr_scheduler_kwargs": "schedules have no options here but training.warmup",
    "optim_args": "AdamW's options are training.betas and training.epsilon",
    "optim_target_modules": "is for optimizers that are not in Luthier",
    "do_predict": "train first, then: luthier predict",
}
KNOWN = frozenset({
    *SAME, *UNNEEDED, *WHY, "output_dir", "per_device_train_batch_size", "num_train_epochs", "max_steps", "lr_scheduler_type",
    "warmup_steps", "warmup_ratio", "adam_beta1", "adam_beta2", "max_grad_norm", "bf16", "fp16", "optim", "gradient_checkpointing",
    "activation_checkpointing", "eval_strategy", "evaluation_strategy", "eval_steps", "save_steps", "save_strategy",
    "metric_for_best_model", "label_smoothing_factor",
})  # fmt: skip


def training_arguments(draft: Draft) -> None:
    """Take over what TrainingArguments names, as transformers names it."""
    draft.same(SAME | {"per_device_train_batch_size": "training.batch_size", "num_train_epochs": "training.epochs"})
    smoothing(draft)
    output(draft)
    steps(draft)
    schedule(draft, "lr_scheduler_type")
    optimizer(draft, "optim")
    numbers(draft)
    checkpointing(draft, "gradient_checkpointing", "activation_checkpointing")
    evaluation(draft)


def smoothing(draft: Draft) -> None:
    """Label smoothing, which transformers' Trainer has for the cross-entropy alone."""
    rate = draft.take("label_smoothing_factor")
    if rate and preferences.compares(draft):
        draft.leave("label_smoothing_factor", "is for tokens, and not read where answers are compared: see task.label_smoothing")
    elif rate is not None and not preferences.compares(draft):
        draft.put("task.label_smoothing", rate, "label_smoothing_factor")


def output(draft: Draft) -> None:
    """`output_dir` is one run's folder: the recipe names the folder of runs, and the run."""
    folder = draft.take("output_dir")
    if folder is not None:
        path = PurePosixPath(str(folder))
        if path.name in ("", "..", "."):
            return
        if str(path.parent) not in (".", "/"):
            draft.put("output.folder", str(path.parent), "output_dir")
        draft.put("output.name", path.name, "output_dir")


def steps(draft: Draft) -> None:
    """A number of updates; -1 means none."""
    most = draft.take("max_steps")
    if isinstance(most, int) and most > 0:
        draft.put("training.max_steps", most, "max_steps")


def schedule(draft: Draft, key: str) -> None:
    """The course of the learning rate, and its warmup as a share."""
    name = draft.take(key)
    if name is not None and str(name) in SCHEDULES:
        draft.put("training.schedule", SCHEDULES[str(name)], key)
    elif name is not None:
        near = "cosine" if "cosine" in str(name) else "linear"
        draft.put("training.schedule", near, f"{key}, the nearest")
        draft.leave(key, f"is not in Luthier; {near} is the nearest: see training.schedule")
    ratio, first, most = draft.take("warmup_ratio"), draft.take("warmup_steps"), draft.values.get("training.max_steps")
    if name == "constant":
        draft.put("training.warmup", 0.0, f"{key}: constant has none")
    elif isinstance(first, float) and 0 < first < 1:
        draft.put("training.warmup", first, "warmup_steps, a share")
    elif isinstance(first, int) and first > 0:
        if most is not None:
            draft.put("training.warmup", round(min(0.99, first / most.value), 6), "warmup_steps / max_steps")
        else:
            draft.leave("warmup_steps", "training.warmup is a share of all updates; explain shows their number")
            if not ratio:
                draft.put("training.warmup", 0.03, "in place of warmup_steps")
    elif ratio is not None:
        draft.put("training.warmup", float(ratio), "warmup_ratio")
    elif first == 0:
        draft.put("training.warmup", 0.0, "warmup_steps")


def optimizer(draft: Draft, key: str) -> None:
    """AdamW is what there is; its kin that save memory compute the same."""
    name, betas = draft.take(key), (draft.take("adam_beta1"), draft.take("adam_beta2"))
    if any(b is not None for b in betas):
        draft.put("training.betas", [b if b is not None else d for b, d in zip(betas, (0.9, 0.999), strict=True)], "adam_beta1, adam_beta2")
    if name is not None and str(name) in SMALL_ADAMW:
        draft.leave(key, "plain AdamW here: the same steps, with moments in fp32")
    elif name is not None and str(name) not in ADAMW:
        draft.leave(key, "is not in Luthier, which has AdamW: look for a fitting training.learning_rate")
    norm = draft.take("max_grad_norm")
    if isinstance(norm, (int, float)) and norm > 0:
        draft.put("training.max_grad_norm", norm, "max_grad_norm")
    elif norm is not None:
        draft.put("training.max_grad_norm", 1e9, "max_grad_norm: 0 is no clipping")


def numbers(draft: Draft) -> None:
    """The precision."""
    bf16, fp16 = draft.take("bf16"), draft.take("fp16")
    if bf16 in (True, "true", "full"):
        draft.put("training.precision", "bf16", "bf16")
    elif bf16 == "auto":
        draft.put("training.precision", "auto", "bf16")
    if fp16 in (True, "true"):
        draft.leave("fp16", "is not in Luthier: training.precision takes fp32 or bf16")


def checkpointing(draft: Draft, *keys: str) -> None:
    """Whether activations are computed again; strings name ways to do it."""
    for key in keys:
        on = draft.take(key)
        if on is not None:
            draft.put("training.checkpointing", bool(on), key)


def evaluation(draft: Draft) -> None:
    """When to evaluate and to save."""
    key = next((k for k in ("eval_strategy", "evaluation_strategy") if draft.take(k) is not None), "eval_strategy")
    how, every = draft.take(key), draft.take("eval_steps")
    if how == "epoch":
        draft.put("evaluation.every", "epoch", key)
    elif how in ("steps", None) and isinstance(every, int) and not isinstance(every, bool) and every > 0:
        draft.put("evaluation.every", every, "eval_steps")
    elif every is not None and how != "no":
        draft.leave("eval_steps", "evaluation.every takes a number of updates, or epoch")
    when, count = draft.take("save_strategy"), draft.take("save_steps")
    if isinstance(count, int) and count > 0 and when in (None, "steps"):
        draft.put("checkpoints.every_steps", count, "save_steps")
    metric: Any = draft.take("metric_for_best_model")
    if metric in ("loss", "eval_loss"):
        draft.put("evaluation.metric", "loss", "metric_for_best_model")
    elif metric is not None:
        draft.leave("metric_for_best_model", "luthier check names the scores that evaluation.metric takes")
