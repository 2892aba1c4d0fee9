"""Rows of a ``.bin`` wider than those in use: PCL pads its points, so 8 columns always fit 4 as well."""

import logging

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from distilplace.datasets.io.cloud_bins import bin_width
from distilplace.datasets.io.cloud_widths import fitting_widths, suggested_width
from distilplace.datasets.io.clouds import read_cloud
from tests.miniature_frames import straight, write_run


def rows_of(width, count=720, size=(40, 12, 3)):
    """Points with the columns that people's files of this width have: float32 [count, width]."""
    random = np.random.default_rng(width)
    xyz = random.uniform(-1, 1, (count, 3)) * size
    normals = random.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    one, zero = np.ones((count, 1)), np.zeros((count, 1))
    grey, ring, time = random.uniform(0, 1, (count, 1)), random.integers(0, 32, (count, 1)), np.linspace(0, 0.1, count)
    colours = random.integers(0, 256, (count, 3))
    columns = {
        3: [xyz],
        4: [xyz, grey],
        5: [xyz, grey, ring],
        6: [xyz, grey, ring, time[:, None]],
        7: [xyz, grey, ring, colours[:, :2]],
        8: [xyz, one, 255 * grey, zero, zero, zero],  # PCL's PointXYZI
        9: [xyz, colours, normals],
        10: [xyz, grey, ring, time[:, None], grey, normals],
        12: [xyz, one, normals, zero, grey, 0.1 * grey, zero, zero],  # PointXYZINormal
        16: [xyz, one, normals, zero, grey, ring, *[zero] * 6],
    }
    return np.hstack(columns[width]).astype("<f4")


@pytest.mark.parametrize("width", [3, 4, 5, 6, 7, 8, 9, 10, 12, 16])
@pytest.mark.parametrize("size", [(40, 12, 3), (3, 3, 2)], ids=["street", "room"])
def test_values_tell_the_width_whatever_was_guessed(width, size):
    values = rows_of(width, size=size).ravel()
    for guess in fitting_widths(4 * len(values)):
        if guess <= 6 or guess == width:
            found = suggested_width(values, guess)
            assert found in (None, 3) if width == 3 else found == (None if guess == width else width), guess


@pytest.mark.parametrize("width", [7, 8, 9, 10, 12, 16])
@pytest.mark.parametrize("count", [720, 601])
def test_a_wide_row_is_refused_with_its_width_and_read_when_given(tmp_path, width, count):
    path, rows = tmp_path / "a.bin", rows_of(width, count)
    rows.tofile(path)
    with pytest.raises(UserError, match=rf"--bin_columns to .*\b{width}\b") as caught:
        read_cloud(path)
    assert f"look most like {width}" in str(caught.value) or f"look like {width} columns" in str(caught.value)
    assert np.array_equal(read_cloud(path, width), rows[:, :3])


def test_a_width_is_still_guessed_where_a_wider_one_fits_by_size(tmp_path):
    """Any even number of points of 4 columns fits 8 as well."""
    for columns, count in ((4, 602), (5, 602), (3, 604)):
        path, rows = tmp_path / f"{columns}.bin", rows_of(columns, count)
        rows.tofile(path)
        width = bin_width([path]) if columns != 3 else 3
        assert np.array_equal(read_cloud(path, width), rows[:, :3])


def test_lasers_that_alternate_and_pulses_without_return_are_no_wider_rows():
    rows = rows_of(4)
    low = rows.copy()
    low[::2, :3] *= (0.15, 0.15, 1)
    holes = rows.copy()
    holes[::2] = 0
    twice = np.repeat(np.hstack([rows, np.zeros((720, 1))]), 2, axis=0).astype("<f4")
    twice[1::2, 4] = 1  # second returns
    assert suggested_width(low.ravel(), 4) is None
    assert suggested_width(holes.ravel(), 4) is None
    assert suggested_width(twice.ravel(), 5) is None


def test_values_that_are_not_finite_do_not_hide_the_width(tmp_path):
    """PCL packs colours into a float, which is NaN or huge where it is opaque."""
    rows = rows_of(8)
    rows[:, 4] = np.random.default_rng(0).integers(0xFF000000, 0xFFFFFFFF, 720, dtype=np.uint32).view(np.float32)
    rows.tofile(tmp_path / "a.bin")
    with pytest.raises(UserError, match="look most like 8"):
        read_cloud(tmp_path / "a.bin")


@pytest.mark.parametrize(("given", "true"), [(4, 8), (8, 4)])
def test_a_given_width_that_the_values_contradict_is_warned_of_once(tmp_path, caplog, monkeypatch, given, true):
    monkeypatch.setattr(logging.getLogger("distilplace"), "propagate", True)
    run = write_run(tmp_path / "run", straight(80, 4.0), cloud="npy", cameras=("image_left",))
    for path in list((run / "cloud").iterdir()):
        rows_of(true, 240).tofile(path.with_suffix(".bin"))
        path.unlink()
    radii = {"positive_radius": 5.0, "negative_radius": 10.0, "eval_radius": 5.0}
    for columns, lines in ((given, 1), (true, 0)):
        caplog.clear()
        data = create_dataset("frames", dataset_folder=tmp_path, bin_columns=columns, **radii)
        for _ in range(2):
            data.survey_clouds([])
        warned = [record.message for record in caplog.records if "--bin_columns" in record.message]
        assert len(warned) == lines


@pytest.mark.parametrize("columns", [None, 3, 4])
def test_other_files_named_bin_are_told_by_their_first_bytes(tmp_path, columns):
    import io

    rows, whole = rows_of(4), io.BytesIO()
    np.save(whole, rows)
    for content, said in [
        (whole.getvalue(), r"is a \.npy array by its first bytes: rename it"),
        (b"ply\nformat binary_little_endian 1.0\n" + rows.tobytes(), r"is a \.ply file"),
        (b"# .PCD v0.7\nVERSION 0.7\n" + rows.tobytes() + bytes(4), r"is a \.pcd file"),
        (b"\x1f\x8b\x08\0" + rows.tobytes(), "is gzip"),
        (rows.astype("<f2").tobytes(), "looks like float16"),
        (rows[:, :3].astype("<f2").tobytes(), "looks like float16"),
    ]:
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_cloud(tmp_path / "a.bin", columns)
