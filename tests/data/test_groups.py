"""Groups: rows that share one stay on one side of a split, by way of others too."""

from __future__ import annotations

import random

import pytest

from luthier.data.prepare import assemble, read_files
from luthier.data.split import linked
from luthier.errors import DataError
from luthier.recipe.sections import Data
from luthier.tasks.causal import Causal


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_linked_by_key_and_group_as_in_a_graph(seed):
    draw = random.Random(seed)
    rows = [(f"k{draw.randrange(30)}", draw.choice(["", f"g{draw.randrange(20)}"])) for _ in range(60)]
    found = linked([k for k, _ in rows], [g for _, g in rows])
    parts = [{i} for i in range(len(rows))]  # the plain way: join what shares something, until nothing changes
    changed = True
    while changed:
        changed = False
        for i, (key, group) in enumerate(rows):
            for j, (other, its) in enumerate(rows):
                if (key == other or (group and group == its)) and parts[i] is not parts[j]:
                    joined = parts[i] | parts[j]
                    for member in joined:
                        parts[member] = joined
                    changed = True
    for i in range(len(rows)):
        assert {j for j in range(len(rows)) if found[j] == found[i]} == parts[i]


def prepared(write_csv, **more):
    draw = random.Random(0)
    rows = [[f"text {i if i % 7 else 'again'}", f"g{draw.randrange(40)}"] for i in range(200)]
    data = Data(train=[str(write_csv("rows.csv", ["text", "patient"], rows))], **more)
    task = Causal(None, data)  # type: ignore[arg-type]
    read, _ = read_files(data, folder=write_csv("x.csv", ["a"], []).parent)
    return assemble(read, data, record=task.record, stratum=lambda r: "all", seed=0)


def test_no_group_and_no_text_is_on_two_sides(write_csv):
    parts = prepared(write_csv, group="patient").parts
    for what in ("group", "key"):
        sides = [{getattr(r, what) for r in records} for records in parts.values()]
        assert all(sides)
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]
    free = prepared(write_csv).parts
    assert not any(r.group for records in free.values() for r in records)


def test_a_group_of_the_test_file_in_training_is_counted(write_csv):
    test = write_csv("test.csv", ["text", "patient"], [["new text", "g1"], ["other text", "nobody"]])
    found = prepared(write_csv, group="patient", test=[str(test)])
    assert found.summary["train_texts_also_in_test"] == sum(r.group == "g1" for r in found.parts["train"]) > 0


def test_a_missing_column_is_told(write_csv):
    with pytest.raises(DataError, match=r"data\.group: no column 'pat'"):
        prepared(write_csv, group="pat")
