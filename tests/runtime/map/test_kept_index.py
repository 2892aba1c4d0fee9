"""The FAISS index beside a map: read where it is of this very map, built again where it is not."""

import logging

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.runtime.map import PlaceMap, Space, loaded
from distilplace.runtime.map.kept_index import kept_path
from tests.runtime.map.test_contract import rows

pytest.importorskip("faiss")
SPACE = Space("f" * 64, "m", 32, "cosine")
COUNT = 800


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(loaded, "SMALLEST", 300)


@pytest.fixture(params=["ivfpq", "hnsw"])
def kind(request):
    return request.param


def make(path, seed=0, name="r", count=COUNT):
    vectors, positions = rows(seed, count, SPACE.width)
    with PlaceMap(path, SPACE) as places:
        places.add(name, vectors, positions)
    return vectors


def found(path, kind, queries, caplog):
    """Best ids and similarities of some queries, and how often an index was built."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "distilplace"), PlaceMap(path, index=kind) as places:
        matches = [places.search(query, k=2) for query in queries]
    told = [record.getMessage() for record in caplog.records if "index is built" in record.getMessage()]
    return [[(match.run, match.id, match.similarity) for match in each] for each in matches], told


def test_it_is_built_once_and_answers_the_same(tmp_path, kind, caplog):
    path = tmp_path / "m.db"
    vectors = make(path)
    queries = vectors[:40] + 0.02 * np.random.default_rng(1).normal(size=(40, 32))
    first, told = found(path, kind, queries, caplog)
    assert "800 places" in told[0]
    assert "none is kept beside the map" in told[0]
    assert kept_path(path, kind).is_file()
    again, told = found(path, kind, queries, caplog)
    assert (again, told) == (first, [])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.db", "m.db.index"]


def test_it_follows_what_is_added_and_deleted_since(tmp_path, kind, caplog):
    path = tmp_path / "m.db"
    vectors = make(path)
    found(path, kind, vectors[:1], caplog)
    others = make(path, seed=1, name="new", count=100)
    answers, told = found(path, kind, [others[3], vectors[5]], caplog)
    assert told == []
    assert [each[0][:2] for each in answers] == [("new", COUNT + 4), ("r", 6)]
    written = kept_path(path, kind).read_bytes()
    assert found(path, kind, [others[3]], caplog)[0][0] == answers[0]
    assert kept_path(path, kind).read_bytes() == written  # has grown once, by more than a tenth
    with PlaceMap(path) as places:
        places.delete("r")
        places.compact()
    make(path, seed=2, name="third")
    answers, told = found(path, kind, [others[3], vectors[5]], caplog)
    assert "of other places" in told[0]
    assert answers[0][0][:2] == ("new", COUNT + 4)
    assert {run for each in answers for run, *_ in each} == {"new", "third"}


def test_another_map_in_its_place_is_noticed(tmp_path, kind, caplog, monkeypatch):
    """Even where its run was added in the same second, under the same name."""
    path = tmp_path / "m.db"

    vectors = make(path)
    found(path, kind, vectors[:1], caplog)
    with PlaceMap(path) as places:
        added = places.runs()[0].added
    path.unlink()
    monkeypatch.setattr("distilplace.runtime.map.file.datetime", _Clock(added))
    others = make(path, seed=9)
    answers, told = found(path, kind, [others[7]], caplog)
    assert "of other places" in told[0]
    assert answers[0][0][1] == 8
    assert found(path, kind, [others[7]], caplog) == (answers, [])


class _Clock:
    def __init__(self, text):
        self.text = text

    def now(self, _zone):
        return self

    def isoformat(self, timespec):
        return self.text


def test_damage_is_noticed_and_mended(tmp_path, kind, caplog):
    path = tmp_path / "m.db"
    vectors = make(path)
    wanted, _ = found(path, kind, vectors[:3], caplog)
    kept = kept_path(path, kind)
    whole, draw = kept.read_bytes(), np.random.default_rng(0)
    for at in [0, 9, 20, 60, len(whole) - 1, *draw.integers(len(whole), size=3)]:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << draw.integers(8)
        kept.write_bytes(flipped)
        answers, told = found(path, kind, vectors[:3], caplog)
        assert len(told) == 1, at
        assert [[each[:2] for each in row] for row in answers] == [[each[:2] for each in row] for row in wanted]
        assert found(path, kind, vectors[:1], caplog)[1] == []
    for content in (b"", whole[:8], whole[:1000], b"x" * 5000):
        kept.write_bytes(content)
        kept.with_name(f".{kept.name}.ab12cd34.faiss").write_bytes(content)  # as a writer that was killed leaves it
        assert "damaged" in found(path, kind, vectors[:1], caplog)[1][0]
        assert list(kept.parent.iterdir()) == [kept]


def test_another_kind_or_recipe_under_the_name_is_built_again(tmp_path, caplog, monkeypatch):
    path = tmp_path / "m.db"
    vectors = make(path)
    for kind in ("ivfpq", "hnsw"):
        found(path, kind, vectors[:1], caplog)
    kept_path(path, "hnsw").replace(kept_path(path, "ivfpq"))
    assert "built otherwise" in found(path, "ivfpq", vectors[:1], caplog)[1][0]
    monkeypatch.setattr("distilplace.runtime.map.indexes.CODE_BYTES", 16)
    assert "built otherwise" in found(path, "ivfpq", vectors[:1], caplog)[1][0]


def test_a_folder_that_cannot_be_written_is_told_and_searched(tmp_path, kind, caplog):
    path = tmp_path / "m.db"
    vectors = make(path)
    (tmp_path / "m.db.index").write_text("in the way")
    with caplog.at_level(logging.INFO, "distilplace"), PlaceMap(path, index=kind) as places:
        assert places.search(vectors[4])[0].id == 5
    assert "its index is not kept: cannot write" in caplog.text


def test_small_maps_keep_none(tmp_path, kind, caplog, monkeypatch):
    monkeypatch.setattr(loaded, "SMALLEST", COUNT + 1)
    path = tmp_path / "m.db"
    found(path, kind, make(path)[:1], caplog)
    assert [each.name for each in tmp_path.iterdir()] == ["m.db"]


def test_after_a_damaged_run_was_deleted_the_others_are_found(tmp_path):
    path = tmp_path / "m.db"
    vectors, second = make(path), make(path, seed=1, name="second", count=50)
    with PlaceMap(path) as places:
        stored = places.space.prepared(second)[3].tobytes()
    data = path.read_bytes()
    at = data.index(stored)
    path.write_bytes(data[: at + 5] + bytes([data[at + 5] ^ 4]) + data[at + 6 :])
    with PlaceMap(path) as places:
        with pytest.raises(UserError, match="is damaged"):
            places.search(vectors[5])
        places.delete("second")
        assert [match.id for match in places.search(vectors[5], k=COUNT)] != []
        assert sorted(match.id for match in places.search(vectors[5], k=2 * COUNT)) == list(range(1, COUNT + 1))
        assert places.search(vectors[5])[0].id == 6
