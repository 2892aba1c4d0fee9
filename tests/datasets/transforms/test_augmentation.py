"""Augmentation: each pure function against the golden numbers, the chain, its distributions; image transforms."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilplace.datasets.io.images import evaluation_transform, read_image, training_transform
from distilplace.datasets.transforms import augmentation as aug
from distilplace.datasets.transforms.augmentation import Block, augment_cloud

RTOL = {"rtol": 1e-5, "atol": 2e-7}
CHAIN = "full oxford training chain: TrainSetTransform(1) then TrainTransform(1)"


@pytest.fixture
def clouds(golden):
    return golden("k_augmentations.pt")["clouds"]


def zeroed(result: torch.Tensor) -> np.ndarray:
    return (result == 0).all(dim=1).numpy()


def test_rotation(clouds):
    for case in clouds.values():
        golden = case["RandomRotation(axis z, max_theta 5, max_theta2 0)"]
        points = case["cloud"].numpy()[: len(golden["result"])]
        rotated = aug.rotate_z(points, golden["theta_rad"])
        np.testing.assert_allclose(rotated, golden["result"], **RTOL)
        assert rotated.dtype == np.float32


def test_flip(clouds):
    for case in clouds.values():
        for sample in case["RandomFlip(0.25, 0.25, 0)"].values():
            flipped = aug.flip(case["cloud"].numpy()[:10], sample["r"])
            np.testing.assert_array_equal(flipped, sample["result_first10"])


@pytest.mark.parametrize(
    ("draw", "signs"), [(0.0, (-1, 1, 1)), (0.25, (-1, 1, 1)), (0.26, (1, -1, 1)), (0.6, (1, 1, 1))]
)
def test_flip_mirrors_one_axis_or_none(draw, signs):
    np.testing.assert_array_equal(aug.flip(np.ones((2, 3), np.float32), draw), np.ones((2, 3)) * signs)


def test_jitter_and_its_clip(clouds):
    for case in clouds.values():
        golden = case["JitterPoints(0.001, clip 0.002)"]
        points = case["cloud"].numpy()[: len(golden["result"])]
        np.testing.assert_allclose(aug.jitter(points, golden["jitter"].numpy()), golden["result"], **RTOL)
    wild = aug.jitter(np.zeros((1, 3), np.float32), np.array([[1.0, -1.0, 0.0015]]))
    np.testing.assert_allclose(wild, [[0.002, -0.002, 0.0015]], rtol=1e-6)


def test_points_are_dropped_not_zeroed(clouds):
    """Oddity 11. The kept points are upstream's, in order; the zeroed ones are gone."""
    for case in clouds.values():
        golden = case["RemoveRandomPoints(0, 0.1)"]
        kept = aug.drop_points(case["cloud"].numpy(), golden["indices"].numpy())
        assert len(kept) == len(case["cloud"]) - len(golden["indices"])
        assert len(golden["indices"]) == int(len(case["cloud"]) * golden["ratio"])
        np.testing.assert_array_equal(kept, golden["result"].numpy()[~zeroed(golden["result"])])


def test_translation(clouds):
    for case in clouds.values():
        golden = case["RandomTranslation(0.01)"]
        points = case["cloud"].numpy()[: len(golden["result"])]
        moved = aug.translate(points, golden["shift"][0].numpy())
        np.testing.assert_allclose(moved, golden["result"], **RTOL)


def test_block_is_placed_and_emptied_as_upstream(clouds):
    compared = 0
    for case in clouds.values():
        points = case["cloud"].numpy()
        for seed, golden in case["RemoveRandomBlock(0.4)"].items():
            draws = random.Random(seed)
            r = draws.random()
            assert r == golden["r"]
            assert (r < aug.BLOCK_PROBABILITY) == (golden["block"] is not None)
            if golden["block"] is None:
                continue
            area, aspect = draws.uniform(*aug.BLOCK_AREA), draws.uniform(*aug.BLOCK_ASPECT)
            block = aug.place_block(points, area, aspect, draws.uniform(0, 1), draws.uniform(0, 1))
            for name, value in golden["block"].items():
                assert math.isclose(getattr(block, name), value, rel_tol=1e-5, abs_tol=1e-6)
            kept = aug.drop_block(points, Block(**golden["block"]))
            assert len(kept) == len(points) - golden["n_zeroed"]
            np.testing.assert_array_equal(kept, golden["result"].numpy()[~zeroed(golden["result"])])
            compared += 1
    assert compared >= 3


