"""What users may write: the sections of a recipe, torch-free.

Each section says what its values mean, their units and their defaults. `auto` means: inferred from
the data, the model or the machine, and shown by `luthier explain` with its source.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from luthier.recipe.augment.options import AugmentOptions
from luthier.recipe.choice import chosen
from luthier.recipe.curriculum import Curriculum
from luthier.recipe.fields import Strings
from luthier.recipe.limit import EARLIER, GENERAL, limit
from luthier.recipe.mend import Mend
from luthier.recipe.methods.options import MethodOptions
from luthier.recipe.origin import parse
from luthier.recipe.retention.options import RetentionOptions
from luthier.recipe.rounds import Rounds
from luthier.recipe.stages.options import StageOptions
from luthier.recipe.tasks.options import TaskOptions
from luthier.registry import AUGMENT_OPTIONS, METHOD_OPTIONS, RETENTION_OPTIONS, STAGE_OPTIONS, TASK_OPTIONS, nearest

Share = Annotated[float, Field(ge=0, lt=1)]
Auto = Literal["auto"]
Baseline = Literal["majority", "tfidf", "frozen", "copy", "overlap", "lexicon", "bm25", "length"]


class Section(BaseModel):
    """Strict: unknown keys are refused, values are checked again on assignment."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)


def _stage_options(value: Any) -> Any:
    return chosen(value, "stage", StageOptions, STAGE_OPTIONS)


def _augment_options(value: Any) -> Any:
    return chosen(value, "way to augment", AugmentOptions, AUGMENT_OPTIONS)


class Data(Section):
    """Where rows come from and how they are shared out.

    Strings are relative to the recipe's folder, or to the data set's folder where `name` is given.
    """

    name: str | None = Field(None, description="name of a public data set: its folder under $LUTHIER_DATA")
    origin: str | None = Field(
        None, description="where the public data set comes from: github:OWNER/REPO@COMMIT[/FOLDER] or hf:OWNER/NAME@COMMIT"
    )
    license: str | None = Field(
        None, min_length=1, description="licence of the data set, as SPDX writes it: CC-BY-4.0; recorded with the run and its model card"
    )
    sample: bool = Field(False, description="use the few rows shipped with Luthier instead of the whole data set")
    train: Strings = Field(
        min_length=1,
        description="training files: CSV, TSV, JSONL, JSON, Parquet, text, CoNLL, also .gz; a folder, or a pattern: books/*.txt",
    )
    validation: Strings | None = Field(None, description="validation files; split from train where absent")
    test: Strings | None = Field(None, description="test files; split from train where absent")
    format: Auto | Literal["csv", "tsv", "jsonl", "json", "parquet", "text", "labelled", "conll", "conllu"] = Field(
        "auto", description="file format; labelled: lines that begin with their label"
    )
    separator: str | None = Field(None, description="text files: what stands between documents; a file is one document where absent")
    encoding: str = Field("auto", description="text encoding; auto detects it")
    text: str = Field("text", description="column that holds the text")
    text_pair: str | None = Field(None, description="column that holds the second text of a pair")
    label: str | list[str] = Field("label", description="label column; a list of 0/1 columns is multi-label")
    columns: list[str] | None = Field(None, description="column names, for files without a header line")
    label_separator: str | None = Field(None, description="splits a label cell into several labels (multi-label)")
    exclude: dict[str, list[str]] = Field(default_factory=dict, description="leave out rows whose column has one of these values")
    only: dict[str, list[str]] = Field(default_factory=dict, description="take only rows whose column has one of these values")
    group: str | None = Field(None, description="column whose equal values stay on one side of the split: a passage, a document, a patient")
    earlier: str | None = Field(
        None,
        description="folder of an earlier run: its labels come first, its validation and test rows are scored too, and a curriculum "
        "may bring its training rows back (streams earlier and new)",
    )
    clean: list[Annotated[SerializeAsAny[StageOptions], BeforeValidator(_stage_options)]] = Field(
        default_factory=list, description="stages that rows go through before they become records, in order: names, or sections with a type"
    )
    mend: Mend | None = Field(
        None, description="training rows whose label is probably wrong, after the split: drop, relabel, or a section with a type"
    )
    augment: list[Annotated[SerializeAsAny[AugmentOptions], BeforeValidator(_augment_options)]] = Field(
        default_factory=list,
        description="ways to make further rows of the training part, after the split; validation and test stay as they are: "
        "names, or sections with a type",
    )
    duplicates: Literal["keep", "drop"] = Field("keep", description="rows that repeat a text (case and spaces aside) and its label")
    limit: int | None = Field(None, gt=0, description="train on at most this many rows, drawn with the seed")
    max_bad_share: Share = Field(0.05, description="refuse to train when more of the rows than this cannot be read")
    accept: list[str] = Field(default_factory=list, description="findings of `luthier check` to go on with all the same, by name")
    validation_share: Auto | Share = Field(
        "auto", description="share of train held out for validation where no file is given; auto: 0.1, and nothing for few_shot"
    )
    test_share: Share = Field(0.2, description="share of train held out for testing where no file is given")

    @property
    def held_out(self) -> float:
        """The share of train that is held out for validation, where nothing says otherwise."""
        return 0.1 if self.validation_share == "auto" else self.validation_share

    @field_validator("origin")
    @classmethod
    def _pinned(cls, value: str | None) -> str | None:
        if value is not None:
            parse(value)
        return value

    @model_validator(mode="after")
    def _whole(self) -> Data:
        if self.held_out + self.test_share >= 0.9:
            raise ValueError("validation_share and test_share leave less than a tenth of the rows for training")
        if self.sample and not self.name:
            raise ValueError("sample needs the name of a public data set")
        return self


