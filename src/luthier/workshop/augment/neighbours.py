"""Synonyms from an encoder: words whose input embeddings are near, in texts that keep their vector.

The input table of a trained encoder puts words near that stand in the same places, opposites among them; what the encoder makes
of the whole text with the word in it tells many of these apart (as in Jin et al., TextFooler, AAAI 2020, who check with a sentence
encoder too). What passes is still a guess: `check` asks a classifier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.augment.augmenter import Ask, Draft, Source, varied
from luthier.data.augment.lexicon import WORD, replaced
from luthier.workshop.asking.engines import source_of

if TYPE_CHECKING:
    from luthier.recipe.augment.neighbours import NeighboursOptions

PIECE = re.compile(r"##|^[ĠĊ▁]")
BLOCK = 256


class Neighbours:
    """Holds the encoder, and for each word of the texts (the, of, not ... aside) those that are near."""

    def __init__(self, options: NeighboursOptions, pool: Sequence[Source], *, folder: Path, where: str) -> None:
        """Load the encoder. Raises EndpointError or ModelError where it cannot be."""
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        from luthier.workflow.similar import Embedder

        self.options, self.pool = options, pool
        self._embedder = Embedder(source_of(options.model, folder=folder, where=f"{where}.model"))
        words = {w.group().lower() for s in pool for w in WORD.finditer(s.text)} - ENGLISH_STOP_WORDS
        self._near = near_words(
            self._embedder.loaded.model, self._embedder.loaded.tokenizer, words, among=options.among, least=options.min_similarity
        )

    def __call__(self, asked: Sequence[Ask]) -> list[Draft]:
        texts = [self.pool[a.place].text for a in asked]
        drafts = [
            varied(replaced(text, self._near, rate=self.options.rate, draw=a.draw), text) for a, text in zip(asked, texts, strict=True)
        ]
        made = [i for i, d in enumerate(drafts) if d.text is not None]
        if not made:
            return drafts
        before = self._embedder.vectors([texts[i] for i in made])
        after = self._embedder.vectors([str(drafts[i].text) for i in made])
        for i, cosine in zip(made, (before * after).sum(axis=1).tolist(), strict=True):
            if cosine < self.options.min_text_similarity:
                drafts[i] = Draft(None, why="the encoder finds another meaning")
        return drafts


def near_words(model: Any, tokenizer: Any, words: set[str], *, among: int, least: float) -> dict[str, list[str]]:
    """For each of the words that is one token: the words nearest to it by the model's input embeddings, centred.

    A word that only adds an ending (s, ed ...) or a capital letter is no other word.
    """
    table: NDArray[np.float32] = model.get_input_embeddings().weight.detach().float().cpu().numpy()
    vocabulary: dict[str, int] = {}
    starts = any(t.startswith(("Ġ", "▁")) for t in tokenizer.get_vocab())
    for token, number in tokenizer.get_vocab().items():
        word = PIECE.sub("", token)
        whole = token[:1] in "Ġ▁" if starts else not token.startswith("##")
        if whole and len(word) > 1 and WORD.fullmatch(word) and number < len(table):
            vocabulary.setdefault(word.lower(), number)
    known, names = [w for w in sorted(words) if w in vocabulary], list(vocabulary)
    vectors = table[[vocabulary[n] for n in names]]
    vectors = vectors - vectors.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    place = {n: i for i, n in enumerate(names)}
    found: dict[str, list[str]] = {}
    for first in range(0, len(known), BLOCK):
        block = known[first : first + BLOCK]
        cosines = vectors[[place[w] for w in block]] @ vectors.T
        for word, line in zip(block, cosines, strict=True):
            nearest = np.argsort(-line, kind="stable")[: among * 4 + 1]
            others = [names[i] for i in nearest if line[i] >= least and not _same_word(word, names[i])]
            found[word] = others[:among]
    return found


def _same_word(a: str, b: str) -> bool:
    """Whether two words are forms of one: they differ in their last letters only."""
    short, long = sorted((a, b), key=len)
    stem = max(3, len(short) - 1)
    return a == b or (len(long) - len(short) <= 3 and long[:stem] == short[:stem])
