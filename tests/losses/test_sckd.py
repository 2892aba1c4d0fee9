"""SCKD: recorded similarities, hints and gradients, section 9's numbers, loops, and its layers."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps, with_maps
from distilplace.losses.combined import with_terms
from distilplace.losses.sckd import SCKD, bridge, cross_similarity, self_similarity

INTENDED = "NOT_REFERENCE_intended (kl_div fed log-probabilities)"
SMALLEST_REPAIR = (
    "NOT_REFERENCE_smallest_repair (softmax over the batch, kl_div fed probabilities as written)"  # of the published
)
V_STUDENT = [0.178716, 0.343945, 0.534541, 0.590357, 0.239774, 0.085462]
ONE_LAYER = {"SCmodule": "6", "hintmodule": "none", "sigma": 1}


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("m_sckd.pt")


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spec_case() -> tuple[Tensor, Tensor, Tensor]:
    """Section 9's features of student and teacher, and its poses."""
    i, j = torch.arange(6, dtype=torch.float64), torch.arange(8, dtype=torch.float64)
    student = torch.sin(0.7 * i[:, None] + 0.3 * j + 0.1)
    teacher = torch.cos(0.5 * i[:, None] - 0.2 * j + 0.2)
    columns = [(0.4 * i).cos(), (0.3 * i).sin(), 0.2 * i - 0.5, (0.1 * i).cos(), (0.1 * i).sin(), 0 * i + 0.1, 0 * i]
    return student, teacher, torch.stack(columns, dim=1)


def with_map(layer: str, features: Tensor) -> dict:
    return {"embedding": features.flatten(1), **with_maps({layer: features})}


def network(seed: int, size: int = 5, channels: int = 3) -> dict:
    maps = {"layer2": draw(seed, size, channels, 4, 3), "layer4": draw(seed + 1, size, channels + 1, 2, 2)}
    maps["pooled"] = maps["layer4"].mean(dim=(2, 3))
    return {"embedding": maps["pooled"], "pose": draw(seed + 2, size, 7), **with_maps(maps)}


def at_rows(output: dict, rows: Tensor) -> dict:
    maps = {name: value[rows] for name, value in layer_maps(output).items()}
    return {"embedding": output["embedding"][rows], **with_maps(maps)}


def numbers(method, student: dict, teacher: dict, poses: Tensor) -> dict[str, float]:
    return {name: value.item() for name, value in method(student, [teacher], {"poses": poses}).items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-3)])
@pytest.mark.parametrize(
    ("compared", "wanted"),
    [
        ({}, 0.20047672),
        ({"SCKL": True}, 0.02715490 / 6),
        ({"SCKL": True, "SCKL_reduction": "sum"}, 0.02715490),
        ({"SCKL_reduction": "sum"}, 0.20047672),
    ],
)
def test_the_values_that_an_independent_program_gave(dtype, tolerance, compared, wanted):
    student, teacher, poses = (x.to(dtype) for x in spec_case())
    method = SCKD(**compared, **ONE_LAYER)
    found = numbers(method, with_map("pooled", student), with_map("pooled", teacher), poses)
    assert found == {"sckd_sc": pytest.approx(wanted, rel=tolerance)}
    v = cross_similarity(student, self_similarity(poses.double()))
    assert v.tolist() == pytest.approx(V_STUDENT, abs=1e-6)


def test_recorded_similarities_and_their_gradients(recorded):
    for case in recorded["similarity"].values():
        truth = self_similarity(case["poses"])
        torch.testing.assert_close(truth, case["self_similarity_of_poses"][0])
        features = [each.clone().requires_grad_() for each in case["features"]]
        found = [self_similarity(each) for each in features]
        for own, wanted in zip(found, case["self_similarity"], strict=True):
            torch.testing.assert_close(own, wanted)
            assert (own.diagonal() == 0).all()
        size = len(truth)
        weights = torch.arange(size * size).view(size, size) * 1e-3
        value = torch.stack([(weights * own).sum() for own in found]).sum()
        assert value.item() == pytest.approx(case["grad_check_self"]["value_f64"], rel=1e-6)
        for own, wanted in zip(torch.autograd.grad(value, features), case["grad_check_self"]["grads"], strict=True):
            torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-7)
        rows = [cross_similarity(each, truth.double()) for each in features]
        for own, wanted in zip(rows, case["cross_similarity"], strict=True):
            torch.testing.assert_close(own.float(), wanted, rtol=1e-5, atol=1e-6)
        value = torch.stack([(torch.arange(1, size + 1) * own).sum() for own in rows]).sum()
        assert value.item() == pytest.approx(case["grad_check_cross"]["value_f64"], rel=1e-4, abs=1e-6)
        for own, wanted in zip(torch.autograd.grad(value, features), case["grad_check_cross"]["grads"], strict=True):
            torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("reduction", ["batchmean", "sum"])
