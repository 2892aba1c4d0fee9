"""The map's file: damage, foreign files, several programs, kills; and its indexes."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.runtime.map import PlaceMap, Space, loaded
from tests.runtime.map import crowd
from tests.runtime.map.test_contract import SPACE, rows


def make(path, seed=0, count=50, space=SPACE, **settings):
    vectors, positions = rows(seed, count, space.width)
    with PlaceMap(path, space, **settings) as places:
        places.add("r", vectors, positions, images=[f"{index}.jpg" for index in range(count)])
    return vectors, positions


def test_a_closed_map_is_one_file(tmp_path):
    make(tmp_path / "m.db")
    assert [path.name for path in tmp_path.iterdir()] == ["m.db"]


def test_a_reader_sees_what_another_connection_adds_and_deletes(tmp_path):
    vectors, positions = make(tmp_path / "m.db", count=20)
    others, _ = rows(1, 20)
    with PlaceMap(tmp_path / "m.db") as reader, PlaceMap(tmp_path / "m.db") as writer:
        assert reader.search(others[0])[0].run == "r"
        writer.add("new", others, positions)
        assert reader.search(others[0])[0].run == "new"
        assert len(reader.search(others[0], k=100)) == 40
        writer.delete("r")
        assert {match.run for match in reader.search(vectors[0], k=100)} == {"new"}


def test_while_one_writes_others_read_and_a_second_writer_is_told(tmp_path, monkeypatch):
    vectors, positions = make(tmp_path / "m.db")
    monkeypatch.setattr("distilplace.runtime.map.database.WAIT", 0.05)
    with PlaceMap(tmp_path / "m.db") as reader, PlaceMap(tmp_path / "m.db") as writer:

        def slowly():
            yield vectors[:10]
            assert len(reader.search(vectors[0], k=100)) == 50
            with pytest.raises(UserError, match="is being written by another program"):
                reader.add("second", vectors, positions)
            yield vectors[10:]

        writer.add("first", slowly(), positions)
        assert len(reader.search(vectors[0], k=200)) == 100


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_search_is_exact(tmp_path, metric, dtype):
    space = Space("f" * 64, "m", 24, metric)
    random = np.random.default_rng(0)
    vectors = 3 * random.normal(size=(300, 24)).astype(np.float32)
    queries = vectors[:20] + random.normal(size=(20, 24)).astype(np.float32)
    with PlaceMap(tmp_path / "m.db", space, dtype=dtype) as places:
        places.add("r", vectors, np.zeros((300, 2)))
        for query in queries:
            if metric == "cosine":
                wanted = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
            else:
                wanted = -np.linalg.norm(vectors - query, axis=1)
            best = np.argsort(-wanted)[:5]
            found = places.search(query, k=5)
            assert found[0].id == best[0] + 1
            assert [match.similarity for match in found] == pytest.approx(wanted[best], abs=5e-3)
            assert places.similarities(query) == pytest.approx(wanted, abs=5e-3)


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_faiss_finds_what_is_near_and_follows_changes(tmp_path, kind, metric):
    pytest.importorskip("faiss")
    space = Space("f" * 64, "m", 32, metric)
    vectors, positions = make(tmp_path / "m.db", count=3000, space=space)
    with PlaceMap(tmp_path / "m.db", index=kind) as places, PlaceMap(tmp_path / "m.db") as writer:
        random = np.random.default_rng(1)
        near = [places.search(vectors[row] + 0.02 * random.normal(size=32), k=3)[0].id == row + 1 for row in range(100)]
        assert np.mean(near) >= 0.95
        inside = places.search(vectors[9], k=4, centre=positions[9] + 6.0, radius=9.0)
        with PlaceMap(tmp_path / "m.db", index="exact") as exact:
            wanted = exact.search(vectors[9], k=4, centre=positions[9] + 6.0, radius=9.0)
        assert [match.id for match in inside] == [match.id for match in wanted]
        others, _ = rows(7, 40, 32)
        writer.add("new", others, positions[:40])
        assert places.search(others[5])[0].run == "new"
        writer.delete("r")
        assert {match.run for match in places.search(vectors[5], k=10)} == {"new"}


def test_auto_takes_faiss_above_a_size(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    vectors, _ = make(tmp_path / "m.db", count=500)
    monkeypatch.setattr(loaded, "LARGE", 400)
    with PlaceMap(tmp_path / "m.db") as places:
        assert places.search(vectors[3])[0].image == "3.jpg"
        with pytest.raises(UserError, match="index='exact'"):
            places.similarities(vectors[3])
    with pytest.raises(UserError, match="unknown index 'annoy'"):
        PlaceMap(tmp_path / "m.db", index="annoy")


def test_ids_are_never_used_again(tmp_path):
    vectors, positions = make(tmp_path / "m.db", count=10)
    with PlaceMap(tmp_path / "m.db") as places:
        places.delete("r")
        places.compact()
        places.add("r", vectors, positions)
        assert [match.id for match in places.search(vectors[4], k=1)] == [15]


def content(path):
    """All that a map says, or the one line that refuses it."""
    try:
        with PlaceMap(path) as places:
            found = places.search(np.eye(SPACE.width)[0], k=10_000)
            return places.calibration, places.runs(), sorted(map(repr, found)), places.verify()
    except UserError as error:
        return str(error)


def test_no_damage_goes_unseen(tmp_path):
    path = tmp_path / "m.db"
    make(path, count=60)
    with PlaceMap(path) as places:
        places.calibration = {"threshold": 0.5}
    whole, good = path.read_bytes(), content(path)
    assert good[-1] == 60
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(150):
        bytes_ = bytearray(whole)
        bytes_[random.integers(len(bytes_))] ^= 1 << random.integers(8)
        path.write_bytes(bytes_)
        found = content(path)
        seen.add("same" if found == good else "refused" if isinstance(found, str) else "other")
    for size in [0, 1, 50, 99, 100, 4096, 8192, len(whole) // 2, len(whole) - 8192, len(whole) - 1]:
        path.write_bytes(whole[:size])
        found = content(path)
        assert found == good or str(path) in found, size  # a last page may end in bytes that nothing uses
        assert isinstance(found, str) or size == len(whole) - 1
    assert seen == {"same", "refused"}


def test_a_flipped_bit_of_an_embedding_is_named(tmp_path):
    path = tmp_path / "m.db"
    vectors, _ = make(path)
    data = path.read_bytes()
    with PlaceMap(path) as places:
        stored = places.space.prepared(vectors)[3].tobytes()
    at = data.index(stored)
    path.write_bytes(data[: at + 5] + bytes([data[at + 5] ^ 4]) + data[at + 6 :])
    with pytest.raises(UserError, match=r"m\.db is damaged: place 4 is not as it was"), PlaceMap(path) as places:
        places.search(vectors[0])


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "m.db"
    with pytest.raises(UserError, match="does not exist"):
        PlaceMap(path)
    with pytest.raises(UserError, match="is a folder"):
        PlaceMap(tmp_path)
    path.write_bytes(b"no database at all" * 20)
    for model in (None, SPACE):
        with pytest.raises(UserError, match="is no map of places"):
            PlaceMap(path, model)
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE cookies (name)")
    database.close()
    for model in (None, SPACE):
        with pytest.raises(UserError, match="is no map of places"):
            PlaceMap(path, model)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("PRAGMA user_version = 9", "has format 9, this program reads 1: update DistilPlace"),
        ("CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM places; END", "its tables are others"),
        ("CREATE VIEW v AS SELECT load_extension('x')", "its tables are others"),
        ("UPDATE facts SET value = '{}' WHERE name = 'model'", "its model is not as it was written"),
        ("UPDATE runs SET places = 3", "run r is not as it was written"),
        ("UPDATE places SET easting = 1 WHERE id = 2", "place 2 is not as it was written"),
        ("UPDATE places SET embedding = 7 WHERE id = 2", "a place is not as it was written"),
        ("DELETE FROM places WHERE id = 2", "has 49 of its 50 places"),
    ],
)
def test_what_another_hand_changed_is_refused(tmp_path, statement, message):
    path = tmp_path / "m.db"
    make(path)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(statement)
    database.close()
    assert message in content(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_map_in_a_folder_that_cannot_be_written_is_read(tmp_path):
    vectors, _ = make(tmp_path / "m.db")
    tmp_path.chmod(0o555)
    try:
        with PlaceMap(tmp_path / "m.db") as places:
            assert places.search(vectors[3])[0].image == "3.jpg"
    finally:
        tmp_path.chmod(0o755)


def test_a_map_without_write_access_is_read(tmp_path, monkeypatch):
    vectors, positions = make(tmp_path / "m.db")
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    with PlaceMap(tmp_path / "m.db") as places:
        assert places.search(vectors[3])[0].image == "3.jpg"
        with pytest.raises(UserError, match="check the rights"):
            places.add("new", vectors, positions)


@pytest.mark.slow  # half a minute
def test_kills_lose_nothing_that_was_acknowledged(tmp_path):
    path, acknowledged, random = tmp_path / "m.db", set(), np.random.default_rng(0)
    environment = {**os.environ, "PYTHONPATH": str(Path(crowd.__file__).parents[3])}
    for kill in range(20):
        command = [sys.executable, crowd.__file__, str(path), str(1000 * kill)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
            assert writer.stdout.readline() == "ready\n"
            time.sleep(random.uniform(0.0, 0.3))
            writer.send_signal(signal.SIGKILL)
            acknowledged |= {int(line) for line in writer.stdout.read().splitlines() if line.strip()}
        with PlaceMap(path) as places:
            there = {int(run.name.split()[1]): run.places for run in places.runs()}
            assert acknowledged <= set(there)
            assert set(there.values()) <= {crowd.PLACES}
            assert len(there) <= len(acknowledged) + kill + 1
            assert places.verify() == crowd.PLACES * len(there)
    number = max(acknowledged)
    with PlaceMap(path) as places:
        found = places.search(crowd.vectors(number)[5])[0]
    assert (found.run, found.easting) == (f"run {number}", number)
