"""``distilplace map``: as the guide shows it, and users' mistakes in one line."""

import csv
import io
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from distilplace import cli
from tests.conftest import ROOT
from tests.runtime.students import write_student

GUIDE = ROOT / "docs" / "guide" / "maps.md"


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """Twelve distinct images 2 m apart in monday/image_front, poses.csv beside it, a student and a photo."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "monday" / "image_front"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    lines = ["frame,timestamp,easting,northing,yaw"]
    for index in range(12):
        Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(folder / f"{index:04d}.png")
        lines.append(f"{index:04d},{0.5 * index},{4230 + 2 * index},880,0.1")
    (tmp_path / "monday" / "poses.csv").write_text("\n".join(lines) + "\n")
    Image.open(folder / "0007.png").save(tmp_path / "photo.png")
    write_student(tmp_path / "student.onnx", model="resnet18_gem")
    return tmp_path


ADD = "map add town.db --images monday/image_front --positions monday/poses.csv --model student.onnx --run monday"


def run(line, capsys, code=0):
    assert cli.main(shlex.split(line)) == code
    shown = capsys.readouterr()
    return shown.out if code == 0 else shown.err.splitlines()[-1]


def test_the_guides_commands_print_what_it_shows(drive, capsys):
    blocks = re.findall(r"```console\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        command, _, wanted = block.partition("\n")
        shown = run(command.removeprefix("$ distilplace "), capsys)
        shown = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+\+00:00", "2026-01-31T09:30:00+00:00", shown)
        shown = re.sub(r"(resnet18_gem) [0-9a-f]{12}", r"\1 3f1c09a2b7de", shown)
        assert shown.strip() == wanted.strip()


def test_the_guides_python_searches(drive, capsys):
    run(ADD, capsys)
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    exec(block, {})
    lines = [tuple(map(float, line.split())) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == pytest.approx((4244.0, 880.0, 1.0), abs=1e-5)
    assert {east for east, *_ in lines} == {4242.0, 4244.0, 4248.0}  # as the command prints with the same circle


def test_search_as_json_and_csv(drive, capsys):
    run(ADD, capsys)
    line = "map search town.db photo.png --model student.onnx --k 2"
    found = json.loads(run(f"{line} --json", capsys))
    assert [each["rank"] for each in found] == [1, 2]
    assert (found[0]["easting"], found[0]["yaw"], found[0]["altitude"]) == (4244.0, 0.1, None)
    assert found[0]["image"].endswith("0007.png")
    rows = list(csv.DictReader(io.StringIO(run(f"{line} --csv", capsys))))
    assert (rows[0]["easting"], rows[0]["altitude"]) == ("4244.0", "")
    prior = json.loads(run(f"{line} --json --centre 4234,880 --radius 2.5", capsys))
    assert {each["easting"] for each in prior} <= {4232.0, 4234.0, 4236.0}
    assert "no place" in run(f"{line} --centre 0,0 --radius 1", capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--positions monday/poses.csv", ""), "--images needs --positions"),
        (("--images monday/image_front", ""), "--images FOLDER --positions poses.csv, or --dataset NAME"),
        (("monday/image_front", "nowhere"), "image folder nowhere does not exist"),
        (("monday/image_front", "monday"), "holds no image"),
        (("monday/poses.csv", "nowhere.csv"), "nowhere.csv does not exist"),
        (("student.onnx", "student.txt"), "neither .onnx nor .safetensors"),
        (("student.onnx", "absent.onnx"), "absent.onnx does not exist"),
        (("town.db", "student.onnx"), "is no map of places"),
        (("--run monday", "--run ''"), "run name '' is none"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(drive, capsys, change, message):
    before = sorted(drive.iterdir())
    assert message in run(ADD.replace(*change), capsys, 2)
    assert sorted(drive.iterdir()) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("easting", "lon", "column(s) easting missing"),
        ("0003,1.5,4236", "0003,1.5,here", "line 5: easting of frame 0003 is 'here'"),
        ("0003,", "0002,", "line 5: frame 0002 is already on line 4"),
        ("0003,", "0099,", "line 5: frame 0099 has no image in monday/image_front"),
        ("0003,1.5,4236", "0003,1.5,423600", "from the frames before and after it"),
        (",0.1\n0004", "\n0004", "line 5: 4 values for 5 columns"),
    ],
)
def test_bad_tables_are_named_with_their_line(drive, capsys, old, new, message):
    table = drive / "monday" / "poses.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    assert message in run(ADD, capsys, 2)
    assert not (drive / "town.db").exists()


def test_a_bad_image_leaves_no_map_and_an_existing_one_as_it_was(drive, capsys):
    picture = drive / "monday" / "image_front" / "0011.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:40])
    assert "0011.png" in run(ADD, capsys, 2)
    assert list(drive.glob("town.db*")) == []
    picture.write_bytes(whole)
    run(ADD, capsys)
    picture.write_bytes(whole[:40])
    assert "0011.png" in run(ADD.replace("--run monday", "--run tuesday"), capsys, 2)
    assert [each["name"] for each in json.loads(run("map info town.db --json", capsys))["runs"]] == ["monday"]


def test_a_search_makes_no_map(drive, capsys):
    for line in ("map search absent.db photo.png", "localise --map absent.db photo.png"):
        assert "map absent.db does not exist" in run(f"{line} --model student.onnx", capsys, 2)
    assert not (drive / "absent.db").exists()


def test_degrees_are_refused_and_semicolons_read(drive, capsys):
    table = drive / "monday" / "poses.csv"
    text = table.read_text()
    table.write_text(re.sub(r",(42\d\d),880", lambda found: f",{8.4 + (int(found[1]) - 4230) * 1e-5:.6f},49.01", text))
    assert "they look like degrees" in run(ADD, capsys, 2)
    table.write_text(text.replace(",", ";"))
    assert "12 places" in run(ADD, capsys)


def test_a_second_run_of_the_name_and_another_model_are_refused(drive, capsys):
    run(ADD, capsys)
    assert "holds a run monday already" in run(ADD, capsys, 2)
    write_student(drive / "other.onnx", model="other")
    line = "map search town.db photo.png --model other.onnx"
    assert "was made by another model: resnet18_gem" in run(line, capsys, 2)
    assert "unknown run 'tuesday'" in run("map delete town.db --run tuesday", capsys, 2)
    assert "--centre north is none" in run(
        "map search town.db photo.png --model student.onnx --centre north", capsys, 2
    )
    assert "does not exist" in run("map info absent.db", capsys, 2)


def test_without_torch_the_command_runs_and_names_the_extra(drive, capsys, monkeypatch):
    monkeypatch.setattr("distilplace.common.extras.find_spec", lambda name: None)
    assert "12 places" in run(ADD, capsys)
    refused = run("map add town.db --dataset demo --model student.onnx", capsys, 2)
    assert "map add --dataset needs PyTorch" in refused
    weights = run("map search town.db photo.png --model best.safetensors", capsys, 2)
    assert "needs PyTorch" in weights
    assert "student.onnx" in weights
