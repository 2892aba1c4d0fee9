"""``.bin`` clouds have no header: a wrong row width must never be read silently, nor anything that is no float32."""

import logging

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets import create_dataset
from distilplace.datasets.io.cloud_bins import bin_width
from distilplace.datasets.io.clouds import read_cloud
from distilplace.datasets.loading import evaluation_loader
from tests.miniature_frames import straight, write_run

RADII = {"positive_radius": 3.0, "negative_radius": 10.0, "eval_radius": 5.0}


def street(count, columns, seed=0):
    """Points of a street with further columns in [0, 1], float32 [count, columns]."""
    random = np.random.default_rng(seed)
    xyz = random.uniform((-40, -12, -1.7), (40, 12, 4), size=(count, 3))
    return np.hstack([xyz, random.uniform(0, 1, (count, columns - 3))]).astype("<f4")


def saved(path, rows):
    rows.tofile(path)
    return path


@pytest.mark.parametrize(
    ("columns", "count", "candidates"),
    [(5, 8192, "4 or 5"), (6, 8192, "3 or 4 or 6"), (4, 8190, "3 or 4 or 5 or 6"), (3, 4096, "3 or 4 or 6")],
)
def test_sizes_that_several_widths_fit_are_refused(tmp_path, columns, count, candidates):
    path = saved(tmp_path / "a.bin", street(count, columns))
    with pytest.raises(UserError, match=rf"--bin_columns to {candidates} \(the values look most like {columns}\b"):
        read_cloud(path)
    assert np.array_equal(read_cloud(path, columns), street(count, columns)[:, :3])


@pytest.mark.parametrize(("columns", "count"), [(3, 1001), (4, 1001), (5, 1001)])
def test_one_width_is_guessed(tmp_path, columns, count):
    path = saved(tmp_path / "a.bin", street(count, columns))
    assert bin_width([path]).columns == columns
    assert np.array_equal(read_cloud(path), street(count, columns)[:, :3])


def test_a_folder_leaves_what_all_sizes_leave(tmp_path):
    paths = [saved(tmp_path / f"{count}.bin", street(count, 4)) for count in (60, 61, 90, 75)]
    assert bin_width(paths).columns == 4
    assert bin_width([*paths, tmp_path / "absent.bin", tmp_path / "a.npy"]).columns == 4
    assert bin_width([paths[0]]).columns is None
    assert bin_width([]).columns == 3
    odd = tmp_path / "odd.bin"
    odd.write_bytes(paths[1].read_bytes()[:-8])
    with pytest.raises(UserError, match=r"odd\.bin is truncated or of another width: 968 bytes .* fit 4 of the 5"):
        bin_width([*paths, odd]).required()


@pytest.mark.parametrize(("columns", "others"), [(6, 3), (4, 3), (5, 3), (3, 4), (5, 4), (4, 5)])
def test_a_file_of_another_width_that_fits_by_size_is_told_by_its_values(tmp_path, columns, others):
    """Lidar files have any number of points: 6 columns always fit 3, others now and then."""
    path = saved(tmp_path / "odd.bin", street(600, columns))
    mates = [saved(tmp_path / f"{count}.bin", street(count, others)) for count in (401, 403)]
    width = bin_width([*mates, path])
    assert width.columns == others
    assert len(read_cloud(mates[0], width)) == 401
    with pytest.raises(UserError, match=rf"odd\.bin: its values look like {columns} columns a point, not {others}"):
        read_cloud(path, width)


def test_scans_in_the_order_of_alternating_lasers_are_not_doubted(tmp_path):
    """Every other point looks up, the others hit the ground nearby: rows of 6 explain more than rows of 3."""
    random = np.random.default_rng(2)
    angle = random.uniform(0, 2 * np.pi, 2001)
    up = np.arange(2001) % 2
    reach = np.where(up, random.uniform(20, 60, 2001), random.uniform(4, 12, 2001))
    xyz = np.column_stack([reach * np.cos(angle), reach * np.sin(angle), np.where(up, 0.2 * reach, -1.7)])
    path = saved(tmp_path / "a.bin", xyz.astype("<f4"))
    assert len(read_cloud(path, bin_width([path, saved(tmp_path / "b.bin", street(61, 3))]))) == 2001


def helipr(size, count=500):
    """Records with x, y, z float32 first and counters behind them."""
    rows = np.zeros(count, dtype=[("xyz", "<f4", 3), ("rest", "u1", size - 12)])
    rows["xyz"] = street(count, 3)
    rows["rest"] = np.random.default_rng(1).integers(0, 255, (count, size - 12))
    return rows


@pytest.mark.parametrize("columns", [None, 3, 4])
def test_what_is_no_float32_is_named(tmp_path, columns):
    text = "\n".join(" ".join(f"{value:.4f}" for value in row) for row in street(48, 3)) + "\n"
    for content, said in [
        (text.encode()[:960], r"is text \('-?[0-9. -]+'\), not float32"),
        (street(480, 3).astype("<f8").tobytes(), "looks like float64"),
        (street(480, 4).astype("<f8").tobytes(), "looks like float64"),
        (np.round(street(480, 3)).astype("<f8").tobytes(), "looks like float64"),
        (np.random.default_rng(0).uniform(-9, 9, (480, 3)).tobytes(), "looks like float64"),
        (helipr(26, 480).tobytes(), r"records of 26 bytes, as HeLiPR's Ouster"),
        (helipr(26, 499).tobytes(), r"records of 26 bytes, as HeLiPR's Ouster"),
        (helipr(22).tobytes(), r"HeLiPR's Velodyne"),
        (helipr(29).tobytes(), r"HeLiPR's Aeva"),
    ]:
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_cloud(tmp_path / "a.bin", columns)


