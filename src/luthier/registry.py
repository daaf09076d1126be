"""Names to things, lazily: `classification` -> `luthier.tasks.classification:Classification`.

One registration a thing, in one place; a plugin adds its own through an entry point of the group
`luthier.<kind>`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from luthier.errors import DependencyError, Fault, LuthierError, RecipeError


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name a mistyped one most likely meant."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


class Registry:
    """Names of one kind, each an import path `module:attribute`."""

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind, self._entries = kind, dict(entries)
        self._plugins_read = False

    def names(self) -> list[str]:
        """All names, plugins' too, sorted."""
        if not self._plugins_read:
            from importlib.metadata import entry_points

            for point in entry_points(group=f"luthier.{self.kind}"):
                self._entries.setdefault(point.name, point.value)
            self._plugins_read = True
        return sorted(self._entries)

    def path(self, name: str, *, where: str | None = None) -> str:
        """The import path of a name; RecipeError with the nearest one when unknown."""
        if name not in self._entries and name not in self.names():
            guess = nearest(name, self._entries)
            remedy = f"did you mean {guess}?" if guess else f"one of: {', '.join(self.names())}"
            raise RecipeError([Fault(f"unknown {self.kind} {name!r}", where, remedy)])
        return self._entries[name]

    def load(self, name: str, *, where: str | None = None) -> Any:
        """The thing itself."""
        return load_callable(self.path(name, where=where), where=where)


