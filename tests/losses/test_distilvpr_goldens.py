"""Every recorded case of DistilVPR's losses: values and gradients, in float64 and in float32."""

import math
import warnings
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from distilplace.losses import create_distiller
from distilplace.losses.distilvpr import rkdg_geodesic
from distilplace.losses.parts.cross_agent import MAPPINGS, Ball, cross_errors, mean_error
from distilplace.losses.parts.hyperbolic import distance_matrix
from distilplace.losses.parts.relations import angle_loss, pairwise_distance
from distilplace.losses.rkd import rkd_distance
from tests.goldens import is_recorded

ALL_PAIRS = (
    *("b4", "b4_gauss", "b16", "b64", "b4_large", "b4_dup", "b16_dup", "b4_zero_row", "b4_all_same"),
    "b16_student_equals_teacher",
)
PAIRS = [name for name in ALL_PAIRS if is_recorded("f_distil_losses.pt", "pairs", name)]
DTYPES = (torch.float64, torch.float32)
KINDS = {"dist": "dist", "sim": "sim", "geo": "geodist"}


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("f_distil_losses.pt")


@pytest.fixture(scope="module")
def cases(recorded):
    found = defaultdict(list)
    for case in recorded["cases"]:
        found[case["pair"], case["fn"]].append(case)
    return found


def test_no_recorded_pair_is_forgotten(recorded):
    assert set(recorded["pairs"]) <= set(PAIRS)


def cross_value(student: Tensor, teacher: Tensor, case: dict) -> Tensor:
    """By the pure functions; :func:`test_the_method_gives_what_its_functions_give` ties the method to them."""
    mappings = ("topoincare",) if case["fn"] == "geo" else MAPPINGS[case["logit_mapping_fn"]]
    return sum(
        float(weight)
        * mean_error(
            cross_errors(
                student,
                teacher,
                case["fn"],
                direction=case["direction"],
                criterion=case["loss_type"],
                norm=case["logit_norm_fn"],
                mapping=mapping,
                ball=Ball(case["curvature"]),
                divide=bool(case["divide"]),
            )
        )
        for weight, mapping in zip(case["weights"].split("_"), mappings, strict=True)
    )


def rkdg_value(student: Tensor, teacher: Tensor, case: dict) -> Tensor:
    distances = pairwise_distance(student), pairwise_distance(teacher)
    total = case["distance_weight"] * rkd_distance(*distances, squared=case["squared"])
    total = total + case["angle_weight"] * angle_loss(*distances)
    return total + case["geodesic_weight"] * rkdg_geodesic(student, teacher, Ball(case["curvature"]))


def total_value(student: Tensor, teacher: Tensor, case: dict) -> Tensor:
    method = create_distiller(case["options"]["distil_method"], **method_settings(case))
    terms = method({"embedding": student}, [{"embedding": teacher}], {})
    return sum(terms.values())


def method_settings(case: dict) -> dict:
    foreign = ("distil_method", "distil_logit_weight", "task_logit_weight", "student_output_dim")
    options = {name: value for name, value in case["options"].items() if name not in foreign}
    return {**options, "rkdgloss_weight": case["rkdgloss_weight"]}


VALUES = {"dist": cross_value, "sim": cross_value, "geo": cross_value, "rkdg": rkdg_value}
VALUES["total_distil(no task loss)"] = total_value


def has_ties(case: dict) -> bool:
    """L1 between a zero row's relations: found equals wanted, so that the sign, and the gradient, is rounding noise."""
    return case.get("loss_type") == "L1" and case["direction"] == "st2ss" and case["pair"] == "b4_zero_row"


def counts_of_coincident_pairs(recorded: dict, case: dict) -> set[float]:
    """Values of the geodesic part with each network's mean over all pairs, or only over those apart.

    Rows that coincide are apart by rounding noise in the reference, above 0 or not, and so count in its mean or not.
    """
    halves = []
    for role in ("student", "teacher"):
        ball = Ball(case["curvature"] if "curvature" in case else case["options"]["curvature"])
        distances = distance_matrix(ball(recorded["pairs"][case["pair"]][role].double()), None, ball.curvature)
        size = len(distances)
        means = distances.sum() / (size * (size - 1)), distances[distances > 0].mean()
        halves.append([distances / mean for mean in means])
    return {torch.nn.functional.smooth_l1_loss(s, t).item() for s in halves[0] for t in halves[1]}


