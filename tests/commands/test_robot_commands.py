"""The robot's commands in README and docs/guide/export.md, run one after another as a user would."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distilplace import cli, train
from distilplace.runtime import PlaceMap, Student
from tests.commands.written import RUN, block_commands
from tests.conftest import ROOT
from tests.miniature_frames import straight, write_run

SMALL = ["--pretrained", "none", "--epochs", "1", "--train_batch_size", "8", "--image_size", "48x64"]
SHORTER = {"bench": ["--seconds", "0.1", "--batches", "1", "--threads", "1", "--sizes", "200"]}


def write_drives(folder: Path) -> None:
    """Two traversals of a road of 60 places, each of its own colours, by a robot without a scanner."""
    draw = np.random.default_rng(0)
    scenes = draw.integers(0, 256, (60, 4, 5, 3))
    for number, name in enumerate(("monday", "tuesday")):
        run = folder / name
        write_run(run, straight(300, 5.0, easting=float(number)), cameras=("image_front",), cloud=None)
        for path, scene in zip(sorted((run / "image_front").iterdir()), scenes, strict=True):
            seen = np.clip(scene + draw.normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
            Image.fromarray(seen).resize((80, 60), Image.Resampling.BICUBIC).save(path)


@pytest.mark.slow  # half a minute on an idle core: a training, three exports
def test_the_robots_commands_run_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_drives(tmp_path / "my_drives")
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "my_drives/tuesday/image_front/0000000016.png").read_bytes())
    flags = ["--dataset", "frames", "--dataset_folder", "my_drives", "--distil_method", "nokd", *SMALL]
    assert train.main([*flags, "--exp_name", "my_student"]) == 0, capsys.readouterr().err
    printed = {}
    for page in ("README.md", "docs/guide/export.md"):
        for words in block_commands(ROOT / page)["robot"]:
            here = [word.replace(RUN, "logs/my_student") for word in words]
            capsys.readouterr()
            assert cli.main([*here, *SHORTER.get(words[0], [])]) == 0, f"{words}\n{capsys.readouterr().err}"
            printed[" ".join(words[:2] if words[0] in ("map", "bench") else words[:1])] = capsys.readouterr().out
    assert "on the test set of frames" in printed["export"]
    assert "run image_front added, 60 places" in printed["map add"]
    assert printed["localise"].startswith("photo.jpg:\n  1. E ")
    assert "ratios against eager" in printed["bench student"]
    assert (tmp_path / "bench" / "student.json").is_file()
    student = Student("student.onnx")
    assert Student("student_int8.onnx").fingerprint == student.fingerprint
    with PlaceMap("town.db", student.metadata) as places:
        match = places.search(student.embed(["photo.jpg"])[0], k=1)[0]
    assert abs(match.easting - 40.0) < 1e-6
