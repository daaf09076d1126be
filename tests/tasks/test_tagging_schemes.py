"""Tags of entities: schemes are written and read back, told apart, and kept to by the likeliest tags."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB1, IOB2, IOBES, Entities

from luthier.tasks import tags as tagged
from luthier.tasks.tags import Entity

SCHEMES = ("bio", "iob1", "bilou", "iobes")


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[Entity], int]:
    """Entities that do not overlap, and how many words there are."""
    length = draw(st.integers(1, 12))
    cuts = sorted(draw(st.sets(st.integers(0, length), max_size=8)))
    spans = [(a, b) for a, b in itertools.pairwise(cuts) if draw(st.booleans())]
    return [Entity(a, b, draw(st.sampled_from(["PER", "LOC", "B-x", "O"]))) for a, b in spans], length


@pytest.mark.parametrize("scheme", SCHEMES)
@given(sentences())
def test_what_is_written_is_read_and_allowed(scheme, sentence):
    entities, length = sentence
    tags = tagged.written(entities, length, scheme)
    assert tagged.entities(tags) == entities
    assert tagged.faults(tags, scheme) == 0
    assert set(tags) <= set(tagged.label_space(sorted({e.label for e in entities}), scheme))


@pytest.mark.parametrize(("scheme", "theirs"), [("bio", IOB2), ("iob1", IOB1), ("iobes", IOBES)])
@given(sentences())
def test_tags_are_those_that_seqeval_reads(scheme, theirs, sentence):
    entities, length = [e for e in sentence[0] if "-" not in e.label], sentence[1]
    tags = tagged.written(entities, length, scheme)
    assert [e.to_tuple()[1:] for e in Entities([tags], theirs).entities[0]] == [(e.label, e.start, e.end) for e in entities]


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B", "E-A", "S-A", "S-B"]), max_size=10))
def test_broken_tags_are_read_as_conlleval_reads_them(tags):
    assert [(e.label, e.start, e.end - 1) for e in tagged.entities(tags)] == get_entities(tags)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_told_from_its_tags(scheme):
    draw = random.Random(0)
    written = []
    for _ in range(50):
        cuts = sorted(draw.sample(range(12), 6))
        spans = [Entity(a, b, draw.choice("XY")) for a, b in itertools.pairwise(cuts)]
        written.append(tagged.written(spans, 12, scheme))
    assert tagged.detect(written) == scheme


def test_a_few_faults_do_not_change_the_scheme():
    assert tagged.detect([["B-A", "I-A", "O"]] * 5 + [["O", "I-A"]]) == "bio"
    assert tagged.faults(["O", "I-A", "I-B"], "bio") == 2
    assert tagged.faults(["B-A", "O"], "bilou") == 1


def test_classes_of_words_are_no_tags_of_entities():
    assert not tagged.are_tags(["NOUN", "VERB", "O"])
    assert not tagged.are_tags(["O", "O"])
    assert tagged.are_tags(["O", "B-PER", "I-PER"] * 10 + ["B_PER"])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_likeliest_tags_are_the_best_allowed_ones_of_all(scheme):
    labels = tagged.label_space(["A", "B"], scheme)
    draw = np.random.default_rng(0)
    lengths = np.array([1, 2, 3, 4, 4, 3])
    scores = draw.normal(size=(6, 4, len(labels)))
    found = tagged.likeliest(scores, lengths, labels, scheme)
    for row, length, said in zip(scores, lengths, found, strict=True):
        ways = [w for w in itertools.product(range(len(labels)), repeat=int(length)) if not tagged.faults([labels[i] for i in w], scheme)]
        best = max(ways, key=lambda w: sum(row[place, tag] for place, tag in enumerate(w)))
        assert tuple(said[:length]) == best