def check_value(found: float, case: dict, recorded: dict) -> None:
    wanted = case.get("value_f64_diag_zeroed", case["value_f64"])
    if math.isnan(wanted):
        if case.get("loss_type") != "KLDiv":  # KLDiv: refused by the method, see test_distilvpr.py
            assert math.isfinite(found), case
    elif case["pair"].endswith("_dup") and "value_f64_diag_zeroed" in case:
        weight = case.get("geodesic_weight", case.get("rkdgloss_weight"))
        options = counts_of_coincident_pairs(recorded, case)
        geodesic = rkdg_geodesic(
            *(recorded["pairs"][case["pair"]][role].double() for role in ("student", "teacher")),
            Ball(case["curvature"] if "curvature" in case else case["options"]["curvature"]),
        ).item()
        assert min(abs(found + weight * (option - geodesic) - wanted) for option in options) < 1e-6 * abs(wanted), case
    else:
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-12), case


def check_gradient(found: Tensor, case: dict) -> None:
    if math.isnan(case["value_f64"]) and case.get("loss_type") == "KLDiv":
        return
    assert found.isfinite().all(), case
    size = case.get("grad_norm_f64_diag_zeroed", case["grad_norm_f64"])
    if has_ties(case) or not math.isfinite(size):
        return
    if size < 1e-9:  # zero but for rounding, and the recorded float32 gradient is noise
        assert found.norm().item() < 1e-9, case
        return
    slack = 1e-5 if math.isnan(case["grad_rel_err_vs_f64"]) else 1e-5 + 1.2 * case["grad_rel_err_vs_f64"]
    if case["pair"].endswith("_dup") and "grad_norm_f64_diag_zeroed" in case:
        slack = max(slack, 0.02)  # as counts_of_coincident_pairs
    assert found.norm().item() == pytest.approx(size, rel=slack), case
    exact = case.get("grad_f64_diag_zeroed")
    wanted = exact if exact is not None else case.get("grad")
    if wanted is not None and wanted.isfinite().all():
        limit = (1e-5 if exact is not None and not case["pair"].endswith("_dup") else slack) * size
        assert (found.double() - wanted.double()).norm().item() <= limit, case


@pytest.mark.filterwarnings("ignore:.*rim of the Poincare ball")
@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("pair", PAIRS)
def test_recorded_losses(recorded, cases, pair, kind):
    assert cases[pair, kind]
    for case in cases[pair, kind]:
        teacher = recorded["pairs"][pair]["teacher"]
        for dtype in DTYPES:
            leaf = recorded["pairs"][pair]["student"].clone().to(dtype).requires_grad_()
            inside = (leaf, teacher.to(dtype)) if kind.startswith("total") else (leaf.double(), teacher.double())
            value = VALUES[kind](*inside, case)
            value.backward()
            check_value(value.item(), case, recorded)
            check_gradient(leaf.grad, case)


def test_the_parts_of_the_total_are_in_the_log(recorded, cases):
    for case in cases["b16", "total_distil(no task loss)"]:
        pair = recorded["pairs"]["b16"]
        method = create_distiller("ours_rkdg", **method_settings(case))
        terms = method({"embedding": pair["student"]}, [{"embedding": pair["teacher"]}], {})
        for name, part in (("dist", "dist"), ("sim", "sim"), ("geo", "geodist")):
            raw = method.unweighted[f"crosslogit{part}_st2ss"].item()
            assert terms[f"crosslogit{part}_st2ss"].item() == pytest.approx(0.1 * raw, rel=1e-6)
            # upstream's parts are stored already weighted or raw: one of the two, the same for all
            assert case["parts"][name] == pytest.approx(raw, rel=1e-5) or case["parts"][name] == pytest.approx(
                0.1 * raw, rel=1e-5
            )
        assert terms["rkdg"].item() == pytest.approx(
            case["rkdgloss_weight"] * method.unweighted["rkdg"].item(), rel=1e-6
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_method_gives_what_its_functions_give(recorded, cases, kind):
    """The recorded cases again, through ``create_distiller`` and the flags."""
    checked = 0
    for case in cases["b16", kind] + cases["b4_zero_row", kind]:
        if case["loss_type"] == "KLDiv" and case["logit_norm_fn"] in ("l2", "identity"):
            continue
        flag = f"crosslogit{KINDS[kind]}loss"
        options = {
            f"{flag}_type": case["loss_type"],
            f"{flag}_logit_norm_fn": case["logit_norm_fn"],
            f"{flag}_weight_{case['direction']}": case["weights"],
            "curvature": case["curvature"],
            "logit_mapping_fn": "identity" if kind == "geo" else case["logit_mapping_fn"],
        }
        if kind == "sim":
            options["crosslogitsimloss_divide"] = case["divide"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method = create_distiller("ours", **options)
            pair = recorded["pairs"][case["pair"]]
            terms = method({"embedding": pair["student"]}, [{"embedding": pair["teacher"]}], {})
        found = sum(terms.values()).item()
        if math.isfinite(case["value_f64"]):
            assert found == pytest.approx(case["value_f64"], rel=1e-6, abs=1e-12), case
        else:
            assert math.isfinite(found), case
        checked += 1
    assert checked > 10
