"""What becomes of each candidate: kept, or dropped by which filter and why.

Enters: the candidates of a round. Leaves: a fate for each. What costs nothing comes first (repeats, length, language), then the
kind's own rule and the grade, which ask models, and at the end the repeats again, within the round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from luthier.alignment.reading import last_grade
from luthier.data.stages.language import identifier
from luthier.errors import Fault as Wrong
from luthier.errors import RecipeError
from luthier.recipe.synthesis.options import GRADE, SynthesisOptions
from luthier.registry import nearest
from luthier.workshop.asking.request import Request
from luthier.workshop.asking.voice import Voice
from luthier.workshop.synthesis.kind import Candidate, Kind, listed
from luthier.workshop.synthesis.known import Known

GRADING_TOKENS = 8
FILTERS = ("exact", "near", "length", "language", "quoted", "classifier", "judge", "grade", "wanted")
TOLD = {"exact": "stands there already", "near": "is nearly one that stands there already", "wanted": "beyond the rows that are wanted"}


class Fate(NamedTuple):
    """A candidate and, where it is dropped, the filter and its reason."""

    candidate: Candidate
    filter: str | None
    reason: str


class Sieve:
    """Knows all that is there; what it keeps is there from then on."""

    def __init__(self, options: SynthesisOptions, kind: Kind, voice: Voice, known: Known) -> None:
        """Raises RecipeError for a language that cannot be told."""
        self.options, self._kind, self._voice, self._known = options, kind, voice, known
        for code in options.languages or []:
            if code not in identifier().nb_classes:
                guess = nearest(code, identifier().nb_classes)
                raise RecipeError([Wrong(f"unknown language {code!r}", "languages", f"did you mean {guess}?" if guess else None)])

    def sift(self, candidates: Sequence[Candidate], *, room: int) -> list[Fate]:
        """A fate for each, in their order; `room` is how many may be kept."""
        fates: dict[int, Fate] = {}
        current = dict(enumerate(candidates))

        def drop(place: int, filter: str, reason: str) -> None:
            fates[place] = Fate(current.pop(place), filter, reason)

        for place, c in list(current.items()):
            found = self._cheaply(c)
            if found is not None:
                drop(place, *found)
        places = list(current)
        for place, result in zip(places, self._kind.choose([current[p] for p in places], self._voice), strict=True):
            if isinstance(result, str):
                name, _, reason = result.partition(": ")
                drop(place, name, reason)
            else:
                current[place] = result
        for place, why in self._graded(current).items():
            drop(place, "grade", why)
        for place, c in list(current.items()):
            like = self._known.like(c.text)
            if like is not None:
                drop(place, like, TOLD[like])
            elif room <= 0:
                drop(place, "wanted", TOLD["wanted"])
            else:
                room -= 1
                self._known.add(c.text)
                fates[place] = Fate(c, None, "")
        return [fates[p] for p in range(len(candidates))]

    def _cheaply(self, candidate: Candidate) -> tuple[str, str] | None:
        o, text = self.options, candidate.text
        like = self._known.like(text)
        if like is not None:
            return like, TOLD[like]
        count = len(" ".join(map(str, candidate.row.values())).split())
        if not o.min_words <= count <= o.max_words:
            return "length", f"{count} words"
        if o.languages is not None:
            code, _ = identifier().classify(text)
            if code not in o.languages:
                return "language", str(code)
        return None

    def _graded(self, current: dict[int, Candidate]) -> dict[int, str]:
        """Why candidates are dropped for their grade."""
        least = self.options.min_grade
        if least is None:
            return {}
        requests = [Request(GRADE.format(text=listed([c.row])), 0.0, GRADING_TOKENS, 0) for c in current.values()]
        found = {}
        for place, answer in zip(current, self._voice.ask(requests), strict=True):
            grade = last_grade(answer.text, highest=10) if answer.text is not None else None
            if grade is None or not 1 <= grade <= 10:
                found[place] = "no grade"
            elif grade < least:
                found[place] = f"graded {float(grade):g}"
        return found
