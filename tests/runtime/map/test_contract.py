"""What every map does: the same tests for the SQLite file and for Milvus (milvus-lite)."""

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.runtime.map import PlaceMap, Space, open_map
from distilplace.runtime.map.milvus import MilvusMap

WIDTH = 16
SPACE = Space("f" * 64, "resnet18_gem", WIDTH)
BACKENDS = {"sqlite": "m.db", "milvus": "m.milvus.db"}


def rows(seed, count, width=WIDTH):
    """Random embeddings of length 1 and positions along a line, 2 m apart."""
    found = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found, np.stack([500.0 + 2 * np.arange(count), np.full(count, 100.0)], axis=1)


@pytest.fixture(params=BACKENDS, scope="module")
def address(request, tmp_path_factory):
    """An address for a map; a module's tests share it, since a server takes long to start."""
    if request.param == "milvus":
        pytest.importorskip("pymilvus")
        pytest.importorskip("milvus_lite")
    return str(tmp_path_factory.mktemp(request.param) / BACKENDS[request.param])


@pytest.fixture
def places(address):
    with open_map(address, SPACE) as opened:
        for run in opened.runs():
            opened.delete(run.name)
        yield opened


def test_the_address_chooses_the_kind(places, address):
    assert isinstance(places, MilvusMap if "milvus" in address else PlaceMap)


def test_what_was_added_is_found_with_all_its_fields(places):
    vectors, positions = rows(0, 40)
    yaws = np.linspace(0, 1, 40)
    images = [f"left/{index}.jpg" for index in range(40)]
    assert places.add("monday", vectors, positions, timestamps=np.arange(40) + 0.5, yaws=yaws, images=images) == 40
    best = places.search(vectors[7], k=3)
    exact = vectors @ vectors[7]
    assert [match.similarity for match in best] == pytest.approx(np.sort(exact)[::-1][:3], abs=1e-5)
    first = best[0]
    assert (first.run, first.timestamp, first.easting, first.northing) == ("monday", 7.5, 514.0, 100.0)
    assert (first.yaw, first.image) == (yaws[7], "left/7.jpg")
    assert np.isnan(first.altitude)
    assert len({match.id for match in best}) == 3


def test_runs_prior_and_run_filters(places):
    vectors, positions = rows(1, 30)
    places.add("a", vectors, positions)
    places.add("b", vectors[:10], positions[:10] + 1000)
    assert [(run.name, run.places) for run in places.runs()] == [("a", 30), ("b", 10)]
    assert {match.run for match in places.search(vectors[3], k=40)} == {"a", "b"}
    assert {match.run for match in places.search(vectors[3], k=40, run="b")} == {"b"}
    near = places.search(vectors[20], k=40, centre=(510.0, 100.0), radius=4.0)
    assert sorted(match.easting for match in near) == [506.0, 508.0, 510.0, 512.0, 514.0]
    assert [match.easting for match in places.search(vectors[5], k=1, centre=(510.0, 100.0), radius=0.0)] == [510.0]
    assert places.search(vectors[5], centre=(0.0, 0.0), radius=10.0) == []
    assert places.search(vectors[5], centre=(510.0, 100.0), radius=4.0, run="b") == []


def test_a_prior_is_a_circle(places):
    vectors, _ = rows(2, 9)
    grid = np.array([(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)])
    places.add("grid", vectors, grid)
    found = places.search(vectors[0], k=2, centre=(0.0, 0.0), radius=1.0)
    assert len(found) == 2
    assert len(places.search(vectors[0], k=9, centre=(0.0, 0.0), radius=1.0)) == 5
    assert all(match.easting**2 + match.northing**2 <= 1 for match in found)


def test_equal_places_come_in_the_order_of_their_ids(places):
    vectors, positions = rows(3, 1)
    places.add("same", np.repeat(vectors, 12, axis=0), np.repeat(positions, 12, axis=0))
    ids = [match.id for match in places.search(vectors[0], k=12)]
    assert ids == sorted(ids)


def test_deleting_a_run_leaves_the_others(places):
    vectors, positions = rows(4, 20)
    places.add("gone", vectors[:10], positions[:10])
    places.add("kept", vectors[10:], positions[10:])
    assert places.delete("gone") == 10
    places.compact()
    assert [run.name for run in places.runs()] == ["kept"]
    assert {match.run for match in places.search(vectors[0], k=20)} == {"kept"}
    with pytest.raises(UserError, match="unknown run 'gone'"):
        places.delete("gone")
    with pytest.raises(UserError, match="unknown run 'kep': did you mean 'kept'"):
        places.search(vectors[0], run="kep")
    places.add("gone", vectors[:10], positions[:10])
    assert places.search(vectors[0])[0].run == "gone"