def upstream_draws(seed: int, n: int) -> dict:
    """The numbers upstream's chain draws from the three generators seeded with ``seed``, in its order."""
    python, legacy = random.Random(seed), np.random.RandomState(seed)
    torch.manual_seed(seed)
    draws = {"angle": math.radians(5) * 2 * (legacy.rand(1)[0] - 0.5)}
    legacy.rand(3), legacy.rand(1)  # the second rotation, by exactly 0 degrees
    draws["flip"] = python.random()
    draws["noise"] = aug.JITTER_SIGMA * torch.randn(n, 3).numpy()
    draws["ratio"] = python.uniform(0.0, 0.1)
    draws["dropped"] = legacy.choice(range(n), size=int(n * draws["ratio"]), replace=False)
    draws["shift"] = aug.TRANSLATION_SIGMA * legacy.randn(1, 3)[0]
    draws["block"] = python.random() < 0.4
    draws["box"] = [
        python.uniform(*aug.BLOCK_AREA),
        python.uniform(*aug.BLOCK_ASPECT),
        python.random(),
        python.random(),
    ]
    return draws


def test_whole_chain_equals_upstreams_without_its_ghosts(clouds):
    """With upstream's numbers, the chain gives upstream's points minus those it set to (0, 0, 0)."""
    for case in clouds.values():
        points, golden = case["cloud"].numpy(), case[CHAIN]
        draws = upstream_draws(golden["seed"], len(points))
        ghosts = np.zeros(len(points), dtype=bool)
        ghosts[draws["dropped"]] = True
        moved = aug.jitter(aug.flip(aug.rotate_z(points, draws["angle"]), draws["flip"]), draws["noise"])
        moved = aug.translate(aug.drop_points(moved, draws["dropped"]), draws["shift"])
        expected = golden["result"].numpy()[~ghosts]
        if draws["block"]:
            moved = aug.drop_block(moved, aug.place_block(moved, *draws["box"]))
            expected = expected[(expected != 0).any(axis=1)]
        np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)


class Recorded:
    """A generator whose draws are chosen: everything is dropped that can be."""

    def __init__(self, uniform: float, chance: float) -> None:
        self._uniform, self._chance, self._rng = uniform, chance, np.random.default_rng(0)

    def uniform(self, low: float, high: float) -> float:
        return low + self._uniform * (high - low)

    def random(self) -> float:
        return self._chance

    def normal(self, mean: float, sigma: float, size) -> np.ndarray:
        return self._rng.normal(mean, sigma, size)

    def permutation(self, n: int) -> np.ndarray:
        return self._rng.permutation(n)


@pytest.mark.parametrize("style", ["oxford", "boreas"])
def test_no_point_appears_that_no_sensor_saw(style):
    """Oddity 11: with a cloud far from the origin, a ghost would be near it."""
    rng = np.random.default_rng(0)
    points = (rng.uniform(-1, 1, (2000, 3)) * [1, 1, 0.1] + [40, 0, 0]).astype(np.float32)
    result = augment_cloud(points, style, Recorded(uniform=0.99, chance=0.3))
    assert 600 < len(result) < 1900
    assert np.linalg.norm(result, axis=1).min() > 30
    assert result.dtype == np.float32


