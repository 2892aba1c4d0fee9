"""``distilplace localise`` and ``calibrate`` as the guide shows them: a street of pictures, driven twice."""

import csv
import io
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from distilplace import cli
from distilplace.runtime import Localiser, PlaceMap, Student
from tests.conftest import ROOT
from tests.runtime.students import SIZE, write_student

GUIDE = ROOT / "docs" / "guide" / "localise.md"
PLACES, STEP, DETOUR = 200, 5, slice(150, 210)
STREET = np.r_[0:150, 210:260]


def drive(folder, pictures, positions):
    """Pictures as PNG files in ``folder``/image_front and their poses.csv."""
    (folder / "image_front").mkdir(parents=True)
    lines = ["frame,timestamp,easting,northing"]
    for index, (picture, east) in enumerate(zip(pictures, positions, strict=True)):
        Image.fromarray(picture).save(folder / "image_front" / f"{index:04d}.png")
        lines.append(f"{index:04d},{0.5 * index},{east},880")
    (folder / "poses.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Map drive "monday"; drive "tuesday" sees the same street through noise, and a detour in its middle."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("town")
    grid = rng.integers(40, 216, (PLACES, 3, 4, 3)).repeat(SIZE[0] // 3, axis=1).repeat(SIZE[1] // 4, axis=2)
    noisy = np.clip(grid + rng.normal(0, 50, (PLACES, 3, 4, 3)).repeat(8, axis=1).repeat(8, axis=2), 0, 255)
    detour = rng.integers(40, 216, (60, 3, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    east = 4000 + STEP * np.arange(PLACES)
    drive(folder / "monday", grid.astype(np.uint8), east)
    tuesday = np.concatenate([noisy[:150], detour, noisy[150:]]).astype(np.uint8)
    drive(
        folder / "tuesday", tuesday, np.concatenate([east[:150], east[149] + 2000 + STEP * np.arange(60), east[150:]])
    )
    write_student(folder / "student.onnx", model="resnet18_gem")
    (folder / "photo.png").write_bytes((folder / "tuesday/image_front/0012.png").read_bytes())
    return folder


@pytest.fixture
def built(town, monkeypatch, capsys):
    """The map town.db of monday, not calibrated."""
    monkeypatch.chdir(town)
    (town / "town.db").unlink(missing_ok=True)
    line = "map add town.db --images monday/image_front --positions monday/poses.csv --model student.onnx --run monday"
    assert cli.main(shlex.split(line)) == 0
    capsys.readouterr()
    return town


def run(line, capsys, code=0):
    assert cli.main(shlex.split(line)) == code
    shown = capsys.readouterr()
    return shown.out if code == 0 else shown.err.splitlines()[-1]


def test_the_guides_commands_print_what_it_shows(built, capsys):
    blocks = re.findall(r"```console\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        command, _, wanted = block.partition("\n")
        assert run(command.removeprefix("$ distilplace "), capsys).strip() == wanted.strip()


def test_the_guides_python_follows(built, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    for number in (1, 2):
        (built / f"{number:04d}.png").write_bytes((built / f"tuesday/image_front/{number:04d}.png").read_bytes())
    exec(block, {})
    first, second = capsys.readouterr().out.splitlines()
    assert (first.split()[0], second.split()[:1]) == ("4005.0", ["4010.0"])
    assert (first.split()[2], second.split()[2]) == ("None", "None")  # not calibrated


CALIBRATE = "calibrate --map town.db --images tuesday/image_front --positions tuesday/poses.csv --radius 12 --length 6"
LOCALISE = "localise --map town.db tuesday/image_front"


@pytest.mark.slow  # 4 s
def test_a_calibrated_map_tells_a_detour_from_the_street(built, capsys):
    run(CALIBRATE, capsys)
    lines = run(f"{LOCALISE} --json --k 2", capsys).splitlines()
    answers = [json.loads(line) for line in lines]
    assert len(answers) == 260
    assert all(len(answer["places"]) == 2 for answer in answers)
    accepted = np.array([answer["on_map"] for answer in answers])
    assert accepted[DETOUR].mean() <= 0.05
    assert accepted[STREET].mean() >= 0.5
    along = [json.loads(line) for line in run(f"{LOCALISE} --json --sequence", capsys).splitlines()]
    followed = np.array([answer["on_map"] for answer in along])
    off = np.array([answer["off_map"] for answer in along])
    assert followed[STREET].mean() >= accepted[STREET].mean()
    assert followed[DETOUR].mean() <= 0.1
    assert off[160:208].mean() > 0.5 > off[5:148].mean()


def test_without_a_calibration_nothing_is_called_off_the_map(built, capsys):
    assert cli.main(shlex.split("localise --map town.db photo.png --json")) == 0
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert "not calibrated" in shown.err
    assert (answer["on_map"], answer["confidence"]) == (None, None)
    assert answer["places"][0]["easting"] == 4000 + STEP * 12


def test_csv_has_a_row_per_place_and_a_prior_counts(built, capsys):
    text = run("localise --map town.db photo.png --csv --k 3 --prior 4200,880,20", capsys)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 3
    assert {float(row["easting"]) for row in rows} <= set(range(4180, 4221, 5))
    assert "no place on the map fits" in run("localise --map town.db photo.png --prior 0,0,5", capsys)


def test_the_same_in_python_with_odometry(built):
    student = Student("student.onnx")
    images = [built / "tuesday" / "image_front" / f"{index:04d}.png" for index in range(20, 40)]
    with PlaceMap("town.db", student.metadata) as places:
        localiser = Localiser(places, student)
        for odometry in (None, [float(STEP)] * 20, [(float(STEP), 0.0)] * 20):
            last = list(localiser.follow(images, odometry=odometry))[-1]
            assert last.matches[0].easting == 4000 + STEP * 39
            assert last.off_map < 0.1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("localise --map town.db absent.png", "absent.png is neither an image nor a folder"),
        ("localise --map town.db empty", "folder empty holds no image"),
        ("localise --map absent.db photo.png", "absent.db"),
        ("localise --map town.db photo.png --prior 1,2", "--prior 1,2 is none"),
        ("localise --map town.db photo.png --sequence --prior 1,2,3", "--prior is for single pictures"),
        ("localise --map town.db photo.png --step 3", "--step is read with --sequence alone"),
        ("localise --map town.db photo.png --model other.onnx", "made by another model"),
        ("localise --map elsewhere/town.db photo.png", "no student beside map"),
        ("localise --map town.db monday/poses.csv", "poses.csv"),
        ("localise --map town.db photo.png --k 0", "--k 0"),
        ("localise --map town.db photo.png --sequence --step 0", "--step 0"),
        (CALIBRATE.replace("--radius 12", "--radius -1"), "--radius -1"),
        (CALIBRATE.replace("tuesday", "monday"), "100 of 100 answers that a confidence is learned from are right"),
        (CALIBRATE + " --precision 2", "--precision 2 is no probability"),
    ],
)
def test_mistakes_are_told_in_one_line(built, capsys, line, said):
    (built / "empty").mkdir(exist_ok=True)
    (built / "elsewhere").mkdir(exist_ok=True)
    (built / "elsewhere" / "town.db").write_bytes((built / "town.db").read_bytes())
    write_student(built / "other.onnx", model="another")
    try:
        told = run(line, capsys, code=2)
    finally:
        (built / "other.onnx").unlink()
    assert told.startswith("error: ")
    assert said in told


def test_localise_works_without_torch(built):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from distilplace.tools.localise.run import main\n"
        "code = main(['--map', 'town.db', 'photo.png', '--k', '1'])\n"
        "heavy = [name for name in ('sklearn', 'scipy', 'pymilvus', 'faiss', 'mapie') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=built, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "E 4060.00 N 880.00" in done.stdout
