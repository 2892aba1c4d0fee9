"""The pose loss against recorded values and gradients, by loops, and against the specification's number."""

import math

import pytest
import torch
import torch.nn.functional as F

from distilplace.common.errors import UserError
from distilplace.losses.tasks.pose import PoseLoss


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spec_poses() -> torch.Tensor:
    """Section 9's poses: (cos .4i, sin .3i, .2i - .5, cos .1i, sin .1i, .1, 0)."""
    i = torch.arange(6, dtype=torch.float64)
    columns = [(0.4 * i).cos(), (0.3 * i).sin(), 0.2 * i - 0.5, (0.1 * i).cos(), (0.1 * i).sin(), 0 * i + 0.1, 0 * i]
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-3)])
def test_the_value_that_an_independent_program_gave(dtype, tolerance):
    poses = spec_poses()
    found = torch.cat([poses[:, :3] + 0.1, F.normalize(poses[:, 3:] + 0.05)], dim=1).to(dtype)
    loss, _ = PoseLoss()({"pose": found}, None, None, poses=poses.to(dtype))
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(0.64099809, rel=tolerance)


def test_recorded_values_and_gradients(golden):
    cases = golden("m_sckd.pt")["pose_loss"]
    assert len(cases) == 2
    for case in cases.values():
        found = torch.cat([case["pred_xyz"], case["pred_wpqr"]], dim=1).requires_grad_()
        loss, numbers = PoseLoss(case["beta"])({"pose": found}, None, None, poses=case["target"])
        loss.backward()
        assert loss.item() == pytest.approx(case["loss"], rel=1e-6)
        assert numbers["loss_position"] == pytest.approx(case["loss_pos"], rel=1e-6)
        assert case["beta"] * numbers["loss_orientation"] == pytest.approx(case["loss_ori_times_beta"], rel=1e-6)
        torch.testing.assert_close(found.grad[:, :3], case["grad_xyz"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found.grad[:, 3:], case["grad_wpqr"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_all_numbers_the_slow_way(count):
    found, poses = draw(1, count, 7), draw(2, count, 7)
    found[:, 3:] = F.normalize(found[:, 3:])
    loss, numbers = PoseLoss(beta="120")({"pose": found}, None, None, poses=poses)
    position = orientation = 0.0
    metres, degrees = [], []
    for own, true in zip(found.tolist(), poses.tolist(), strict=True):
        length = math.hypot(*true[3:])
        quaternion = [value / length for value in true[3:]]
        position += sum((a - b) ** 2 for a, b in zip(own[:3], true[:3], strict=True)) / (3 * count)
        orientation += sum((a - b) ** 2 for a, b in zip(own[3:], quaternion, strict=True)) / (4 * count)
        metres.append(math.dist(own[:3], true[:3]))
        dot = abs(sum(a * b for a, b in zip(own[3:], quaternion, strict=True)))
        degrees.append(math.degrees(2 * math.acos(min(dot, 1))))
    assert loss.item() == pytest.approx(position + 120 * orientation, rel=1e-9)
    assert numbers == {
        "loss_position": pytest.approx(position),
        "loss_orientation": pytest.approx(orientation),
        "median_metres": pytest.approx(sum(sorted(metres)[i] for i in ((count - 1) // 2, count // 2)) / 2),
        "median_degrees": pytest.approx(sum(sorted(degrees)[i] for i in ((count - 1) // 2, count // 2)) / 2),
    }


def test_the_truth_costs_nothing_and_a_quaternions_sign_counts_in_the_loss_alone():
    poses = spec_poses()
    found = torch.cat([poses[:, :3], F.normalize(poses[:, 3:])], dim=1)
    loss, numbers = PoseLoss()({"pose": found}, None, None, poses=poses)
    assert loss.item() == 0
    assert (numbers["median_metres"], numbers["median_degrees"]) == (0, pytest.approx(0, abs=1e-5))
    found[:, 3:] *= -1
    loss, numbers = PoseLoss()({"pose": found}, None, None, poses=poses)
    assert loss.item() == pytest.approx(500 * 4 / 4)
    assert numbers["median_degrees"] == pytest.approx(0, abs=1e-5)


def test_quaternions_without_direction_give_finite_numbers():
    found, poses = torch.zeros(2, 7, requires_grad=True), torch.zeros(2, 7)
    loss, numbers = PoseLoss()({"pose": found}, None, None, poses=poses)
    loss.backward()
    assert found.grad.isfinite().all()
    assert all(math.isfinite(value) for value in numbers.values())
    assert numbers["median_degrees"] == pytest.approx(180)


def test_what_the_engine_reads():
    assert (PoseLoss.batch_keys, PoseLoss.layout) == (("poses",), "items")
    assert PoseLoss().beta == 500
    mask = torch.zeros(6, 6, dtype=torch.bool)
    half = spec_poses().to(torch.bfloat16)
    loss, _ = PoseLoss()({"embedding": draw(3, 6, 4), "pose": half}, mask, mask, poses=spec_poses().float())
    assert loss.dtype == torch.float32


def test_mistakes_are_one_line():
    poses = spec_poses()
    with pytest.raises(UserError, match="name a pose network, such as --student_model resnet18pose"):
        PoseLoss()({"embedding": poses}, None, None, poses=poses)
    with pytest.raises(UserError, match="the data set does not give"):
        PoseLoss()({"pose": poses}, None, None, poses=None)
    with pytest.raises(UserError, match=r"\(6, 7\) \(found\) and \(5, 7\) \(true\)"):
        PoseLoss()({"pose": poses}, None, None, poses=poses[:5])
    with pytest.raises(UserError, match="beta is -1"):
        PoseLoss(beta=-1)
