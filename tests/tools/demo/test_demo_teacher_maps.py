"""The demo of teacher maps: its commands are valid, finished runs are read, the table holds the runs' numbers."""

import json
from pathlib import Path

from distilplace.engine.building import build_distiller, build_task_loss
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.tools.demo import teacher_maps
from distilplace.tools.demo.teacher_maps import KINDS, measure, row, rows, table
from distilplace.tools.shared_flags import only_read


def finish(folder: Path, recalls: dict[tuple[str, str], float]) -> None:
    """The part of a run's test.json that is read."""
    spaces: dict[str, dict] = {"raw": {"directions": {}}, "centred": {"directions": {}}}
    for (direction, space), value in recalls.items():
        spaces[space]["directions"][direction] = {"recall@1": value}
    folder.mkdir(parents=True)
    (folder / "test.json").write_text(json.dumps({"student": {"asymmetric": {"minklocmmcat": spaces}}}))


def recalls(first: float) -> dict[tuple[str, str], float]:
    names = ("student -> student", "student -> teacher", "teacher -> teacher")
    return {
        (name, space): first + 10 * i + j for i, name in enumerate(names) for j, space in enumerate(("raw", "centred"))
    }


def test_every_command_is_valid_and_finished_runs_are_read(tmp_path, monkeypatch, root):
    trained = []

    def step(title, *flags):
        options = parse(TrainOptions, only_read(flags), home=root, environment={})
        trained.append(title)
        if options.train_mode == "train_student":
            assert (build_distiller(options) is None) == title.startswith("alone")
            build_task_loss(options)
        finish(Path(options.logdir) / options.exp_name, recalls(float(options.seed or 0)))

    monkeypatch.setattr(teacher_maps, "step", step)
    kinds = list(KINDS)
    scores = measure(tmp_path, kinds, (3,), [])
    assert len(trained) == 1 + len(kinds)
    assert measure(tmp_path, kinds, (3,), []) == scores
    assert len(trained) == 1 + len(kinds)
    assert json.loads((tmp_path / "scores.json").read_text())["ours_rkdg"]["3"] == scores["ours_rkdg"][3]


def test_a_student_without_teacher_is_measured_in_its_own_map():
    assert row({"recall": {"1": 25.0}}) == [25.0, None, None, None, None, None]
    assert table({"alone": {1: row({"recall": {"1": 25.0}})}}).splitlines()[-1] == "| alone | 1 | 25.0 | - | - | - |"


def test_fitted_heads_have_rows_of_their_own_and_centring_is_not_counted_twice():
    networks = {
        "s (nokd), centred": {"recall": {"1": 3.0}},
        "s (nokd)": {"recall": {"1": 2.0}},
        "s (nokd), centred and ridge head": {"recall": {"1": 4.0}},
        "teacher t": {"recall": {"1": 9.0}},
    }
    found = rows("demo", networks)
    assert {kind: values[0] for kind, values in found.items()} == {"demo": 2.0, "demo, ridge head": 4.0}
    assert rows("demo", {"s": {"recall": {"1": 1.0}}, "teacher t": {}}) == {"demo": [1.0, None, None, None, None, None]}


def test_the_table_has_means_and_spreads_by_column():
    text = table({"align": {1: [10.0, 12.0, 20.0, 22.0, 70.0, 71.0], 2: [12.0, 12.0, 24.0, 22.0, 70.0, 71.0]}})
    head, _, row = text.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][2:] == [
        "student -> student",
        "student -> student, centred",
        "student -> teacher",
        "student -> teacher, centred",
    ]
    assert row == "| align | 1, 2 | 11.0 ± 1.4 | 12.0 ± 0.0 | 22.0 ± 2.8 | 22.0 ± 0.0 |"
