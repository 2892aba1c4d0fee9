"""The demo of the papers: its commands are valid, finished runs are not repeated, its table holds the runs' numbers."""

import json
from pathlib import Path

import pytest

from distilplace.engine.building import build_distiller, build_task_loss, student_settings, teacher_settings
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.tools.demo import papers as demo_papers
from distilplace.tools.demo.papers import STUDIES, Study, Teacher, study, table, trained


def finish(folder: Path, recall: float) -> None:
    folder.mkdir(parents=True)
    (folder / "test.json").write_text(
        json.dumps({"student": {"recall": {"1": recall}}, "teacher": {"recall": {"1": 0}}})
    )


def test_a_finished_run_is_read_and_any_other_is_trained(tmp_path, monkeypatch):
    commands = []

    def step(title, *flags):
        commands.append(flags)
        finish(tmp_path / "new", 12.5)

    monkeypatch.setattr(demo_papers, "step", step)
    finish(tmp_path / "old", 40.0)
    assert trained(tmp_path / "old", "old", "--epochs", "3") == 40.0
    assert commands == []
    assert trained(tmp_path / "new", "new", "--epochs", "3") == 12.5
    assert commands == [("--epochs", "3", "--logdir", str(tmp_path), "--exp_name", "new", "--resume", "auto")]


def test_every_command_of_every_study_can_be_built(tmp_path, monkeypatch, root):
    seen = []

    def step(title, *flags):
        options = parse(TrainOptions, flags, home=root, environment={})
        seen.append(options)
        build_task_loss(options)
        is_taught = build_distiller(options) is not None
        assert len(options.model) == len(options.teacher_weights_path) or not is_taught
        assert all(teacher_settings(options, name) is not None for name in options.model)
        student_settings(options, options.student_model)
        finish(Path(options.logdir) / options.exp_name, float(len(seen)))

    monkeypatch.setattr(demo_papers, "step", step)
    for each in STUDIES:
        study(tmp_path, each, ["--dataset", "oxford"])
    methods = {options.distil_method for options in seen if options.train_mode == "train_student"}
    assert methods == {"nokd", "asht", "wakd"}
    assert {tuple(options.kd) for options in seen} == {(), ("epcnet:0.5",), ("rkd:0.5",), ("pkt:0.5",)}
    assert len({options.exp_name for options in seen}) == len(seen) == 5 + 3 * 3 + 3 * 5  # teachers, alone, distilled
    assert {len(options.model) for options in seen if options.distil_method == "asht"} == {3}


def test_the_table_holds_mean_and_spread():
    text = table({"csd": {"teacher": [70.0], "alone": [20.0, 22.0, 27.0], "distilled": [30.0, 31.0, 32.0]}})
    assert text.splitlines()[-1] == "| csd | 70.0 | 23.0 ± 3.6 | 31.0 ± 1.0 | 30.0, 31.0, 32.0 |"


@pytest.mark.slow
def test_a_small_world_from_start_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in (("PLACES", 14), ("TRAIN_RUNS", 3), ("TEST_RUNS", 2), ("SEEDS", (1,))):
        monkeypatch.setattr(demo_papers, name, value)
    small = Study("small", "demo_asht", (Teacher("one", "demo_asht_teacher", "dsformer", 1),) * 2)
    monkeypatch.setattr(demo_papers, "STUDIES", (small,))
    assert demo_papers.main(["--logdir", str(tmp_path / "logs"), "--epochs", "1", "--teacher_output_dim", "128"]) == 0
    assert "| small |" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "logs" / "scores.json").read_text())["small"]) == {
        "teacher",
        "alone",
        "distilled",
    }