def test_a_run_is_added_whole_or_not_at_all(places):
    vectors, positions = rows(5, 20)

    def breaking():
        yield vectors[:8]
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="the camera is gone"):
        places.add("half", breaking(), positions)
    with pytest.raises(UserError, match="8 embeddings for 20 positions"):
        places.add("half", iter([vectors[:8]]), positions)
    with pytest.raises(UserError, match="more embeddings for 5 positions"):
        places.add("half", iter([vectors[:4], vectors]), positions[:5])
    assert places.runs() == []
    assert places.search(vectors[0]) == []
    assert places.add("half", (vectors[start : start + 3] for start in range(0, 20, 3)), positions) == 20
    assert len(places.search(vectors[0], k=50)) == 20
    with pytest.raises(UserError, match="holds a run half already"):
        places.add("half", vectors, positions)
    assert places.runs()[0].places == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.ones((3, WIDTH + 1))}, r"float64 \[3, 17\]: expected numbers \[n, 16\]"),
        ({"embeddings": np.full((3, WIDTH), np.nan)}, "not finite"),
        ({"embeddings": "words"}, "embeddings are"),
        ({"positions": np.ones((3, 3))}, "easting and northing"),
        ({"positions": np.full((3, 2), np.inf)}, "not finite"),
        ({"positions": np.ones((0, 2))}, "at least one row"),
        ({"timestamps": [1, 2]}, r"timestamps are \[2\] for 3"),
        ({"images": ["a"]}, "1 image paths for 3"),
        ({"run": ""}, "run name"),
        ({"run": "two\nlines"}, "run name"),
    ],
)
def test_rows_that_cannot_be_are_refused(places, change, message):
    given = {"run": "r", "embeddings": np.ones((3, WIDTH)), "positions": np.ones((3, 2)), **change}
    with pytest.raises(UserError, match=message):
        places.add(**given)
    assert places.runs() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "0 places"),
        ({"centre": (0, 0)}, "both or neither"),
        ({"centre": (0, 0), "radius": -1.0}, "finite metres"),
        ({"centre": ("here", 0), "radius": 1.0}, "is none"),
        ({"embedding": np.ones(3)}, "expected numbers"),
        ({"embedding": np.full(WIDTH, np.inf)}, "not finite"),
    ],
)
def test_queries_that_cannot_be_are_refused(places, change, message):
    with pytest.raises(UserError, match=message):
        places.search(**{"embedding": np.ones(WIDTH), **change})


def test_another_models_map_is_refused(places, address):
    with pytest.raises(UserError, match=r"was made by another model: resnet18_gem ffff.*not netvlad 0000"):
        open_map(address, Space("0" * 64, "netvlad", WIDTH))
    with open_map(address) as again:
        assert again.space == SPACE


def test_a_student_of_the_map_s_model_queries_it_and_adds_nothing(places, address):
    vectors, positions = rows(7, 12)
    places.add("teacher", vectors, positions)
    student = Space("5" * 64, "resnet18", WIDTH, maps=("e" * 64, SPACE.fingerprint))
    with open_map(address, student) as opened:
        assert opened.space == SPACE
        assert opened.search(vectors[3], k=1)[0].easting == positions[3, 0]
        with pytest.raises(UserError, match=r"takes places from the model that made it, resnet18_gem ffff"):
            opened.add("student", vectors, positions)
    for other in (
        Space("5" * 64, "resnet18", WIDTH, maps=("e" * 64,)),
        Space("5" * 64, "x", WIDTH + 1, maps=("f" * 64,)),
    ):
        with pytest.raises(UserError, match="was made by another model"):
            open_map(address, other)


def test_calibration_and_info_are_kept(places, address):
    places.calibration = {"threshold": 0.25, "weights": [1.0, 2.0]}
    with open_map(address) as again:
        assert again.calibration == {"threshold": 0.25, "weights": [1.0, 2.0]}
    places.calibration = None
    assert places.calibration is None
    vectors, positions = rows(6, 5)
    places.add("r", vectors, positions)
    info = places.info()
    assert (info["places"], info["model"], info["width"], info["calibrated"]) == (5, "resnet18_gem", WIDTH, False)
    assert info["runs"][0]["name"] == "r"


def test_a_map_that_is_not_there_is_named(address, tmp_path):
    absent = str(tmp_path / ("x.milvus.db" if "milvus" in address else "x.db"))
    with pytest.raises(UserError, match=r"x\.(milvus\.)?db"):
        open_map(absent)
