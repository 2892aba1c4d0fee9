"""The demos of SCKD and Whiten_MTD: commands that can be built, finished runs that are not repeated, a true table."""

import json
from pathlib import Path

import pytest

from distilplace.engine.building import build_distiller, build_task_loss, student_settings, teacher_settings
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.tools.demo import benchmarks as demo_benchmarks
from distilplace.tools.demo.benchmarks import STUDIES, VIDEOS, pose_measures, retrieval_measures, study, table

POSES = {"median_metres": 4.5, "median_degrees": 12.0}
MAPS = {name: {"mAP": value} for name, value in (("easy", 80.0), ("medium", 60.0), ("hard", 40.0))}


@pytest.fixture
def commands(monkeypatch, root):
    """The options of every training that is asked for; each leaves numbers behind, as a run would."""
    seen = []

    def step(title, *flags):
        options = parse(TrainOptions, flags, home=root, environment={})
        seen.append(options)
        build_task_loss(options)
        is_taught = build_distiller(options) is not None
        assert len(options.model) == len(options.teacher_weights_path) or not is_taught
        assert all(teacher_settings(options, name) is not None for name in options.model)
        student_settings(options, options.student_model)
        folder = Path(options.logdir) / options.exp_name
        folder.mkdir(parents=True)
        (folder / "test.json").write_text(json.dumps({"trained": {**POSES, **MAPS}, "teacher": {}}))

    def run(flags):
        folder = Path(flags[flags.index("--report") + 1])
        folder.mkdir(parents=True)
        (folder / "test.json").write_text(json.dumps({"trained": {"mAP": 30.0}}))

    monkeypatch.setattr(demo_benchmarks, "step", step)
    monkeypatch.setattr(demo_benchmarks.evaluate, "run", run)
    return seen


@pytest.mark.parametrize(("name", "trainings"), [("sckd", 1 + 3 + 3), ("whiten", 2 + 3 * 3)])
def test_every_run_is_made_once(tmp_path, commands, name, trainings):
    study(name, tmp_path, [])
    assert len({options.exp_name for options in commands}) == len(commands) == trainings
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [len(runs) for runs in scores.values()] == ([1, 3, 3] if name == "sckd" else [1, 1, 3, 3, 3])
    study(name, tmp_path, [])
    assert len(commands) == trainings
    methods = {options.distil_method for options in commands if options.train_mode == "train_student"}
    assert methods == ({"nokd", "sckd"} if name == "sckd" else {"whiten_mtd"})


def test_measures_are_those_of_the_trained_network(tmp_path):
    (tmp_path / VIDEOS).mkdir()
    (tmp_path / "test.json").write_text(json.dumps({"trained": {**POSES, **MAPS}, "teacher": {}}))
    (tmp_path / VIDEOS / "test.json").write_text(json.dumps({"trained": {"mAP": 30.0}}))
    assert pose_measures(tmp_path) == {"median m": 4.5, "median deg": 12.0}
    assert retrieval_measures(tmp_path) == {"mAP E": 80.0, "mAP M": 60.0, "mAP H": 40.0, "mAP videos": 30.0}


def test_the_table_holds_mean_and_spread():
    text = table({"one": [{"m": 5.0}], "three": [{"m": 20.0}, {"m": 22.0}, {"m": 27.0}]})
    assert text.splitlines() == ["| network | m |", "|---|---|", "| one | 5.00 |", "| three | 23.00 ± 3.61 |"]


def test_both_studies_can_be_named():
    assert set(STUDIES) == {"sckd", "whiten"}
