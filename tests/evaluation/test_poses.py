"""Pose errors against rotation matrices, the published numbers, and where acos would give NaN or noise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.datasets.benchmarks import PoseSet
from distilplace.datasets.records import PlaceRecord
from distilplace.evaluation.poses import constant_guess, evaluate_poses, median_errors, pose_errors


def pose(quaternion, position=(0.0, 0.0, 0.0)):
    return np.array([[*position, *quaternion]], dtype=np.float64)


def pose_set(poses):
    records = [PlaceRecord(str(i), "run", None, (), 0.0, 0.0) for i in range(len(poses))]
    return PoseSet("shop", records, np.asarray(poses, dtype=np.float64))


def matrix(q):
    w, x, y, z = np.asarray(q, dtype=np.float64) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_published_errors(golden):
    case = golden("m_sckd.pt")["pose_errors"]
    found = torch.cat([case["pred_xyz"], case["pred_wpqr"]], dim=1)
    wanted = torch.cat([case["gt_xyz"], case["gt_wpqr"]], dim=1)
    metres, degrees = pose_errors(found, wanted)
    expected = case["per_sample_m_deg"].numpy()
    np.testing.assert_allclose(metres, expected[:, 0], rtol=1e-6)
    # the reference takes acos in float32, whose own error is 2.3e-4 degrees on these rows: in float64 its formula is
    a, b = (case[name].double().numpy() for name in ("pred_wpqr", "gt_wpqr"))
    cosine = np.abs((a * b).sum(axis=1)) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(degrees, np.degrees(2 * np.arccos(np.minimum(1, cosine))), rtol=1e-9, atol=3e-6)
    np.testing.assert_allclose(degrees, expected[:, 1], rtol=0, atol=4e-4)
    np.testing.assert_allclose(median_errors(found, wanted), case["median_m_deg"].numpy(), rtol=3e-6)


@pytest.mark.parametrize("scale", [1.0, -1.0, 4.0, 1e-30, 1e30])
def test_a_pose_equal_to_its_target_gives_exactly_zero(scale):
    quaternions = np.random.default_rng(0).normal(size=(10_000, 4)).astype(np.float32)
    quaternions[0] = 1e-20, 0, 0, 0
    poses = np.concatenate([np.zeros((10_000, 3), dtype=np.float32), quaternions], axis=1)
    unit = torch.nn.functional.normalize(torch.from_numpy(poses[:, 3:]), dim=1).numpy()
    for target in (poses, np.concatenate([poses[:, :3], unit], axis=1)):
        found = target.astype(np.float64)
        found[:, 3:] *= scale
        metres, degrees = pose_errors(found, target)
        assert not np.isnan(degrees).any()
        assert (metres == 0).all()
        if abs(scale) in (1.0, 4.0):  # powers of two leave every digit in place
            assert (degrees == 0).all()
        assert degrees.max() < 1e-13


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_degrees_are_the_angle_between_rotation_matrices(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 4))
    turn = matrix(a).T @ matrix(b)
    sine = np.linalg.norm([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    expected = np.degrees(np.arctan2(sine, np.trace(turn) - 1))
    _, degrees = pose_errors(pose(3 * a), pose(-0.5 * b))
    assert degrees[0] == pytest.approx(expected, abs=1e-9)
    assert degrees[0] == pytest.approx(
        pose_errors(pose(b), pose(a))[1][0], abs=1e-12
    )  # which is turned into which does not matter


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-6, 1e-3, 1.0, 90.0, 179.9, 180.0])
def test_small_angles_keep_their_digits(angle):
    half = np.radians(angle) / 2
    _, degrees = pose_errors(pose([np.cos(half), 0, np.sin(half), 0]), pose([1, 0, 0, 0]))
    assert degrees[0] == pytest.approx(angle, rel=1e-9)
    assert degrees[0] <= 180.0


def test_metres_are_distances():
    metres, _ = pose_errors(pose([1, 0, 0, 0], (1, 2, 3)), pose([1, 0, 0, 0], (1, 6, 0)))
    assert metres.tolist() == [5.0]


def test_a_predicted_quaternion_of_length_zero_is_as_wrong_as_can_be():
    assert pose_errors(pose([0, 0, 0, 0]), pose([1, 0, 0, 0]))[1].tolist() == [180.0]


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        (pose([1, 0, 0, 0]), pose([0, 0, 0, 0]), "true pose 0 has a quaternion of length zero"),
        (pose([np.nan, 0, 0, 0]), pose([1, 0, 0, 0]), "predicted poses are not finite: 1 of 1"),
        (pose([1, 0, 0, 0]), pose([1, 0, 0, np.inf]), "true poses are not finite.*check the pose list"),
        (np.zeros((0, 7)), np.zeros((0, 7)), "no pose to compare"),
    ],
)
def test_mistakes_are_named(found, wanted, message):
    with pytest.raises(UserError, match=message):
        median_errors(found, wanted)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"shape \(1, 4\)"):
        pose_errors(np.zeros((1, 4)), pose([1, 0, 0, 0]))
    with pytest.raises(ValueError, match="2 predicted poses for 1"):
        pose_errors(np.ones((2, 7)), pose([1, 0, 0, 0]))


def test_result_speaks_of_medians_means_and_quantiles():
    wanted = np.concatenate([pose([1, 0, 0, 0], (float(i), 0, 0)) for i in range(5)])
    found = wanted + np.array([[0.0] * 7, [1.0] + [0.0] * 6, [2.0] + [0.0] * 6, [3.0] + [0.0] * 6, [4.0] + [0.0] * 6])
    half = np.radians(30) / 2
    found[:, 3:] = np.cos(half), np.sin(half), 0, 0
    result = evaluate_poses(found.astype(np.float32), pose_set(wanted))
    assert result.summary == "2.00 m, 30.00 deg"
    assert result.columns() == {"median m": "2.00", "median deg": "30.00"}
    assert (result.mean_metres, result.median_metres) == (2.0, 2.0)
    assert result.metres.tolist() == [0, 1, 2, 3, 4]
    summary = result.to_dict()
    assert summary["quantiles_metres"] == {"25": 1.0, "50": 2.0, "75": 3.0, "90": 3.6, "95": 3.8}
    assert summary["images"] == 5
    assert summary["mean_degrees"] == pytest.approx(30, abs=1e-5)
    # the constant guess stands in the middle, turned as everybody is
    assert result.chance_columns() == {"median m": "1.00", "median deg": "0.00"}
    given_training = evaluate_poses(found, pose_set(wanted), pose([0, 0, 1, 0], (10, 0, 0)))
    assert given_training.chance_columns() == {"median m": "8.00", "median deg": "180.00"}


def test_epochs_are_chosen_by_metres_then_degrees():
    wanted = pose_set(pose([1, 0, 0, 0]))

    def selection_score(metres, degrees):
        half = np.radians(degrees) / 2
        return evaluate_poses(pose([np.cos(half), np.sin(half), 0, 0], (metres, 0, 0)), wanted).selection_score

    assert selection_score(1, 50) > selection_score(1, 60) > selection_score(1.001, 0)
    assert selection_score(2, 0) == pytest.approx(-2)


def test_constant_guess_beats_every_other_orientation_whatever_the_signs():
    rng = np.random.default_rng(3)
    centre = np.array([0.5, -0.5, 0.5, 0.5])
    quaternions = centre + 0.2 * rng.normal(size=(40, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    poses = np.concatenate([rng.normal(size=(40, 3)), quaternions * rng.choice([-1, 1], size=(40, 1))], axis=1)
    guess = constant_guess(poses)
    np.testing.assert_allclose(guess[:3], np.median(poses[:, :3], axis=0))
    chosen = ((poses[:, 3:] @ guess[3:]) ** 2).mean()
    others = rng.normal(size=(500, 4))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    assert ((poses[:, 3:] @ others.T) ** 2).mean(axis=0).max() < chosen
    assert abs(guess[3:] @ centre) > 0.98


def test_an_empty_set_is_refused():
    with pytest.raises(UserError, match="shop has no test image"):
        evaluate_poses(np.zeros((0, 7)), pose_set(np.zeros((0, 7))))