class Scratch(Section):
    """A new model: a tokenizer trained on the training texts, and random weights."""

    architecture: Literal["llama", "t5", "bert"] = Field("llama", description="decoder, encoder-decoder or encoder")
    vocabulary: int = Field(8192, ge=300, description="tokens of the byte-level BPE tokenizer, trained on the training texts")
    hidden_size: int = Field(256, gt=0, description="width")
    layers: int = Field(6, gt=0, description="layers; of the encoder and of the decoder each, where there are two")
    heads: int = Field(4, gt=0, description="attention heads; they divide the width")
    key_value_heads: int | None = Field(None, gt=0, description="llama: heads of keys and values; as many as heads where absent")
    intermediate_size: int | None = Field(None, gt=0, description="width inside the feed-forward layers; 8/3 of the width where absent")
    context: int = Field(512, gt=7, description="longest example in tokens")
    tie_embeddings: bool = Field(True, description="one table for input and output tokens")

    @model_validator(mode="after")
    def _dividing(self) -> Scratch:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        if self.architecture == "llama" and self.hidden_size // self.heads % 2:
            raise ValueError("rotary positions need an even hidden_size / heads")
        if self.key_value_heads is not None and (self.architecture != "llama" or self.heads % self.key_value_heads):
            raise ValueError("key_value_heads divides heads, and is for llama only")
        return self


class Model(Section):
    """Which model is fine-tuned, and its head."""

    name: str = Field("minilm", description="alias (minilm, starter), Hugging Face id, or local folder")
    from_scratch: Scratch | None = Field(None, description="train a new tokenizer and model instead of loading `name`")
    revision: str | None = Field(None, description="commit of a Hugging Face id; recorded in the run in any case")
    layers: int | None = Field(None, gt=0, description="keep only this many bottom layers")
    dropout: Share | None = Field(None, description="one dropout probability for the whole model; its own where absent")
    head: str = Field("linear", description="linear (the architecture's own), mlp, or module:callable")
    max_length: Auto | Annotated[int, Field(gt=1)] = Field("auto", description="longest example in tokens; the rest is cut and counted")
    quantization: Literal["none", "8bit", "4bit"] = Field(
        "none", description="bits of the frozen layers' weights, for methods that put adapters beside them; method qlora means 4bit"
    )
    double_quantization: bool = Field(True, description="4bit: the scales of the weights in 8 bits too, which saves 0.4 bits a weight")

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        given = [n for n in ("name", "revision", "layers", "head") if getattr(self, n) != type(self).model_fields[n].default]
        if self.from_scratch is not None and given:
            raise ValueError(f"from_scratch makes a new model: take out {', '.join(given)}")
        return self


