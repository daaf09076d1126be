"""A reward model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.alignment.limit import Overrun, within
from luthier.alignment.rewards.reward import Asked, Marks, Messages, Row, beside
from luthier.errors import RewardError
from luthier.recipe.rewards.model import ModelOptions

TASK = "reward"


class ModelReward:
    """What it thinks of the completions."""

    def __init__(self, options: ModelOptions, *, folder: Path, where: str) -> None:
        """Raises RewardError for a run that is not there or learned something else, ModelError for one that cannot be loaded."""
        self.options = options
        found = _model_folder(options.run, folder, f"{where}.run")
        import torch  # only where there is a model to load

        from luthier.inference.model import Predictor, read_card
        from luthier.models.source import Source, fingerprint

        self.facts = {"run": options.run, **fingerprint(Source(str(found), str(found), None), None)}
        """What judged, for the record of what learned from it."""
        learned = read_card(found)["task"]["type"]
        if learned != TASK:
            raise RewardError(
                f"{options.run} learned the task {learned}, not {TASK}", where=f"{where}.run", remedy="name a run of the task reward"
            )
        self.predictor = Predictor(found, threads=torch.get_num_threads())

    def __call__(self, prompt: Messages, completions: Sequence[str], row: Row) -> Marks:
        """The scores of one prompt's completions."""
        return self.together([Asked(prompt, completions, row)])[0]

    def together(self, asked: Sequence[Asked]) -> list[Marks]:
        """All completions in shared batches; one that the model cannot read has no score, and the others theirs."""
        rows: list[dict[str, Any]] = [{"prompt": [dict(m) for m in a.prompt], "completion": text} for a in asked for text in a.completions]
        try:
            scores, faults = within(self.options.timeout * max(1, len(asked)), lambda: self._scores(rows))
        except Overrun:
            raise RewardError(f"took longer than {self.options.timeout:g} s for each prompt") from None
        marks, start = [], 0
        for a in asked:
            end = start + len(a.completions)
            own = {i - start: reason for i, reason in faults.items() if start <= i < end}
            marks.append(Marks(scores[start:end], faults=own))
            start = end
        return marks

    def _scores(self, rows: list[dict[str, Any]]) -> tuple[list[float | None], dict[int, str]]:
        faults = {i: reason for i, reason in enumerate(self.predictor.refusals(rows)) if reason is not None}
        kept = [i for i in range(len(rows)) if i not in faults]
        scores: list[float | None] = [None] * len(rows)
        for i, answer in zip(kept, self.predictor.predict([rows[i] for i in kept]), strict=True):
            scores[i] = float(answer["reward"])
        return scores, faults


def _model_folder(name: str, folder: Path, where: str) -> Path:
    """The model folder of a run: a folder, or the name of one under runs/."""
    for place in (name, f"runs/{name}"):
        path = beside(place, folder)
        for candidate in (path, path / "model") if path is not None else ():
            if (candidate / "luthier.json").is_file():
                return candidate
    raise RewardError(f"no reward model {name}", where=where, remedy="give a run's name or folder; see luthier runs")
