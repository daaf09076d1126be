"""CoNLL-U and columns of tags: words with their places in the text, and broken sentences set aside."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.conll import joined, offsets_of
from luthier.data.rows import read
from luthier.errors import DataError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def line(number: str, form: str, *, upos: str = "X", head: str = "0", misc: str = "_", lemma: str = "_") -> str:
    return "\t".join([number, form, lemma, upos, "_", "_", head, "dep", "_", misc])


def conllu(*lines: str, text: str | None = None) -> str:
    return "\n".join(["# sent_id = 1", *([f"# text = {text}"] if text else []), *lines]) + "\n\n"


FRENCH = conllu(
    line("1", "Je", head="2"), line("2", "viens"), line("3-4", "du", misc="_"), line("3", "de", head="5"), line("4", "le", head="5"),
    line("4.1", "vieux"), line("5", "café", head="2", misc="SpaceAfter=No"), line("6", ".", upos="PUNCT", head="2"),
    text="Je viens du café.",
)  # fmt: skip


@pytest.mark.parametrize("name", ["fr.conllu", "fr.conllu.gz"])
def test_words_have_their_places_in_the_text(tmp_path, name):
    found = read(write(tmp_path, name, FRENCH + "\n" + FRENCH))
    assert len(found.rows) == 2
    values = found.rows[0].values
    assert values["words"] == ["Je", "viens", "de", "le", "café", "."]
    assert values["offsets"] == [[0, 2], [3, 8], [9, 11], [9, 11], [12, 16], [16, 17]]
    assert values["head"] == [2, 0, 5, 5, 2, 2]
    assert values["upos"][-1] == "PUNCT"
    assert values["xpos"] == [None] * 6
    assert f"{name}: 2 empty nodes left out" in found.notes
    assert [r.line for r in found.rows] == [3, 15]


def test_parts_of_a_token_have_places_of_their_own_where_they_are_seen_in_it(tmp_path):
    text = conllu(
        line("1", "We", head="2"), line("2-3", "didn't", misc="SpaceAfter=No"), line("2", "did"), line("3", "n't", head="2"), line("4", "!")
    )
    values = read(write(tmp_path, "en.conllu", text)).rows[0].values
    assert values["text"] == "We didn't!"
    assert [values["text"][a:b] for a, b in values["offsets"]] == ["We", "did", "n't", "!"]


def test_an_underscore_is_a_word_and_its_lemma(tmp_path):
    values = read(write(tmp_path, "en.conllu", conllu(line("1", "_", upos="SYM"), line("2", "a", upos="_")))).rows[0].values
    assert (values["words"], values["lemma"], values["upos"]) == (["_", "a"], ["_", None], ["SYM", None])


def test_a_text_that_is_not_its_words_is_replaced_and_counted(tmp_path):
    found = read(write(tmp_path, "en.conllu", conllu(line("1", "Hi"), line("2", "you"), text="Hello you")))
    assert found.rows[0].values["text"] == "Hi you"
    assert any("1 sentences whose text is not their words" in n for n in found.notes)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([line("1", "a"), "2\tb\t_"], "3 columns where CoNLL-U has 10, in line 15"),
        ([line("1", "a"), line("3", "b")], "word '3' where 2 was expected"),
        ([line("1", "a", head="7")], "the head of word 1 is '7'"),
        ([line("1", " ")], "an empty word"),
        ([line("2-3", "ab"), line("1", "a")], "multi-word token 2-3 is out of place"),
        ([line("1-2", "ab"), line("1", "a")], "goes on past the last word"),
    ],
)
def test_a_broken_sentence_is_set_aside_whole(tmp_path, lines, reason):
    found = read(write(tmp_path, "x.conllu", FRENCH + "\n" + conllu(*lines)))
    assert len(found.rows) == 1
    assert reason in found.quarantined[0].reason
    assert found.quarantined[0].line == 14


@pytest.mark.parametrize("separator", ["\t", " "])
def test_the_columns_of_conll_2003(tmp_path, separator):
    rows = [
        ["-DOCSTART-", "-X-", "O", "O"],
        [],
        ["EU", "NNP", "I-NP", "B-ORG"],
        ["#", "NN", "I-NP", "O"],
        [],
        ["#", "NN", "O", "O"],
        ["1", "CD", "O", "O"],
    ]
    found = read(write(tmp_path, "eng.conll", "\r\n".join(separator.join(r) for r in rows)))
    assert [r.values["words"] for r in found.rows] == [["EU", "#"], ["#", "1"]]
    assert found.rows[0].values["tags"] == ["B-ORG", "O"]
    assert found.rows[0].values["column2"] == ["NNP", "NN"]
    assert found.rows[0].values["text"] == "EU #"
    assert found.rows[1].line == 6
    assert any("1 lines -DOCSTART- left out" in n for n in found.notes)


def test_numbered_lines_with_comments_and_columns_that_only_some_have(tmp_path):
    text = "# newdoc id = x\n# text = Al-Zaman : yes\n1\tAl\tB-ORG\t-\tstephen\n2\t-\tI-ORG\t-\tstephen\n3\tZaman\tI-ORG\n4\t:\tO\n5\tyes\tO\n\n"
    found = read(write(tmp_path, "x.iob2", text))
    values = found.rows[0].values
    assert values["text"] == "Al-Zaman : yes"
    assert values["offsets"][:3] == [[0, 2], [2, 3], [3, 8]]
    assert values["tags"] == ["B-ORG", "I-ORG", "I-ORG", "O", "O"]
    assert found.notes == ["x.iob2: columns read as id, words, tags"]


def test_columns_may_be_named(tmp_path):
    path = write(tmp_path, "x.bio", "B-A 1 so\nO 2 it\n\n")
    values = read(path, columns=["tags", "count", "words"]).rows[0].values
    assert (values["words"], values["tags"], values["count"]) == (["so", "it"], ["B-A", "O"], ["1", "2"])
    with pytest.raises(DataError, match="no column is called 'words'"):
        read(path, columns=["a", "b", "c"])


def test_a_line_with_too_few_columns_sets_its_sentence_aside(tmp_path):
    found = read(write(tmp_path, "x.iob", "a\tO\nb\tO\n\nc\tO\nd\n\ne\tO\nf\tO\n\n" * 5))
    assert len(found.rows) == 10
    assert found.quarantined[0][1:3] == (4, "1 columns where the file has 2, in line 5")


def test_words_alone_are_refused(tmp_path):
    with pytest.raises(DataError, match="words only, no tags"):
        read(write(tmp_path, "x.conll", "so\nit\n\nis\n"))


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs", "Z", "C"]), min_size=1, max_size=5), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_joined_words_are_found_again(parts):
    words, spaces = [w for w, _ in parts], [s for _, s in parts]
    text, offsets = joined(words, spaces)
    assert [text[a:b] for a, b in offsets] == words
    assert offsets_of(words, text) == offsets
    assert offsets_of([*words, "x"], text) is None
