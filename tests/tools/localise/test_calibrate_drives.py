"""Whom a calibration picture may meet, which pictures are off the map, and what a check says of the promise."""

import re
import shlex

import numpy as np
import pytest

from distilplace import cli
from distilplace.evaluation.confidence import measure
from distilplace.runtime.localise.confidence import FEATURES, Confidence
from distilplace.runtime.map import PlaceMap
from distilplace.runtime.map.space import Space
from distilplace.tools.localise.trials import BLOCKS, Drive, Rule, along, hidden_rows, scenes, single

RUNS, PLACES, STEP, RADIUS = ("monday", "tuesday", "friday"), 90, 5.0, 7.0
RULE = Rule(radius=RADIUS, near=5, length=4, away=0.2)


def street(noise=0.8):
    """Three drives along one street: each run's noisy embeddings of the same places."""
    rng = np.random.default_rng(0)
    places = rng.normal(size=(PLACES, 24))
    positions = np.stack([STEP * np.arange(PLACES), np.zeros(PLACES)], axis=1)
    return [Drive(run, (places + noise * rng.normal(size=places.shape)).astype(np.float32), positions) for run in RUNS]


@pytest.fixture
def town(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with PlaceMap("town.db", Space("f" * 64, "grid", 24)) as places:
        for drive in street():
            places.add(drive.run, drive.embeddings, drive.positions)
        yield places


def test_a_picture_meets_neither_its_own_run_nor_hidden_places(town):
    columns, (drive, *_) = town.columns(), street()
    hidden = hidden_rows(PLACES, 0, RULE.away)
    found = list(scenes(drive, columns, hidden, RADIUS))
    assert sorted(row for scene in found for row in scene.rows.tolist()) == list(range(PLACES))
    for scene in found:
        assert not scene.kept[columns["run"] == drive.run].any()
        for row in scene.rows:
            apart = np.hypot(columns["easting"][scene.kept] - drive.positions[row, 0], columns["northing"][scene.kept])
            assert (apart > RADIUS).all() == hidden[row]


@pytest.mark.parametrize("answer", [single, along])
def test_answers_are_those_of_the_plain_loops(town, answer):
    drives, columns = street(), town.columns()
    found = answer(town, drives, RULE)
    hidden = np.concatenate([hidden_rows(PLACES, number, RULE.away) for number in range(3)])
    assert np.array_equal(found.away, hidden)
    assert not (found.right & found.away).any()
    assert found.right[~found.away].mean() > 0.8
    assert found.second.sum() == 3 * PLACES / 2
    if answer is along:
        return
    for number, drive in enumerate(drives):
        for row in np.flatnonzero(~hidden[number * PLACES : (number + 1) * PLACES]):
            others = columns["run"] != drive.run
            similarities = town.similarities(drive.embeddings[row])[others]
            assert found.features[number * PLACES + row][0] == pytest.approx(similarities.max())
            best = columns["easting"][others][similarities.argmax()]
            assert found.right[number * PLACES + row] == (abs(best - drive.positions[row, 0]) <= RADIUS)


def test_every_run_hides_another_stretch_in_both_halves():
    for share in (0.2, 0.4, 0.5):
        parts = [hidden_rows(100, number, share) for number in range(10)]
        assert np.mean(parts) == pytest.approx(share, abs=0.05)
        second = np.arange(100) * BLOCKS // 100 % 2 == 1
        assert all(part[second].sum() == part[~second].sum() for part in parts)
    assert not hidden_rows(100, 3, 0.0).any()


def test_a_check_counts_what_the_rule_accepts():
    rule = Confidence(FEATURES, (0.0,) * 3, (1.0,) * 3, (1.0, 0.0, 0.0), 0.0, 25.0, 10, 0.5, 0.95, 0.9, 50, 0.5, "x")
    features = np.zeros((6, 3))
    features[:, 0] = [1, 1, 1, 1, -1, -1]
    right, away = np.array([1, 1, 0, 1, 1, 0], bool), np.array([0, 0, 1, 0, 0, 1], bool)
    found = measure(rule, features, right, away)
    assert (found.queries, found.away, found.accepted, found.right, found.accepted_away) == (6, 2, 4, 3, 1)
    assert found.precision == pytest.approx(3 / 4)
    assert found.interval[0] < 3 / 4 < found.interval[1]


def test_the_maps_own_runs_calibrate_it_and_a_check_measures_without_changing_it(town, capsys):
    assert cli.main(shlex.split(f"calibrate --map town.db --radius {RADIUS} --off_map 0.2 --length 4")) == 0
    assert "135 pictures of the map)" in capsys.readouterr().out
    stored = town.calibration
    assert set(stored) == {"single", "sequence"}
    assert cli.main(shlex.split("calibrate --map town.db --check --runs friday --off_map 0.2 --length 4")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["single pictures", "sequences"]
    assert all(re.search(r"accepted: \d+ of 90 .*off the map: \d+ of \d+ accepted", line) for line in lines), lines
    assert town.calibration == stored


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--check", "is not calibrated"),
        ("--images x --dataset demo", "name drives twice"),
        ("--runs sunday", "unknown run 'sunday'"),
        ("--part train", "--part belongs to --dataset"),
        ("--model a.onnx", "--model is not read without"),
        ("--check --radius 3", "--radius is not read with --check"),
        ("--off_map 1", "--off_map 1 is no share"),
        ("--length 0", "--length 0"),
        ("--off_map 0.9 --radius 1000", "covers the whole map"),
    ],
)
def test_mistakes_are_told_in_one_line(town, capsys, flags, said):
    assert cli.main(shlex.split(f"calibrate --map town.db {flags}")) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
