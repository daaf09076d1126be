"""A run's model as a plain folder that transformers loads without Luthier.

Enters: a finished run. Leaves: a folder with safetensors weights, config with label names, tokenizer
and model card, which has been loaded again through plain transformers and found to agree.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from luthier.errors import RunError
from luthier.inference.model import Predictor
from luthier.models.load import quiet
from luthier.models.source import is_adapter
from luthier.runs.store import Run
from luthier.security.artifacts import new_folder
from luthier.serving.merge import fill_merged

AGREEMENT = 1e-3
"""Largest difference between Luthier's answers and plain transformers', in logits."""


def export_hf(run: Run, target: Path) -> float:
    """Write the folder; returns the largest difference found when it was read back.

    Raises RunError for a head that transformers does not know, and SpaceError where the folder exists
    with something in it or cannot be written.
    """
    target = target.resolve()
    predictor = Predictor(run.model, device="cpu")
    head = predictor.loaded.head
    if head.apart(predictor.card["head"]):
        whose = f"the head of {predictor.task.name}" if head.module else f"its head, {predictor.card['head']},"
        other = "task.pooling: own" if head.pooling else "model.head: linear"
        if head.pooling:
            whose = f"a head on the {head.pooling} hidden state"
        raise RunError(
            f"{whose} is not part of the architecture, so transformers cannot load it",
            where=str(run.folder),
            remedy="predict with Luthier" + ("" if head.module else f", or train with {other}"),
        )
    with new_folder(target) as temporary:
        if is_adapter(run.model):
            fill_merged(run.model, temporary)
        else:
            shutil.copytree(run.model, temporary, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
        difference = read_back(temporary, run, predictor)
        if difference > AGREEMENT:
            raise RunError(f"the exported model differs by {difference:.1e}; nothing was written", where=str(target))
    return difference


def read_back(folder: Path, run: Run, predictor: Predictor, *, rows: int = 8) -> float:
    """Largest logit difference between plain transformers and the run's own answers on test texts."""
    sample = run.lines("predictions/test.jsonl")[:rows]
    texts = [r["text"] for r in sample]
    if predictor.loaded.head.kind != "classes":
        return _tokens_read_back(folder, predictor, texts)
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    pairs = [r["text_pair"] for r in sample]
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = tokenizer(
        texts,
        pairs if pairs[0] is not None else None,
        padding=True,
        truncation=True,
        max_length=predictor.card["max_length"],
        return_tensors="pt",
    )
    if "token_type_ids" not in tokenizer.model_input_names:
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        plain = model(**inputs).logits.double().numpy()
    return float(np.abs(plain - predictor.outputs(texts, pairs if pairs[0] is not None else None)).max())


def _tokens_read_back(folder: Path, predictor: Predictor, texts: list[str]) -> float:
    """The same for models that predict tokens: the logits of every place of each text."""
    import torch
    from transformers import AutoTokenizer

    from luthier.models.batch import collate
    from luthier.models.config import AUTO
    from luthier.models.forward import hidden_states, place_logits, values_of
    from luthier.models.language import head_of

    loaded = predictor.loaded
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        plain = AUTO[loaded.head.kind].from_pretrained(folder, dtype=torch.float32).eval()
    worst = 0.0
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text).input_ids[: min(128, predictor.card["max_length"])]
            inputs = {"input_ids": torch.tensor([ids])}
            example = {"input_ids": ids}
            if loaded.head.kind == "pairs":
                inputs["decoder_input_ids"] = inputs["input_ids"]
                example["source_ids"] = ids
            batch = collate([example], types=loaded.layout.token_types)
            if loaded.head.kind in ("masked", "words", "span"):
                mine = place_logits(loaded.model, batch, loaded.layout, torch.arange(len(ids)))
            elif loaded.head.kind == "vector":
                mine = hidden_states(loaded.model, batch, loaded.layout)
            else:
                mine = head_of(loaded.model).logits(hidden_states(loaded.model, batch, loaded.layout))
            worst = max(worst, float((values_of(plain(**inputs))[0] - mine).abs().max()))
    return worst