def test_the_recorded_repair_that_is_meant_and_the_one_that_is_not(recorded, reduction):
    """The published call is a mean over the batch, and so are the recorded repairs; the switch gives B times that."""
    for case in recorded["cross_similarity_loss"].values():
        students = [each.clone().requires_grad_() for each in case["student_cross_similarity"]]
        times = len(students[0]) if reduction == "sum" else 1
        compare = SCKD(SCKL=True, SCKL_reduction=reduction).compare
        pairs = zip(students, case["teacher_cross_similarity"], strict=True)
        value = torch.stack([compare(own, wanted) for own, wanted in pairs]).sum()
        assert value.item() == pytest.approx(times * case[INTENDED]["value_f64"], rel=1e-5)
        for own, wanted in zip(torch.autograd.grad(value, students), case[INTENDED]["grads"], strict=True):
            torch.testing.assert_close(own, times * wanted, rtol=1e-4, atol=1e-7)
        assert case[SMALLEST_REPAIR]["value_f64"] < -0.3 < 0 < value.item()


def test_recorded_hints_and_their_gradients(recorded):
    for case in recorded["hint"].values():
        names = ("layer3", "layer4")
        students = [each.clone().requires_grad_() for each in case["student"]]
        outputs = [
            {"embedding": maps[-1].flatten(1), **with_maps(dict(zip(names, maps, strict=True)))}
            for maps in (students, case["teacher"])
        ]
        method = SCKD(SCmodule="none", hintmodule="4_5", alpha=1)
        (value,) = method(outputs[0], [outputs[1]], {}).values()
        value.backward()
        assert value.item() == pytest.approx(case["value_f64"], rel=1e-6)
        assert not list(method.parameters())
        for own, wanted in zip(students, case["grads"], strict=True):
            torch.testing.assert_close(own.grad, wanted, rtol=1e-4, atol=1e-7)


def test_the_recorded_hint_over_a_projection_and_that_it_learns(recorded):
    case = recorded["hint_channel_mismatch"]
    student, teacher = with_map("layer4", case["student"]), with_map("layer4", case["teacher"])
    method = SCKD(SCmodule="none", alpha=1)
    method.prepare(student, [teacher], 2)
    (weight,) = method.parameters()
    assert weight.shape == case["projection_weight"].shape
    with torch.no_grad():
        weight.copy_(case["projection_weight"])
    values = [method(student, [teacher], {})["sckd_hint"] for _ in range(2)]
    assert values[0].item() == pytest.approx(case["value_with_that_projection"], rel=1e-6)
    assert torch.equal(*values)
    values[0].backward()
    with torch.no_grad():
        weight -= 10 * weight.grad
    assert method(student, [teacher], {})["sckd_hint"] < values[0] - 1e-3


