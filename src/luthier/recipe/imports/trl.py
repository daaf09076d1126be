"""A TRL configuration as a recipe: the YAML of `trl sft --config`, or the arguments of SFTConfig as JSON; so for dpo, kto and reward.

The keys are those of TRL's ScriptArguments, ModelConfig and the trainer's own config, which adds to transformers' TrainingArguments
and by whose keys the trainer is told. Defaults are written out where Luthier's differ.
"""

from __future__ import annotations

from typing import Any, Literal

from luthier.errors import Fault, RecipeError
from luthier.recipe.imports import arguments, preferences
from luthier.recipe.imports.datasets import Named, columns_of, put_data
from luthier.recipe.imports.draft import Draft

NAME = "TRL"
MARKS = frozenset({
    "dataset_name", "use_peft", "lora_target_modules", "lora_r", "max_length", "max_seq_length", "assistant_only_loss",
    "completion_only_loss", "packing", "packing_strategy", "dataset_text_field", "dataset_num_proc", "padding_free", "dataset_kwargs",
    "dataset_train_split", "dataset_test_split", "chat_template_path",
})  # fmt: skip
"""Keys by which its files are recognised."""
SHARED = frozenset({"model_name_or_path", "per_device_train_batch_size", "num_train_epochs", "lr_scheduler_type"})
"""Keys that alone mean TrainingArguments, which TRL's are."""
Trainer = Literal["sft", "dpo", "kto", "reward"]
RATES: dict[Trainer, float] = {"sft": 2e-5, "dpo": 1e-6, "kto": 1e-6, "reward": 1e-4}
"""Their learning rates by default."""
KTO = frozenset({"desirable_weight", "undesirable_weight"})
DPO = frozenset({
    "precompute_ref_log_probs", "precompute_ref_batch_size", "loss_weights", "label_smoothing", "ld_alpha", "f_divergence_type",
    "f_alpha_divergence_coef", "use_weighting", "discopop_tau", "sync_ref_model", "rpo_alpha", "reference_free",
})  # fmt: skip
"""Keys of trainers that compare answers; some are KTO's too."""
LIKELY_DPO = frozenset({"beta", "max_prompt_length"})
"""Keys of DPO, and of policies beside others."""
POLICIES = frozenset({"num_generations", "reward_funcs", "reward_weights", "reward_model_path", "kl_coef", "num_ppo_epochs"})
"""Keys of GRPO, RLOO and PPO."""
OTHERS = {"teacher_model_name_or_path": "distillation", "cpo_alpha": "CPO", "is_encoder_decoder": "ORPO"}
"""Keys of trainers that are not here. The last is one of old DPOConfigs and KTOConfigs, too."""
SIGNS = KTO | DPO | LIKELY_DPO | POLICIES | {*OTHERS, "center_rewards_coefficient", "max_completion_length"}
"""Keys of which one is enough to tell that a file is TRL's."""
OF_TEXTS = (None, "nll", "dft", "chunked_nll")
OF_POLICIES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")
"""Values of loss_type, in SFTConfig and in GRPOConfig."""
UNNEEDED = frozenset({
    "packing", "packing_strategy", "padding_free", "pad_to_multiple_of", "eval_packing", "shuffle_dataset", "dataset_num_proc",
    "dataset_batch_size", "dataset_kwargs", "dataset_streaming", "ignore_bias_buffers", "attn_implementation", "dtype", "torch_dtype",
    "model_init_kwargs", "lora_task_type", "bnb_4bit_quant_type", "bnb_4bit_quant_storage", "pad_token", "chars_per_token", "use_unsloth",
    "ddp_timeout", "trust_remote_code", "precompute_ref_batch_size", "ref_model_mixup_alpha", "ref_model_sync_steps", "discopop_tau",
    "f_alpha_divergence_coef", "generate_during_eval", "use_logits_to_keep", "padding_value", "label_pad_token_id", "is_encoder_decoder",
})  # fmt: skip
WHY = {
    "dataset_config": "name the files of that configuration in data.train",
    "lora_target_parameters": "adapters are put beside layers: method.target_modules",
    "lora_modules_to_save": "fresh heads train whole by themselves; other modules do not train beside adapters",
    "router_aux_loss_coef": "experts are not balanced by a loss of their own here",
    "eos_token": "Luthier grades the stop token of the model's own template",
    "truncation_mode": "the end of a text that is too long is cut, and counted",
    "loss_type": "the loss is the cross-entropy",
    "ld_alpha": "all tokens of an answer count alike",
    "f_divergence_type": "differences are measured by the reverse KL divergence",
    "use_weighting": "pairs weigh alike",
    "sync_ref_model": "answers are measured against the model as it began, to the end",
    "reference_free": "the loss without a reference is task.loss: cpo",
    "max_prompt_length": "prompt and answer share model.max_length, and the end of what is too long is cut",
    "max_completion_length": "prompt and answer share model.max_length, and the end of what is too long is cut",
}
KNOWN = (arguments.KNOWN | MARKS | SHARED | SIGNS | UNNEEDED | frozenset(WHY)) | {
    "lora_alpha", "lora_dropout", "load_in_4bit", "load_in_8bit", "use_rslora", "use_dora", "model_revision", "use_bnb_nested_quant",
    "disable_dropout",
}  # fmt: skip


