"""Records in columns are the records, from a fraction of the memory."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distilplace.datasets.columns import RecordColumns
from distilplace.datasets.records import PlaceRecord, TrainingSet
from distilplace.datasets.relations import group_relations
from distilplace.tools.bench.scale import landmarks, write_list

RECORDS = [
    PlaceRecord("a/1", "a", Path("/c/1.bin"), (Path("/i/1.png"), Path("/i/2.png")), 1.5, -2.25),
    PlaceRecord("a/2", "a", None, (Path("rel/ü\udcff.png"),), 5735712.123456789, 620084.1, (0.5, 1.0, 2.0, 3.0)),
    PlaceRecord("b/1", "b", Path("x"), (), 0.0, 0.0, as_query=True),
    PlaceRecord("", "", None, (Path("z"),), 0.0, 0.0, upright=True),
]


def test_each_record_comes_back_as_it_was() -> None:
    columns = RecordColumns(iter(RECORDS))
    assert list(columns) == RECORDS
    assert columns[-1] == RECORDS[-1]
    assert columns[1:3] == RECORDS[1:3]
    assert [type(each) for each in (columns[0].northing, columns[1].crop)] == [float, tuple]
    assert list(columns.keys()) == [record.key for record in RECORDS]
    assert list(RecordColumns([])) == []
    with pytest.raises(IndexError):
        columns[4]


def many(count: int) -> Iterator[PlaceRecord]:
    return (
        PlaceRecord(f"train/{i:016x}", "train", None, (Path(f"/data/train/a/b/c/{i:016x}.jpg"),), 0.0, 0.0)
        for i in range(count)
    )


def test_columns_take_a_fifth_of_the_memory_of_objects_at_most() -> None:
    taken = []
    for make in (list, RecordColumns):
        tracemalloc.start()
        kept = make(many(1000))
        taken.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(kept) == 1000
    assert 5 * taken[1] < taken[0]


def test_a_training_set_is_checked_without_an_object_for_every_record() -> None:
    columns, groups = RecordColumns(many(1002)), np.arange(1002) // 3
    tracemalloc.start()
    training = TrainingSet(columns, *group_relations(groups))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1002 * 300  # objects: 600 bytes each
    assert [row.tolist() for row in training.positives[3:5]] == [[4, 5], [3, 5]]
    assert [row.tolist() for row in training.non_negatives[-1:]] == [[999, 1000, 1001]]


def test_a_small_clean_list_is_read_and_trained_on(tmp_path) -> None:
    write_list(tmp_path, 1000, 60)
    lines = landmarks(tmp_path, workers=0)
    assert lines[0].startswith("1000 images of 60 landmarks")
    assert lines[-1].startswith("masks of a batch: ")