class Training(Section):
    """How weights move."""

    epochs: Auto | Annotated[float, Field(gt=0)] = Field("auto", description="passes over the training rows; inferred from their number")
    max_steps: int | None = Field(None, gt=0, description="stop after this many updates, whatever epochs says")
    batch_size: int = Field(32, gt=0, description="examples an update and accumulation part")
    gradient_accumulation: int = Field(1, gt=0, description="parts of batch_size examples summed into one update")
    max_tokens: int = Field(8192, gt=0, description="tokens a forward pass at most; larger batches run in several passes, same gradient")
    learning_rate: Auto | Annotated[float, Field(gt=0)] = Field("auto", description="peak learning rate; inferred from the model's width")
    schedule: Literal["linear", "cosine", "constant", "one_cycle", "plateau"] = Field("linear", description="course of the learning rate")
    warmup: Share = Field(0.1, description="share of the updates over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="AdamW decay, not on biases and norms")
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="AdamW moment decays")
    epsilon: float = Field(1e-8, gt=0, description="AdamW epsilon")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this global norm")
    early_stopping: int | None = Field(None, gt=0, description="stop after this many evaluations without improvement")
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="plateau: multiplies the learning rate")
    plateau_patience: int = Field(2, gt=0, description="plateau: evaluations without improvement before it does")
    gap_warning: float = Field(0.5, gt=0, description="warn when validation loss exceeds training loss by this")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="layer-wise learning rates: each layer learns so many times as fast as the one above"
    )
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit"] = Field(
        "adamw", description="8-bit moments take a quarter of the memory; paged ones move out of a CUDA device's memory when it is short"
    )
    precision: Auto | Literal["fp32", "bf16", "fp16"] = Field(
        "auto", description="of weights and computation, with fp32 master weights; fp16 is for CUDA, with its loss scaled"
    )
    rounding: Literal["masters", "stochastic"] = Field(
        "masters", description="bf16 weights: fp32 masters, or none and rounding by chance, a third of the memory less"
    )
    attention: Auto | Literal["ragged", "padded"] = Field("auto", description="ragged batches, or padded ones")
    checkpointing: bool = Field(False, description="keep each layer's input only and compute the rest again: less memory, slower")
    rehearsal: bool = Field(True, description="run the largest batch, an evaluation batch and a save before the first update")
    device: Auto | Literal["cpu", "cuda", "mps"] = Field("auto", description="where to train")
    threads: Auto | Annotated[int, Field(gt=0)] = Field("auto", description="CPU threads; results repeat to the bit for equal counts")
    seed: int = Field(0, ge=0, description="seeds the split, the head, the order and dropout")

    @model_validator(mode="after")
    def _rounded_where_narrow(self) -> Training:
        if self.rounding == "stochastic" and (self.precision != "bf16" or self.optimizer != "adamw"):
            raise ValueError("rounding: stochastic is for precision: bf16 with optimizer: adamw")
        return self