def test_bridges_start_by_the_seed_alone_and_are_saved():
    student, teacher = network(1), network(2, channels=6)
    first, second, other = (SCKD(hintmodule="3_5_6", seed=seed) for seed in (1, 1, 2))
    for number, each in enumerate((first, second, other)):
        torch.manual_seed(number)  # is of no account
        each.prepare(student, [teacher], 9)
    assert set(dict(first.named_parameters())) == {
        f"bridges.{layer}.0.weight" for layer in ("layer2", "layer4", "pooled")
    }
    assert first.bridges["pooled"][0].weight.shape == (7, 4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    other.load_state_dict(first.state_dict())
    poses = draw(5, 5, 7)
    assert numbers(other, student, teacher, poses) == numbers(first, student, teacher, poses)


def test_a_bridge_is_linear_then_relu():
    for flat in (True, False):
        layers = bridge(3, 5, flat=flat)
        x = draw(1, 2, 3).float() if flat else draw(1, 2, 3, 4, 2).float()
        weight = layers[0].weight.view(5, 3)
        wanted = torch.einsum("oc,bc...->bo...", weight, x).clamp(min=0)
        torch.testing.assert_close(layers(x), wanted)
        assert layers[0].bias is None


def slow_v(features: list[list[float]], poses: list[list[float]]) -> list[float]:
    def cosine(x: list[float], y: list[float]) -> float:
        return sum(a * b for a, b in zip(x, y, strict=True)) / max(math.hypot(*x) * math.hypot(*y), 1e-16)

    size = range(len(poses))
    found, true = ([[cosine(x[i], x[j]) if i != j else 0.0 for j in size] for i in size] for x in (features, poses))
    return [cosine(found[i], true[i]) for i in size]


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


@pytest.mark.parametrize("kl", [False, True])
@pytest.mark.parametrize("pose_norm", [False, True])
def test_similarities_at_several_layers_the_slow_way(kl, pose_norm):
    student, teacher, poses = network(1), network(4, channels=6), draw(9, 5, 7)
    poses[:, :3] += torch.tensor([4.0, -3, 7])
    method = SCKD(SCmodule="3_5", hintmodule="none", SCKL=kl, sigma=2, sc_pose_norm=pose_norm)
    training = np.concatenate([poses.numpy()[:3], draw(10, 8, 7).numpy() * 5])
    method.see_training(training)
    rows = poses.tolist()
    if pose_norm:
        for axis in range(3):
            column = training[:, axis].tolist()
            mean = sum(column) / len(column)
            deviation = math.sqrt(sum((x - mean) ** 2 for x in column) / len(column))
            for row in rows:
                row[axis] = (row[axis] - mean) / deviation
    wanted = 0.0
    for layer in ("layer2", "layer4"):
        own, other = (slow_v(net[f"maps.{layer}"].flatten(1).tolist(), rows) for net in (student, teacher))
        if kl:
            wanted += sum(q * math.log(q / p) for p, q in zip(softmax(own), softmax(other), strict=True)) / 5
        else:
            wanted += sum((p - q) ** 2 for p, q in zip(own, other, strict=True)) / 5
    assert numbers(method, student, teacher, poses) == {"sckd_sc": pytest.approx(2 * wanted, rel=1e-6)}
    assert method.unweighted["sckd_sc"].item() == pytest.approx(wanted, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9999), size=st.integers(1, 6), kl=st.booleans())