def read(draft: Draft) -> None:
    """Fill the draft."""
    model(draft)
    columns = _data(draft)
    trainer = _trainer(draft, columns)
    _length(draft, trainer)
    if trainer == "sft":
        _task(draft, columns)
    elif trainer == "reward":
        _reward(draft, columns)
    else:
        _preference(draft, trainer)
    arguments.training_arguments(draft)
    _method(draft)
    if trainer != "sft" and draft.take("disable_dropout") is not False:
        preferences.no_dropout(draft, "disable_dropout" if "disable_dropout" in draft.keys else f"{NAME}'s default")
    for path, value in (
        ("training.learning_rate", RATES[trainer]), ("training.epochs", 3), ("training.batch_size", 8), ("training.warmup", 0.0),
        ("training.weight_decay", 0.0), ("training.checkpointing", True), ("model.max_length", 1024),
    ):  # fmt: skip
        draft.default(path, value)
    _only_where_meant(draft)
    draft.rest(unneeded=arguments.UNNEEDED | UNNEEDED, why=arguments.WHY | WHY, known=KNOWN)


def _trainer(draft: Draft, columns: list[str]) -> Trainer:
    """Whose config it is, by keys that no other has, and by the columns where the data are at hand. Raises RecipeError for others."""
    keys, loss = set(draft.keys), draft.keys.get("loss_type")
    compares = bool(DPO & keys) or isinstance(loss, list) or loss not in (*OF_TEXTS, *OF_POLICIES)
    _elsewhere(draft, compares=compares or bool(KTO & keys))
    if "center_rewards_coefficient" in keys:
        return "reward"
    if KTO & keys or loss in ("kto", "apo_zero_unpaired"):
        return "kto"
    if compares or LIKELY_DPO & keys:
        return "kto" if {"completion", "label"} <= set(columns) and "chosen" not in columns else "dpo"
    if {"chosen", "rejected"} <= set(columns) and not {"messages", "conversations", "completion", "text"} & set(columns):
        why = "its data hold chosen and rejected answers, and no key says whether a model or a reward model learns from them"
        raise RecipeError([Fault(why, str(draft.file), "add beta: 0.1 (DPO), or center_rewards_coefficient: 0 (a reward model)")])
    return "sft"


def _elsewhere(draft: Draft, *, compares: bool) -> None:
    """Raise RecipeError for a trainer that is not here; `compares`: whether other keys are those of one that is."""
    for key, what in OTHERS.items():
        if key in draft.keys and not (compares and key == "is_encoder_decoder"):
            raise draft.refuse(key, f"is for {what}, which is not imported", "write the recipe: see docs/recipe.md")
    for key in [k for k, value in draft.keys.items() if value is not None]:
        drawn = key in POLICIES or (key == "max_completion_length" and not compares)
        if drawn or (key == "loss_type" and draft.keys[key] in OF_POLICIES):
            raise preferences.policy(draft, key)


