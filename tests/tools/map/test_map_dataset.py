"""``distilplace map add --dataset`` and ``--model best.safetensors``, on small drives with their clouds."""

import shlex
from dataclasses import replace

import numpy as np
import pytest

import distilplace
from distilplace import cli
from distilplace.datasets import create_dataset
from distilplace.models.checkpoints import save_weights
from distilplace.runtime import PlaceMap, Student
from tests.miniature_frames import straight, write_run
from tests.miniature_images import numbered, write_images, write_truth
from tests.runtime.students import expected, write_student
from tests.tools.export.conftest import card_of, small_network

LINE = "map add town.db --dataset frames --dataset_folder drives --model student.onnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two drives along one street (the second 1 m beside the first) in drives/, a student and two weights files."""
    folder = tmp_path_factory.mktemp("dataset_maps")
    for number, name in enumerate(("monday", "tuesday")):
        places = straight(400, 10.0, northing=float(number), easting=4000.0)
        write_run(folder / "drives" / name, places, cameras=("image_front",), seed=number)
    write_student(folder / "student.onnx")
    save_weights(small_network(output_dim=16), folder / "best.safetensors", card_of("resnet18", {"output_dim": 16}, 16))
    teacher = replace(card_of("minkloc", {}, 128), role="teacher")
    save_weights(small_network("minkloc"), folder / "teacher.safetensors", teacher)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "town.db").unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="module")
def database(folder):
    """Run name -> its records, as evaluation retrieves them."""
    found = create_dataset("frames", dataset_folder=folder / "drives").evaluation_set()
    return dict(zip(found.runs, found.database, strict=True))


def run(line, capsys, code=0):
    assert cli.main(shlex.split(line)) == code
    shown = capsys.readouterr()
    return shown.out if code == 0 else shown.err.splitlines()[-1]


def test_the_database_runs_of_a_data_set_are_added(here, database, capsys):
    shown = run(LINE, capsys)
    assert [f"run {name} added, {len(records)} places" in shown for name, records in database.items()] == [True, True]
    student = Student("student.onnx")
    with PlaceMap("town.db", student.metadata) as places:
        columns = places.columns()
        wanted = [record for records in database.values() for record in records]
        assert columns["easting"].tolist() == [record.easting for record in wanted]
        assert columns["northing"].tolist() == [record.northing for record in wanted]
        for row, record in enumerate(wanted[:3]):
            vector = expected(student.preprocessing.apply(record.images[0]))
            (match,) = places.search(vector, k=1)
            assert (match.id, match.image) == (row + 1, str(record.images[0]))
            assert match.similarity == pytest.approx(1, abs=1e-5)


def test_one_run_of_a_data_set(here, database, capsys):
    run(f"{LINE} --run tuesday", capsys)
    with PlaceMap("town.db") as places:
        assert [(each.name, each.places) for each in places.runs()] == [("tuesday", len(database["tuesday"]))]
    assert "holds a run tuesday already" in run(LINE, capsys, 2)
    with PlaceMap("town.db") as places:
        assert [each.name for each in places.runs()] == ["tuesday"]


def test_a_bad_image_in_the_last_run_leaves_no_map(here, database, capsys):
    picture = database["tuesday"][-1].images[0]
    whole = picture.read_bytes()
    picture.write_bytes(whole[:40])
    try:
        assert picture.name in run(LINE, capsys, 2)
    finally:
        picture.write_bytes(whole)
    assert not (here / "town.db").exists()


def test_a_weights_file_makes_and_searches_a_map(here, database, capsys):
    run(LINE.replace("student.onnx", "best.safetensors"), capsys)
    network, record = distilplace.load("best.safetensors"), database["monday"][2]
    with PlaceMap("town.db", network.metadata) as places:
        assert (places.space.fingerprint, places.space.width) == (network.card.fingerprint, 16)
        (match,) = places.search(network.embed(record.images[0])[0], k=1)
        assert match.similarity == pytest.approx(1, abs=1e-5)
        stored = places.similarities(np.ones(16))
    vectors = network.embed([each.images[0] for records in database.values() for each in records])
    assert stored == pytest.approx(vectors.sum(axis=1) / np.linalg.norm(vectors, axis=1) / 4, abs=1e-4)
    found = run(f"map search town.db {record.images[0]} --model best.safetensors --k 1", capsys)
    assert str(record.images[0]) in found
    assert "made by another model" in run(f"map search town.db {record.images[0]} --model student.onnx", capsys, 2)


def test_a_teacher_of_clouds_makes_a_map_of_a_data_set_and_not_of_images(here, database, capsys):
    run(LINE.replace("student.onnx", "teacher.safetensors"), capsys)
    with PlaceMap("town.db") as places:
        assert [each.places for each in places.runs()] == [len(records) for records in database.values()]
        assert places.space.fingerprint == distilplace.load("teacher.safetensors").card.fingerprint
    line = "map add town.db --images drives/monday/image_front --positions drives/monday/poses.csv"
    told = run(f"{line} --model teacher.safetensors", capsys, 2)
    assert "is a teacher that reads coords, features, and here are images alone" in told
    picture = database["monday"][2].images[0]
    told = run(f"map search town.db {picture} --model teacher.safetensors", capsys, 2)
    assert "and here are images alone" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("student.onnx", "absent.safetensors"), "weights file absent.safetensors does not exist"),
        (("frames", "frame"), "unknown data set 'frame': did you mean 'frames'"),
        (("drives", "nowhere"), "data set folder nowhere does not exist"),
        (("--dataset_folder drives", ""), "--dataset_folder"),
        (("--dataset frames ", ""), "--images FOLDER --positions poses.csv, or --dataset NAME"),
        (("--dataset frames", "--images drives/monday/image_front --positions drives/monday/poses.csv"), "belongs to"),
        (("--model", "--positions drives/monday/poses.csv --model"), "a data set has its own"),
        (("--model", "--run wednesday --model"), "unknown run 'wednesday': did you mean 'tuesday'"),
    ],
)
def test_mistakes_are_one_line_and_make_no_map(here, capsys, change, message):
    assert message in run(LINE.replace(*change), capsys, 2)
    assert not (here / "town.db").exists()


def test_data_sets_without_metres_are_refused(here, capsys):
    names = numbered(range(6))
    write_images(here / "pictures", names, names)
    write_truth(here / "pictures", [(name, name) for name in names])
    line = LINE.replace("frames", "images").replace("drives", "pictures")
    assert "data set images has no places with positions in metres" in run(line, capsys, 2)
    assert not (here / "town.db").exists()