class Evaluation(Section):
    """What is measured, when, and with what uncertainty."""

    every: Literal["epoch"] | Annotated[int, Field(gt=0)] = Field("epoch", description="evaluate each epoch, or every so many updates")
    metric: str = Field(
        "auto", description="validation score by which the best checkpoint is chosen; auto is the task's own, loss is the loss"
    )
    restore_best: bool = Field(True, description="end with the best checkpoint rather than the last")
    base_model: bool = Field(True, description="score the model before training too")
    baselines: Auto | list[Baseline] = Field(
        "auto", description="simple methods scored beside the model; auto: all that the task has (copy is for text2text)"
    )
    written: int = Field(
        100,
        ge=0,
        description="test rows answered in full, for scores of texts and samples; encoders: hidden word by word",
    )
    probes: dict[str, str] = Field(
        default_factory=dict,
        description="other files, by a name each, on which the model is scored before and after: what it forgot; 300 rows of each at most",
    )
    general_probe: Auto | bool = Field(
        "auto",
        description="a probe of plain English that ships with Luthier, named general; auto: where the model can score text",
    )
    earlier_probe: bool = Field(True, description="where training starts from another run's model, that run's test rows are a probe")
    fail_if: dict[str, str] = Field(
        default_factory=dict,
        description="probe -> `drop > 0.02`: the run is not good when its main score got worse by more; `rise > 0.1` where less is better",
    )
    bootstrap: int = Field(1000, ge=100, description="resamples for the 95% intervals")
    max_tokens: int = Field(16384, gt=0, description="tokens a forward pass at most in evaluation")

    @field_validator("baselines", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return [] if value is None else value

    @field_validator("probes")
    @classmethod
    def _own_names(cls, value: dict[str, str]) -> dict[str, str]:
        taken = next((n for n in value if n == GENERAL or n.startswith(EARLIER)), None)
        if taken is not None:
            raise ValueError(f"{taken!r} is the name of a probe of Luthier's own: choose another")
        return value

    @model_validator(mode="after")
    def _known_probes(self) -> Evaluation:
        known = [*self.probes, *([] if self.general_probe is False else [GENERAL])]
        for name, text in self.fail_if.items():
            limit(text)
            if name not in known and not (self.earlier_probe and name.startswith(EARLIER)):
                guess = nearest(name, known)
                remedy = f"did you mean {guess}?" if guess else f"there are: {', '.join(known) or 'none'}"
                raise ValueError(f"fail_if names no probe {name!r}; {remedy}")
        return self


class Checkpoints(Section):
    """What is saved while training, for resume and for the best score."""

    every_steps: int | None = Field(None, gt=0, description="also save every so many updates")
    every_minutes: float = Field(10.0, gt=0, description="also save when so much time has passed")
    keep: int = Field(1, gt=0, description="newest checkpoints kept, beside the best")


class Output(Section):
    """Where the run goes."""

    folder: str = Field("runs", description="folder of all runs, relative to the working folder")
    name: str | None = Field(None, description="name of the run; the recipe's file name where absent")


def _task_options(value: Any) -> Any:
    if isinstance(value, dict) and "type" not in value:
        value = {"type": "classification", **value}
    return chosen(value, "task", TaskOptions, TASK_OPTIONS)


def _method_options(value: Any) -> Any:
    return chosen(value, "method", MethodOptions, METHOD_OPTIONS)


def _retention_options(value: Any) -> Any:
    return chosen(value, "way of retention", RetentionOptions, RETENTION_OPTIONS)


class Recipe(Section):
    """The whole of what a user asks for."""

    data: Data
    task: Annotated[SerializeAsAny[TaskOptions], BeforeValidator(_task_options)] = Field(
        default_factory=lambda: _task_options("classification")
    )
    model: Model = Field(default_factory=Model)
    method: Annotated[SerializeAsAny[MethodOptions], BeforeValidator(_method_options)] = Field(
        default_factory=lambda: _method_options("full")
    )
    retention: Annotated[SerializeAsAny[RetentionOptions], BeforeValidator(_retention_options)] = Field(
        default_factory=lambda: _retention_options("none")
    )
    curriculum: Curriculum = Field(default_factory=Curriculum)
    rounds: Rounds | None = None
    training: Training = Field(default_factory=Training)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    checkpoints: Checkpoints = Field(default_factory=Checkpoints)
    output: Output = Field(default_factory=Output)

    @property
    def staged(self) -> bool:
        """Whether streams come one after the other; an earlier run was the first stage, and the new rows are one."""
        return self.curriculum.type in ("sequential", "replay") and self.data.earlier is None

    @field_validator("curriculum", mode="before")
    @classmethod
    def _curriculum_type(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @field_validator("model", mode="before")
    @classmethod
    def _model_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("data", mode="before")
    @classmethod
    def _data_path(cls, value: Any) -> Any:
        return {"train": value} if isinstance(value, str) else value