def _preference(draft: Draft, trainer: Trainer) -> None:
    """The loss and its options."""
    if trainer == "kto":
        if draft.take("loss_type") not in (None, "kto"):
            raise draft.refuse("loss_type", "is no loss that is here", "kto is, for good and bad answers")
        preferences.preference(draft, "kto", "the keys of KTOConfig")
        preferences.option(draft, "desirable_weight", "good_weight")
        preferences.option(draft, "undesirable_weight", "bad_weight")
    else:
        preferences.listed(draft, "loss_type", "loss_weights", origin="the keys of DPOConfig")
        preferences.smoothing(draft, "label_smoothing", sigmoid=False)
        preferences.option(draft, "rpo_alpha", "sft", note=", row by row")
    preferences.option(draft, "beta", "beta")
    if draft.take("precompute_ref_log_probs"):
        draft.put("task.reference", "precomputed", "precompute_ref_log_probs")


def _reward(draft: Draft, columns: list[str]) -> None:
    """A reward model, with the margin that its data may hold."""
    draft.put("task.type", "reward", "center_rewards_coefficient, which RewardConfig alone has")
    draft.same({"center_rewards_coefficient": "task.center"})
    if "margin" in columns:
        draft.put("task.margin", "margin", "a column of dataset_name")
    _template(draft)


def _only_where_meant(draft: Draft) -> None:
    """Values that say what Luthier does anyway are not needed."""
    for key, usual in (
        ("truncation_mode", "keep_start"),
        ("loss_type", "nll"),
        ("dataset_config", "default"),
        ("f_divergence_type", "reverse_kl"),
        ("ld_alpha", 1.0),
        ("eos_token", "<EOS_TOKEN>"),
    ):
        if draft.keys.get(key) == usual:
            draft.take(key)
            draft.unneeded.append(key)
    if draft.keys.get("trust_remote_code") is True:
        draft.leave("trust_remote_code", "Luthier runs no code from a model: its architecture must be in transformers")


def _length(draft: Draft, trainer: Trainer) -> None:
    key = "max_length" if draft.keys.get("max_length") is not None else "max_seq_length"
    most = draft.take(key)
    if most is not None:
        draft.put("model.max_length", most, f"{key}; longer rows are cut, not left out" if trainer == "reward" else key)


def model(draft: Draft) -> None:
    """The model and its revision, as transformers' own arguments name them."""
    name = draft.take("model_name_or_path")
    if name is None:
        draft.fill("model.name", "starter", "no model is named")
    else:
        put_model(draft, str(name), "model_name_or_path")
    revision = draft.take("model_revision")
    if revision not in (None, "main"):
        draft.put("model.revision", str(revision), "model_revision")


def put_model(draft: Draft, name: str, key: str) -> None:
    """A model by id, or by its folder as the recipe should name it."""
    found = draft.local(name)
    draft.put("model.name", draft.beside(found) if found is not None and found.is_dir() else name, key)


def _data(draft: Draft) -> list[str]:
    """The data; the columns of the first file where it is at hand."""
    name = draft.take("dataset_name")
    if name is None:
        draft.fill("data.train", "train.jsonl", "no data are named")
        return []
    files = put_data(draft, [Named(str(name), "dataset_name")])
    for key, usual in (("dataset_train_split", "train"), ("dataset_test_split", "test")):
        split = draft.take(key)
        if split not in (None, usual):
            draft.leave(key, "name the files of that split in data.train or data.validation")
        elif split is not None:
            draft.unneeded.append(key)
    return columns_of(files[0]) if files and files[0].is_file() else []