def frames(folder, columns, counts, **settings):
    """A run whose clouds have ``counts[i % len]`` points of so many columns."""
    run = write_run(folder / "run", straight(120, 2.0))
    for number, path in enumerate(sorted((run / "cloud").iterdir())):
        street(counts[number % len(counts)], columns, number).tofile(path)
    return run, lambda: create_dataset("frames", dataset_folder=folder, **RADII, **settings)


def quantize(points, size):
    return (points / size).int(), None


def batches(data, wants=("coords",)):
    records = data.training_set().records
    return evaluation_loader(data, records, wants=wants, quantize=quantize, batch_size=8, num_workers=0)


def test_frames_take_the_option_and_say_what_is_read(tmp_path):
    run, opened = frames(tmp_path, 5, [80], bin_columns=5)
    data = opened()
    first = data.training_set().records[0].cloud
    assert np.array_equal(data.read_cloud(first), street(80, 5)[:, :3])
    assert any("5 columns (as --bin_columns says)" in note for note in data.notes)
    (run / "cloud" / "0000000040.bin").write_bytes(bytes(44))
    with pytest.raises(UserError, match=r"0000000040\.bin is truncated or of another width: 44 bytes .* 20 "):
        batches(opened())


def test_frames_of_unclear_width_serve_image_models_only(tmp_path):
    _, opened = frames(tmp_path, 4, [60])
    data = opened()
    fit = "fit 3 or 4 or 5 or 6 columns (8 or 10 or 12 or 15 or 16 too)"
    assert any(fit in note and "--bin_columns" in note for note in data.notes)
    assert len(list(batches(data, wants=("images",))))
    with pytest.raises(UserError, match="set --bin_columns to 3 or 4 or 5 or 6"):
        batches(data)
    with pytest.raises(UserError, match="set --bin_columns to 3 or 4 or 5 or 6"):
        data.read_cloud(data.training_set().records[0].cloud)


@pytest.mark.parametrize("content", [street(77, 4).tobytes(), b"1 2 3\n" * 51, bytes(50)])
def test_one_odd_file_among_the_frames_is_named_before_anything_is_computed(tmp_path, content):
    run, opened = frames(tmp_path, 3, [61, 70])
    (run / "cloud" / "0000000040.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"0000000040\.bin"):
        batches(opened())


def test_warnings_come_once_per_data_set_with_counts(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("distilplace"), "propagate", True)
    run = write_run(tmp_path / "run", straight(120, 2.0), cloud="npy")
    for number, path in enumerate(sorted((run / "cloud").iterdir())):
        rows = street(64, 3, number)
        rows[::2] = 0
        np.save(path, 1000 * rows if number < 30 else rows.T)
    data = create_dataset("frames", dataset_folder=tmp_path, **RADII)
    for _ in range(2):
        for batch in batches(data):
            assert len(batch["coords"]) == 32 * len(batch["keys"])
    warned = [record.message for record in caplog.records]
    assert len(warned) == 3
    assert "16 of 16 clouds looked at have points at the origin" in warned[0]
    assert "512 of 1024 points, dropped" in warned[0]
    assert "8 of 16 clouds looked at are .npy of shape [3, N]" in warned[1]
    assert "8 of 16 clouds looked at look like millimetres" in warned[2]
    assert all(any(note in line for line in warned) for note in data.notes[-3:])


def test_clouds_without_content_are_refused(tmp_path):
    for rows, said in [
        (np.ones((4096, 3), "f4"), r"all 4096 points are equal \(1, 1, 1\)"),
        (np.zeros((9, 3), "f4"), r"all 9 points are at the origin"),
        (np.vstack([np.zeros((9, 3)), np.full((2, 3), 5.0)]), r"all 2 points are equal"),
    ]:
        np.save(tmp_path / "a.npy", rows)
        with pytest.raises(UserError, match=said):
            read_cloud(tmp_path / "a.npy")


def test_npy_of_rows_is_turned_round_where_that_is_clear(tmp_path):
    rows = street(8, 4)
    for array, expected in [
        (rows.T, rows[:, :3]),  # [4, 8]
        (rows[:3, :3], rows[:3, :3]),  # [3, 3] is N x 3, as documented
        (rows[:6].T, rows[:6].T[:, :3]),  # [4, 6] may be four points of six columns
        (np.hstack([rows, rows])[:, :7], rows[:, :3]),  # [8, 7]
        (np.rec.fromarrays([rows[:, 1], rows[:, 0], rows[:, 2]], names="y,x,z"), rows[:, :3]),
    ]:
        np.save(tmp_path / "a.npy", array)
        assert np.array_equal(read_cloud(tmp_path / "a.npy"), expected)


@pytest.mark.parametrize("shape", [(7, 4096), (12, 4096), (64, 900), (2, 4096), (1, 4096), (7, 17)])
def test_npy_of_more_columns_than_rows_is_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).uniform(-9, 9, shape))
    with pytest.raises(UserError, match=rf"a\.npy: an array of shape .* looks like {shape[1]} points in columns"):
        read_cloud(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).uniform(-9, 9, (7, 16)))
    assert len(read_cloud(tmp_path / "a.npy")) == 7


def test_a_cloud_of_one_point_is_refused(tmp_path):
    for rows, said in (([[1, 2, 3]], "holds a single point"), ([[1, 2, 3], [0, 0, 0]], "holds a single point")):
        np.save(tmp_path / "a.npy", np.array(rows, dtype="f4"))
        with pytest.raises(UserError, match=rf"a\.npy {said}"):
            read_cloud(tmp_path / "a.npy")
