"""Positions that a receiver lost, or that are no metres: refused or told with the line they stand on."""

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.common.inputs.position_checks import doubt, jumps, refuse_outliers
from distilplace.datasets import create_dataset
from tests.miniature_frames import straight, write_run
from tests.miniature_images import utm_name, write_images

RADII = {"positive_radius": 3.0, "negative_radius": 10.0, "eval_radius": 5.0}
FAR = straight(120, 2.0, northing=5_400_000.0, easting=450_000.0)


def opened(folder, places):
    write_run(folder / "run", places, cameras=("image_left",), cloud=None)
    return create_dataset("frames", dataset_folder=folder / "run", **RADII)


def where(places):
    return [f"line {index + 2}" for index in range(len(places))]


def with_rows(rows, value, places=FAR):
    changed = places.copy()
    changed[list(rows)] = value
    return changed


@pytest.mark.parametrize("rows", [[20], [0], [59], [0, 1, 2], [30, 31]])
def test_frames_without_a_fix_are_refused_by_line(tmp_path, rows):
    with pytest.raises(
        UserError, match=rf"poses\.csv line {rows[0] + 2}: frame {2 * rows[0]:010d} lies at \(0, 0\), 5,4"
    ):
        opened(tmp_path, with_rows(rows, 0.0))


@pytest.mark.parametrize("value", [(-1.0, -1.0), (0.0, 450_000.0), (5_410_000.0, 450_000.0)])
def test_a_frame_far_from_both_neighbours_is_refused_by_line(tmp_path, value):
    with pytest.raises(UserError, match=r"line 22: frame 0000000040 lies [\d,]+ m from the frames before and after it"):
        opened(tmp_path, with_rows([20], value))


def test_a_gap_is_told_by_line(tmp_path):
    there = FAR + np.where(np.arange(60) < 30, 0.0, 2500.0)[:, None] * np.array([0.0, 1.0])
    data = opened(tmp_path, there)
    (told,) = [note for note in data.notes if "from the frame before" in note]
    assert "line 32: frame 0000000060 lies 2,502 m from the frame before, where 2 m are usual (1 such frame)" in told


def test_a_run_left_too_short_by_a_gap_names_the_gap(tmp_path):
    with pytest.raises(
        UserError, match=r"lower --negative_radius|longer run.*line 61: frame 0000000118 lies .* m from"
    ):
        opened(tmp_path, with_rows([59], (5_400_000.0, 9_450_000.0)))


def test_ordinary_runs_are_left_alone():
    own = straight(120, 2.0)  # begins at (0, 0)
    standing = np.repeat(own[:30], 2, axis=0)
    circle = 20 * np.column_stack([np.cos(np.arange(0, 6, 0.1)), np.sin(np.arange(0, 6, 0.1))]) + (20, 0)
    shaking = np.where(np.arange(40) % 2, 0.004, 0.0)[:, None] * np.ones(2)
    gap = own + np.where(np.arange(60) < 30, 0.0, 90.0)[:, None]
    for places in (FAR, own, own - own[30], standing, circle, shaking, gap, own[:1], own[:2], FAR[:1]):
        refuse_outliers(where(places), places)
        assert jumps(where(places), places) == []
        assert doubt([places]) is None


def test_millimetres_are_named(tmp_path):
    with pytest.raises(
        UserError, match=r"line 2: easting of frame 0000000000 is 4\.5e\+08, .* if these are millimetres"
    ):
        opened(tmp_path, 1000 * FAR)
    own = 1000 * straight(120, 2.0)
    assert "frames lie 2,000 m apart (median): metres are expected; divide by 1000" in doubt([own])
    assert any("divide by 1000" in note for note in create_notes(tmp_path / "own", own))
    zone = straight(120, 2.0, northing=4_400_000.0, easting=39_500_000.0)  # Gauss-Krueger, zone 39
    assert not any("divide by 1000" in note for note in create_notes(tmp_path / "zone", zone))


def create_notes(folder, places):
    write_run(folder / "run", places, cameras=("image_left",), cloud=None)
    return create_dataset("frames", dataset_folder=folder / "run").notes


def test_utm_names_in_millimetres_are_refused(tmp_path):
    names = {utm_name(450e6 + 9000 * k, 5400e6): k for k in range(4)}
    write_images(tmp_path, names, names)
    with pytest.raises(UserError, match=r"@utm names reach 5\.4e\+09, .* millimetres"):
        create_dataset("images", dataset_folder=tmp_path)