def load_callable(path: str, *, where: str | None = None) -> Any:
    """Import `module:attribute`, looking in the current folder too.

    Raises LuthierError that names the part which is missing.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise LuthierError(f"{path!r} is not of the form module:callable", where=where)
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise LuthierError(
            f"no module {error.name!r} for {path!r}", where=where, remedy="run from the folder that holds it, or install it"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    if not hasattr(module, attribute):
        guess = nearest(attribute, dir(module))
        raise LuthierError(f"{module_name} has no {attribute!r}", where=where, remedy=f"did you mean {guess}?" if guess else None)
    return getattr(module, attribute)


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import an optional package, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(module, extra=extra, purpose=purpose) from error


TASKS = Registry(
    "task",
    {
        "classification": "luthier.tasks.classification:Classification",
        "few_shot": "luthier.tasks.few_shot:FewShot",
        "causal": "luthier.tasks.causal:Causal",
        "masked": "luthier.tasks.masked:Masked",
        "span": "luthier.tasks.span:Span",
        "tagging": "luthier.tasks.tagging:Tagging",
        "parsing": "luthier.tasks.parsing:Parsing",
        "text2text": "luthier.tasks.text2text:Text2Text",
        "chat": "luthier.tasks.chat:Chat",
        "preference": "luthier.tasks.preference:Preference",
        "policy": "luthier.tasks.policy:Policy",
        "reward": "luthier.tasks.reward:Reward",
        "embedding": "luthier.tasks.embedding:Embedding",
        "multitask": "luthier.tasks.multitask:multitask",
    },
)
TASK_OPTIONS = Registry(
    "task_options",
    {
        "classification": "luthier.recipe.tasks.classification:ClassificationOptions",
        "few_shot": "luthier.recipe.tasks.few_shot:FewShotOptions",
        "causal": "luthier.recipe.tasks.causal:CausalOptions",
        "masked": "luthier.recipe.tasks.masked:MaskedOptions",
        "span": "luthier.recipe.tasks.span:SpanOptions",
        "tagging": "luthier.recipe.tasks.tagging:TaggingOptions",
        "parsing": "luthier.recipe.tasks.parsing:ParsingOptions",
        "text2text": "luthier.recipe.tasks.text2text:Text2TextOptions",
        "chat": "luthier.recipe.tasks.chat:ChatOptions",
        "preference": "luthier.recipe.tasks.preference:PreferenceOptions",
        "policy": "luthier.recipe.tasks.policy:PolicyOptions",
        "reward": "luthier.recipe.tasks.reward:RewardOptions",
        "embedding": "luthier.recipe.tasks.embedding:EmbeddingOptions",
        "multitask": "luthier.recipe.tasks.multitask:MultitaskOptions",
    },
)
METHODS = Registry(
    "method",
    {
        "full": "luthier.models.adapters.full:Full",
        "freeze": "luthier.models.adapters.freeze:Freeze",
        "lora": "luthier.models.adapters.lora:Lora",
        "qlora": "luthier.models.adapters.lora:Lora",
        "adalora": "luthier.models.adapters.adalora:AdaLora",
        "ia3": "luthier.models.adapters.ia3:Ia3",
        "oft": "luthier.models.adapters.oft:Oft",
        "vera": "luthier.models.adapters.vera:Vera",
        "prompt": "luthier.models.adapters.prompt:Prompt",
        "p-tuning": "luthier.models.adapters.p_tuning:PTuning",
        "prefix": "luthier.models.adapters.prefix:Prefix",
        "bitfit": "luthier.models.adapters.bitfit:BitFit",
        "norms": "luthier.models.adapters.norms:Norms",
    },
)
METHOD_OPTIONS = Registry(
    "method_options",
    {
        "full": "luthier.recipe.methods.full:FullOptions",
        "freeze": "luthier.recipe.methods.freeze:FreezeOptions",
        "lora": "luthier.recipe.methods.lora:LoraOptions",
        "qlora": "luthier.recipe.methods.lora:QLoraOptions",
        "adalora": "luthier.recipe.methods.adalora:AdaLoraOptions",
        "ia3": "luthier.recipe.methods.ia3:Ia3Options",
        "oft": "luthier.recipe.methods.oft:OftOptions",
        "vera": "luthier.recipe.methods.vera:VeraOptions",
        "prompt": "luthier.recipe.methods.prompt:PromptOptions",
        "p-tuning": "luthier.recipe.methods.p_tuning:PTuningOptions",
        "prefix": "luthier.recipe.methods.prefix:PrefixOptions",
        "bitfit": "luthier.recipe.methods.bitfit:BitFitOptions",
        "norms": "luthier.recipe.methods.norms:NormsOptions",
    },
)
RETENTION = Registry(
    "retention",
    {
        "none": "luthier.retention.none:Nothing",
        "l2sp": "luthier.retention.l2sp:L2SP",
        "ewc": "luthier.retention.ewc:EWC",
        "distill": "luthier.retention.distill:Distill",
        "soup": "luthier.retention.soup:Soup",
    },
)
RETENTION_OPTIONS = Registry(
    "retention_options",
    {
        "none": "luthier.recipe.retention.none:NoneOptions",
        "l2sp": "luthier.recipe.retention.l2sp:L2SPOptions",
        "ewc": "luthier.recipe.retention.ewc:EWCOptions",
        "distill": "luthier.recipe.retention.distill:DistillOptions",
        "soup": "luthier.recipe.retention.soup:SoupOptions",
    },
)
REWARDS = Registry(
    "reward",
    {
        "exact": "luthier.alignment.rewards.exact:ExactReward",
        "number": "luthier.alignment.rewards.number:NumberReward",
        "regex": "luthier.alignment.rewards.regex:RegexReward",
        "contains": "luthier.alignment.rewards.contains:ContainsReward",
        "json_schema": "luthier.alignment.rewards.json_schema:JsonSchemaReward",
        "length": "luthier.alignment.rewards.length:LengthReward",
        "unit_test": "luthier.alignment.rewards.unit_test:UnitTestReward",
        "model": "luthier.alignment.rewards.model:ModelReward",
        "http": "luthier.alignment.rewards.http:HttpReward",
        "function": "luthier.alignment.rewards.function:FunctionReward",
    },
)
REWARD_OPTIONS = Registry(
    "reward_options",
    {
        "exact": "luthier.recipe.rewards.exact:ExactOptions",
        "number": "luthier.recipe.rewards.number:NumberOptions",
        "regex": "luthier.recipe.rewards.regex:RegexOptions",
        "contains": "luthier.recipe.rewards.contains:ContainsOptions",
        "json_schema": "luthier.recipe.rewards.json_schema:JsonSchemaOptions",
        "length": "luthier.recipe.rewards.length:LengthOptions",
        "unit_test": "luthier.recipe.rewards.unit_test:UnitTestOptions",
        "model": "luthier.recipe.rewards.model:ModelOptions",
        "http": "luthier.recipe.rewards.http:HttpOptions",
        "function": "luthier.recipe.rewards.function:FunctionOptions",
    },
)
STAGES = Registry(
    "stage",
    {
        "missing": "luthier.data.stages.missing:Missing",
        "unicode": "luthier.data.stages.unicode:Unicode",
        "markup": "luthier.data.stages.markup:Markup",
        "whitespace": "luthier.data.stages.whitespace:Whitespace",
        "language": "luthier.data.stages.language:Language",
        "length": "luthier.data.stages.length:Length",
        "boilerplate": "luthier.data.stages.boilerplate:Boilerplate",
        "duplicates": "luthier.data.stages.duplicates:Duplicates",
        "near_duplicates": "luthier.data.stages.near_duplicates:NearDuplicates",
        "semantic_duplicates": "luthier.workshop.semantic_duplicates:SemanticDuplicates",
        "irrelevant": "luthier.workshop.irrelevant:Irrelevant",
        "privacy": "luthier.workshop.privacy:privacy",
    },
)
STAGE_OPTIONS = Registry(
    "stage_options",
    {
        "missing": "luthier.recipe.stages.missing:MissingOptions",
        "unicode": "luthier.recipe.stages.unicode:UnicodeOptions",
        "markup": "luthier.recipe.stages.markup:MarkupOptions",
        "whitespace": "luthier.recipe.stages.whitespace:WhitespaceOptions",
        "language": "luthier.recipe.stages.language:LanguageOptions",
        "length": "luthier.recipe.stages.length:LengthOptions",
        "boilerplate": "luthier.recipe.stages.boilerplate:BoilerplateOptions",
        "duplicates": "luthier.recipe.stages.duplicates:DuplicatesOptions",
        "near_duplicates": "luthier.recipe.stages.duplicates:NearDuplicatesOptions",
        "semantic_duplicates": "luthier.recipe.stages.semantic:SemanticDuplicatesOptions",
        "irrelevant": "luthier.recipe.stages.semantic:IrrelevantOptions",
        "privacy": "luthier.recipe.stages.privacy:PrivacyOptions",
    },
)
LABEL_JUDGES = Registry("judge of labels", {"others": "luthier.workshop.quality.mistaken:mistaken"})
AUGMENTERS = Registry(
    "augmenter",
    {
        "noise": "luthier.data.augment.noise:Noise",
        "words": "luthier.data.augment.words:Words",
        "lexicon": "luthier.data.augment.lexicon:Lexicon",
        "mixing": "luthier.data.augment.mixing:Mixing",
        "neighbours": "luthier.workshop.augment.neighbours:Neighbours",
        "back_translation": "luthier.workshop.augment.back_translation:BackTranslation",
        "paraphrase": "luthier.workshop.augment.paraphrase:Paraphrase",
    },
)
AUGMENT_OPTIONS = Registry(
    "augment_options",
    {
        "noise": "luthier.recipe.augment.noise:NoiseOptions",
        "words": "luthier.recipe.augment.words:WordsOptions",
        "lexicon": "luthier.recipe.augment.lexicon:LexiconOptions",
        "mixing": "luthier.recipe.augment.mixing:MixingOptions",
        "neighbours": "luthier.recipe.augment.neighbours:NeighboursOptions",
        "back_translation": "luthier.recipe.augment.back_translation:BackTranslationOptions",
        "paraphrase": "luthier.recipe.augment.paraphrase:ParaphraseOptions",
    },
)
SYNTHESIS = Registry(
    "synthesis",
    {
        "instruct": "luthier.workshop.synthesis.instruct:Instruct",
        "questions": "luthier.workshop.synthesis.questions:Questions",
        "rare": "luthier.workshop.synthesis.rare:Rare",
        "pairs": "luthier.workshop.synthesis.pairs:Pairs",
    },
)
SYNTHESIS_OPTIONS = Registry(
    "synthesis_options",
    {
        "instruct": "luthier.recipe.synthesis.instruct:InstructOptions",
        "questions": "luthier.recipe.synthesis.questions:QuestionsOptions",
        "rare": "luthier.recipe.synthesis.rare:RareOptions",
        "pairs": "luthier.recipe.synthesis.pairs:PairsOptions",
    },
)
