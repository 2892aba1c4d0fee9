"""The clouds of ``tools.bench_sparse``: where real ones are looked for, and how all are scaled and batched."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distilplace.tools.bench_sparse.clouds import AbsentClouds, batch_of, normalised, voxel_clouds


def test_no_folder_of_real_clouds_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        monkeypatch.delenv("DISTILPLACE_SHARED", raising=False)
        if value is not None:
            monkeypatch.setenv("DISTILPLACE_SHARED", value)
        with pytest.raises(AbsentClouds, match="set DISTILPLACE_SHARED"):
            voxel_clouds("real", 10, 1)


def test_real_and_demo_clouds_are_scaled_like_the_benchmarks(
    real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILPLACE_SHARED", str(real_data("kitti_frames").parents[1]))  # or skipped
    for source in ("real", "demo"):
        try:
            clouds = voxel_clouds(source, 1000, 140)
        except AbsentClouds:
            continue
        assert len(clouds) > 100
        for cloud in clouds:
            assert 300 < len(cloud) <= 1000
            assert -101 <= cloud.min() <= cloud.max() <= 101
        assert len({cloud.tobytes() for cloud in clouds}) == len(clouds)


def test_normalised_clouds_fill_the_cube_and_depend_on_their_name_alone() -> None:
    cloud = np.random.default_rng(1).normal(5, 30, (500, 3)).astype(np.float32)
    small = normalised(cloud, 100, "a")
    assert small.shape == (100, 3)
    assert np.abs(small).max() == pytest.approx(1)
    assert np.abs(small.mean(0)).max() < 1e-5
    assert (normalised(cloud, 100, "a") == small).all()
    assert not (normalised(cloud, 100, "b") == small).all()
    assert len(normalised(cloud, 500, "a")) == 500


def test_batches_repeat_clouds_where_there_are_too_few() -> None:
    clouds = [np.array([[1, 2, 3]], dtype=np.int32), np.array([[4, 5, 6]], dtype=np.int32)]
    assert batch_of(clouds, 3).tolist() == [[0, 1, 2, 3], [1, 4, 5, 6], [2, 1, 2, 3]]