def test_any_batch_is_finite_whatever_its_order_and_free_of_cost_where_the_student_is_the_teacher(seed, size, kl):
    student, teacher, poses = network(seed, size), network(seed + 50000, size, channels=4), draw(seed + 3, size, 7)
    method = SCKD(SCmodule="3_6", hintmodule="3_5_0", SCKL=kl)
    leaves = [value.requires_grad_() for value in layer_maps(student).values() if value.is_leaf]
    terms = method(student, [teacher], {"poses": poses})
    assert set(terms) == {"sckd_hint", "sckd_sc"}
    assert all(value >= 0 for value in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    rows = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    again = numbers(method, at_rows(student, rows), at_rows(teacher, rows), poses[rows])
    assert again == {name: pytest.approx(value.item(), rel=1e-5, abs=1e-9) for name, value in terms.items()}
    alike = numbers(SCKD(SCmodule="3_6", hintmodule="3_5_0", SCKL=kl), student, student, poses)
    assert alike == {"sckd_hint": 0, "sckd_sc": 0}


def test_no_gradient_reaches_the_teacher():
    student, teacher = network(1), network(2)
    for output in (student, teacher):
        output |= with_maps({layer: value.requires_grad_() for layer, value in layer_maps(output).items()})
    terms = SCKD()(student, [teacher], {"poses": draw(3, 5, 7)})
    torch.stack(list(terms.values())).sum().backward()
    assert all(value.grad is None for value in layer_maps(teacher).values())
    used = {layer for layer, value in layer_maps(student).items() if value.grad is not None}
    assert used == {"layer2", "layer4"}


@pytest.mark.parametrize("kind", ["twins", "all equal", "zero row", "all zero", "zero pose"])
def test_gradients_stay_small_where_directions_end(kind):
    student, teacher, poses = network(1), network(2), draw(3, 5, 7)
    if kind == "zero pose":
        poses[2] = 0
    for value in layer_maps(student).values():
        if kind == "twins":
            value[1] = value[0]
        elif kind == "all equal":
            value[:] = value[0].clone()
        elif kind != "zero pose":
            value[2 if kind == "zero row" else slice(None)] = 0
    student |= with_maps({layer: value.requires_grad_() for layer, value in layer_maps(student).items()})
    method = SCKD(SCmodule="3_6", hintmodule="none", sigma=1)
    (term,) = method(student, [teacher], {"poses": poses}).values()
    term.backward()
    assert math.isfinite(term.item())
    for layer in ("layer2", "pooled"):
        gradient = student[f"maps.{layer}"].grad
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e3


def test_positions_are_standardised_by_the_training_set_where_asked_for():
    student, teacher, poses = network(1), network(2), draw(3, 5, 7)
    training = draw(4, 20, 7).numpy()
    training[:, 2] = 1.5
    normed, raw = (SCKD(hintmodule="none", sc_pose_norm=on) for on in ("true", False))
    with pytest.raises(UserError, match="sc_pose_norm needs the poses of the training set"):
        numbers(normed, student, teacher, poses)
    for method in (normed, raw):
        method.see_training(training)
    assert normed.position_deviation[2] == 1
    by_hand = poses.clone()
    by_hand[:, :3] = (poses[:, :3] - torch.from_numpy(training[:, :3].mean(axis=0))) / torch.tensor(
        [*training[:, :2].std(axis=0), 1.0]
    )
    found = numbers(normed, student, teacher, poses)
    assert found == {"sckd_sc": pytest.approx(numbers(raw, student, teacher, by_hand)["sckd_sc"], rel=1e-5)}
    assert found != {"sckd_sc": pytest.approx(numbers(raw, student, teacher, poses)["sckd_sc"], rel=1e-2)}
    again = SCKD(hintmodule="none", sc_pose_norm=True)
    again.load_state_dict(normed.state_dict())
    assert numbers(again, student, teacher, poses) == found


def test_terms_may_be_added_to_it():
    student, teacher, poses = network(1), network(2), draw(3, 5, 7)
    both = with_terms(SCKD(), ["posekd:2"])
    both.prepare(student, [teacher], 5)
    found = numbers(both, student, teacher, poses)
    assert set(found) == {"sckd_hint", "sckd_sc", "posekd"}
    difference = (student["pose"] - teacher["pose"]).square().sum(dim=1).mean().item()
    assert found["posekd"] == pytest.approx(2 * difference)


def test_outputs_that_cannot_be_compared():
    student, teacher, poses = network(1), network(2), draw(3, 5, 7)
    with pytest.raises(UserError, match="which this data set does not give: give --SCmodule none"):
        SCKD()(student, [teacher], {})
    assert set(SCKD(SCmodule="none")(student, [teacher], {})) == {"sckd_hint"}
    with pytest.raises(UserError, match="'stem', which the student does not give: take pose networks"):
        numbers(SCKD(SCmodule="1"), student, teacher, poses)
    with pytest.raises(UserError, match="batches of different size"):
        numbers(SCKD(), student, network(2, size=4), poses)
    with pytest.raises(UserError, match="takes 1 teacher"):
        SCKD()(student, [teacher, teacher], {"poses": poses})
    teacher["maps.layer4"] = F.interpolate(teacher["maps.layer4"], scale_factor=2)
    with pytest.raises(UserError, match="'layer4' has 2 x 2 places in the student and 4 x 4 in the teacher"):
        SCKD().prepare(student, [teacher], 9)
    ready = SCKD()
    ready.prepare(student, [network(2)], 9)
    with pytest.raises(UserError, match="compares maps of equal size"):
        numbers(ready, student, teacher, poses)
    teacher["maps.layer2"] = teacher["maps.layer2"][..., :1]
    assert math.isfinite(numbers(SCKD(hintmodule="none"), student, teacher, poses)["sckd_sc"])