def _task(draft: Draft, columns: list[str]) -> None:
    """Conversations or plain text: by the columns where the file is at hand, else by what the keys are about."""
    text, assistant, completion = draft.take("dataset_text_field"), draft.take("assistant_only_loss"), draft.take("completion_only_loss")
    conversing = {"messages", "conversations", "prompt", "completion"} & set(columns)
    plain = (bool(columns) and not conversing) or (not columns and text is not None and assistant is None and completion is None)
    if plain:
        draft.put("task.type", "causal", "the columns of dataset_name" if columns else "dataset_text_field")
        draft.put("data.text", text or "text", "dataset_text_field" if text else f"{NAME}'s default")
        return
    draft.put(
        "task.type", "chat", "the columns of dataset_name" if columns else "a guess: causal is for texts, preference and reward for answers"
    )
    pairs = "completion" in columns or (not columns and completion is not None)
    if text is not None:
        draft.unneeded.append("dataset_text_field")
    if pairs:
        grades = "assistant" if completion in (None, True) else "all"
        draft.put("task.graded", grades, "completion_only_loss" if completion is not None else f"{NAME}'s default")
    else:
        grades = "assistant" if assistant is True else "all"
        draft.put("task.graded", grades, "assistant_only_loss" if assistant is not None else f"{NAME}'s default for messages")
    _template(draft)


def _template(draft: Draft) -> None:
    template = draft.take("chat_template_path")
    if template is not None:
        found = draft.local(str(template))
        draft.put("task.template", draft.beside(found) if found is not None else str(template), "chat_template_path")


def _method(draft: Draft) -> None:
    """LoRA with `use_peft`, on a quantised base where one is asked for."""
    peft, four, eight = draft.take("use_peft"), draft.take("load_in_4bit"), draft.take("load_in_8bit")
    if not peft:
        draft.put("method.type", "full", "use_peft" if peft is not None else f"{NAME}'s default")
        for key in ("load_in_4bit", "load_in_8bit"):
            if draft.keys.get(key):
                draft.leave(key, "quantised weights cannot be trained without adapters: set method: qlora, or lora")
        for key in ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_rslora", "use_dora", "use_bnb_nested_quant"):
            if draft.take(key) is not None:
                draft.unneeded.append(key)
        return
    quantised(draft, four=four, eight=eight, key="use_peft")
    draft.same({
        "lora_r": "method.rank", "lora_alpha": "method.alpha", "lora_dropout": "method.dropout", "use_rslora": "method.rslora",
        "use_dora": "method.dora",
    })  # fmt: skip
    if draft.keys.get("lora_target_modules") is None:
        why = "PEFT would choose by the architecture, often q_proj and v_proj; Luthier takes all linear layers: method.target_modules"
        draft.leave("lora_target_modules", why, value="not given")
    targets(draft, "lora_target_modules", all_of_them=("all-linear",))
    for path, value in (("method.rank", 16), ("method.alpha", 32), ("method.dropout", 0.05)):
        draft.default(path, value)
    nested = draft.take("use_bnb_nested_quant")
    if four:
        draft.put("model.double_quantization", bool(nested), "use_bnb_nested_quant" if nested is not None else f"{NAME}'s default")


def quantised(draft: Draft, *, four: Any, eight: Any, key: str) -> None:
    """The kind of LoRA that a quantised base makes."""
    draft.put("method.type", "qlora" if four else "lora", f"{key}, load_in_4bit" if four else key)
    if four or eight:
        draft.put("model.quantization", "4bit" if four else "8bit", "load_in_4bit" if four else "load_in_8bit")


def targets(draft: Draft, key: str, *, all_of_them: tuple[str, ...]) -> None:
    """The layers that get adapters: names, several in one text with commas, or all."""
    wanted = draft.take(key)
    if wanted is None:
        return
    names = [str(n).strip() for n in (wanted.split(",") if isinstance(wanted, str) else wanted)]
    if any(n in all_of_them for n in names):
        draft.put("method.target_modules", "all-linear", key)
    elif any(set(n) & set("*+?()[]|^$\\") for n in names):
        draft.leave(key, "method.target_modules takes ends of module names, not patterns")
    else:
        draft.put("method.target_modules", names, key)