def test_boreas_chain_moves_no_point_by_more_than_the_jitter():
    """No rotation, flip or translation: every point that remains is an input point within the jitter's clip."""
    rng = np.random.default_rng(1)
    points = rng.uniform(-50, 50, (500, 3)).astype(np.float32)
    for seed in range(20):
        result = augment_cloud(points, "boreas", np.random.default_rng(seed))
        nearest = np.abs(result[:, None] - points[None]).max(axis=2).min(axis=1)
        assert nearest.max() <= aug.JITTER_CLIP + 1e-5


def test_chain_distributions():
    """The measured distributions of upstream, on a lattice whose points are recognisable."""
    points = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0, 0], [0, -1.0, 0]] * 50, dtype=np.float32)
    turns, kept, flips = [], [], np.zeros(3)
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        angle, draw = math.radians(rng.uniform(-5, 5)), rng.random()
        turns.append(math.degrees(angle))
        flips[0 if draw <= 0.25 else 1 if draw <= 0.5 else 2] += 1
        result = augment_cloud(points, "oxford", np.random.default_rng(seed))
        kept.append(len(result) / len(points))
        spread = np.abs(np.linalg.norm(result[:, :2] - result[:, :2].mean(axis=0) * 0, axis=1) - 1)
        assert spread.max() < 0.1  # unit circle, moved by a sigma of 0.01
    assert abs(np.mean(turns)) < 0.3
    np.testing.assert_allclose(flips / 1500, [0.25, 0.25, 0.5], atol=0.05)
    assert abs(np.mean(np.array(kept) < 0.9) - 0.2) < 0.2
    assert 0.80 < np.mean(kept) < 0.97
    assert max(kept) > 0.99


@settings(deadline=None)
@given(n=st.integers(1, 40), seed=st.integers(0, 10_000), style=st.sampled_from(["oxford", "boreas"]))
def test_any_cloud_keeps_a_point_and_the_input_is_untouched(n, seed, style):
    points = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    before = points.copy()
    result = augment_cloud(points, style, np.random.default_rng(seed))
    assert 1 <= len(result) <= n
    assert result.shape[1] == 3
    assert np.isfinite(result).all()
    np.testing.assert_array_equal(points, before)
    np.testing.assert_array_equal(result, augment_cloud(points, style, np.random.default_rng(seed)))


def test_dropping_everything_leaves_the_first_point():
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(aug.drop_points(points, np.arange(4)), points[:1])
    np.testing.assert_array_equal(aug.drop_block(points, Block(-1, -1, 100, 100)), points[:1])


def test_evaluation_transform_is_exactly_the_golden_one(golden):
    for case in golden("k_augmentations.pt")["images"].values():
        image = Image.fromarray(case["image_u8_hwc"].numpy())
        assert torch.equal(evaluation_transform()(image), case["ValRGBTransform"])


def test_training_transform_equals_the_golden_ones(golden):
    erased = 0
    for case in golden("k_augmentations.pt")["images"].values():
        image = Image.fromarray(case["image_u8_hwc"].numpy())
        for sample in case["TrainRGBTransform(1) samples"]:
            torch.manual_seed(sample["seed"])
            torch.testing.assert_close(training_transform()(image), sample["result"], rtol=1e-4, atol=1e-6)
            erased += sample["erased_fraction"] > 0.05
    assert erased >= 1


def test_erasing_fills_with_zero_before_normalising():
    white = Image.new("RGB", (32, 24), (255, 255, 255))
    black = -torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
    shares = []
    for seed in range(300):
        torch.manual_seed(seed)
        result = training_transform(0.0, 0.0)(white)
        shares.append((result - black[:, None, None]).abs().amax(dim=0).lt(1e-6).float().mean().item())
    erased = np.array([share for share in shares if share > 0])
    assert abs(len(erased) / 300 - 0.5) < 0.1
    assert erased.min() > 0.08
    assert erased.max() < 0.43


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_any_image_mode_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (8, 6), (10, 200, 30)).convert(mode).save(tmp_path / "i.png")
    image = read_image(tmp_path / "i.png")
    assert image.mode == "RGB"
    assert evaluation_transform()(image).shape == (3, 6, 8)
