"""Whiten-MTD's loss: recorded values and gradients, the definition by loops, degenerate cases, several processes."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.losses.baselines.relational import row_divergence, simkl
from distilplace.losses.parts.fusion import DRAWING, STRATEGIES, fuse
from distilplace.losses.parts.gather import gather_rows
from distilplace.losses.tasks.notask import NoTask
from distilplace.losses.whiten_mtd import WhitenMTD, pair_similarity


def two_views(places: int) -> Tensor:
    """Pairs of a batch that holds all first views, then all second views."""
    return torch.arange(2 * places).reshape(2, places).T


def stacked(case: dict, whose: str) -> Tensor | list[Tensor]:
    first, second = case[f"{whose}_view1"], case[f"{whose}_view2"]
    if isinstance(first, Tensor):
        return torch.cat([first, second])
    return [torch.cat(both) for both in zip(first, second, strict=True)]


def outputs(seed: int, rows: int = 8, widths: tuple[int, ...] = (5, 7, 9)) -> tuple[dict, list[dict]]:
    """A student and teachers of different widths."""
    generator = torch.Generator().manual_seed(seed)
    first, *rest = [torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in widths]
    return {"embedding": first}, [{"embedding": each} for each in rest]


def value(method: WhitenMTD, student: dict, teachers: list[dict], batch: dict) -> float:
    return method(student, teachers, batch)["whiten_mtd"].item()


def slow_loss(student: Tensor, fused: Tensor, student_temperature: float, teacher_temperature: float) -> float:
    """Rows, then columns, each term of the sums one by one."""
    total = 0.0
    for s, f in ((student, fused), (student.T, fused.T)):
        for own, wanted in zip(s.tolist(), f.tolist(), strict=True):
            p = [math.exp(x / teacher_temperature) for x in wanted]
            q = [math.exp(x / student_temperature) for x in own]
            for a, b in zip(p, q, strict=True):
                total += a / sum(p) * (math.log(a / sum(p)) - math.log(b / sum(q))) / len(s)
    return total


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("l_whiten_mtd.pt")


def recorded_cases(recorded):
    certain = [recorded["loss"][name] for name in ("mean", "maxmin", "maxmean", "maxfix")]
    return [*certain, recorded["loss_other_temperatures"]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_recorded_values_gradients_and_winners(recorded, dtype):
    for case in recorded_cases(recorded):
        embedding = stacked(case, "student").to(dtype).requires_grad_()
        teachers = [{"embedding": each.to(dtype)} for each in stacked(case, "teachers")]
        method = WhitenMTD(case["strategy"], case["student_temperature"], case["teacher_temperature"])
        places = len(case["student_view1"])
        loss = method({"embedding": embedding}, teachers, {"pairs": two_views(places)})["whiten_mtd"]
        assert loss.item() == pytest.approx(case["loss_f64"], rel=1e-9 if dtype == torch.float64 else 1e-6)
        loss.backward()
        wanted = torch.cat([case["grad_view1"], case["grad_view2"]])
        torch.testing.assert_close(embedding.grad.float(), wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))
        if case["strategy"] != "mean":  # upstream does not count there
            shares = [method.statistics[f"whiten_win_{k + 1}"] for k in range(len(teachers))]
            counted = case["pos_win_count"]  # over both directions
            assert shares == pytest.approx([int(count) / (2 * places) for count in counted])
            assert int(counted.sum()) == 2 * places


@pytest.mark.parametrize("strategy", DRAWING)
def test_recorded_draws(recorded, strategy):
    """Upstream draws for the matrix and again for its transpose, from torch's global generator."""
    case = recorded["loss"][strategy]
    places = len(case["student_view1"])
    student = pair_similarity(stacked(case, "student").double(), two_views(places)) / 0.05
    teachers = torch.stack([pair_similarity(x.double(), two_views(places)) for x in stacked(case, "teachers")])
    draw = torch.Generator().manual_seed(case["torch_seed_before"])
    masks = [torch.randint(0, len(teachers), (places, places), generator=draw) for _ in range(2)]
    rows, columns = fuse(teachers, strategy, masks[0]), fuse(teachers.transpose(1, 2), strategy, masks[1])
    total = row_divergence(student, rows / 0.05) + row_divergence(student.T, columns / 0.05)
    assert total.item() == pytest.approx(case["loss_f64"], rel=1e-12)


def test_values_of_the_specification():
    """Section 9."""
    i, j = torch.meshgrid(torch.arange(6.0).double(), torch.arange(8.0).double(), indexing="ij")
    student = torch.cat([torch.sin(0.7 * i + 0.3 * j + 0.1), torch.sin(0.7 * i + 0.3 * j + 0.15)])
    first = torch.cat([torch.cos(0.5 * i - 0.2 * j + 0.2), torch.cos(0.5 * i - 0.2 * j + 0.27)])
    second = torch.cat([torch.sin(0.9 * i - 0.4 * j), torch.sin(0.9 * i - 0.4 * j + 0.05)])
    teachers = [{"embedding": first}, {"embedding": second}]
    for strategy, wanted in (("mean", 0.05691829), ("maxmin", 0.08420508), ("maxmean", 0.05702168)):
        found = value(WhitenMTD(strategy), {"embedding": student}, teachers, {"pairs": two_views(6)})
        assert found == pytest.approx(wanted, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(STRATEGIES),
    st.integers(1, 3),
    st.floats(0.03, 2),
    st.floats(0.03, 2),
    st.integers(1, 4),
)
def test_the_definition_by_loops(seed, strategy, count, student_temperature, teacher_temperature, places):
    student, teachers = outputs(seed, 8, (5, 7, 9, 4)[: count + 1])
    pairs = torch.randperm(8, generator=torch.Generator().manual_seed(seed)).reshape(4, 2)[:places]
    method = WhitenMTD(strategy, student_temperature, teacher_temperature)
    found = value(method, student, teachers, {"pairs": pairs})
    matrices = []
    for output in (student, *teachers):
        matrix = [
            [F.cosine_similarity(output["embedding"][a], output["embedding"][b], 0) for b in pairs[:, 1]]
            for a in pairs[:, 0]
        ]
        matrices.append(torch.tensor(matrix, dtype=torch.float64))
    theirs = torch.stack(matrices[1:])
    drawn = WhitenMTD._drawn(theirs, pairs, {}) if strategy in DRAWING else None
    fused = fuse(theirs, strategy, drawn)
    wanted = slow_loss(matrices[0], fused, student_temperature, teacher_temperature)
    assert found == pytest.approx(wanted, rel=1e-8, abs=1e-10)
    assert sum(method.statistics.values()) == pytest.approx(1)
    assert set(method.statistics) == {f"whiten_win_{k}" for k in range(1, count + 1)}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_teacher_is_plain_similarity_distillation_and_equal_teachers_are_one(strategy):
    student, teachers = outputs(3)
    pairs = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7]])
    plain = simkl(student["embedding"], teachers[0]["embedding"], pairs).item()
    for count in (1, 2, 5):
        found = value(WhitenMTD(strategy), student, teachers[:1] * count, {"pairs": pairs})
        assert found == pytest.approx(plain, rel=1e-12)


def test_the_gradient_is_finite_where_softmax_is_sharp_and_rows_are_zero():
    student, teachers = outputs(4)
    embedding = 1e-3 * student["embedding"].clone()
    embedding[2] = 0
    embedding[5] = embedding[4]
    embedding.requires_grad_()
    loss = WhitenMTD("maxmin", 1e-4, 1e-4)({"embedding": embedding}, teachers, {"pairs": two_views(4)})["whiten_mtd"]
    loss.backward()
    assert loss.isfinite()
    assert embedding.grad.isfinite().all()
    assert embedding.grad.any()


def test_no_gradient_reaches_a_teacher_and_half_precision_loses_nothing():
    student, teachers = outputs(5)
    embedding = student["embedding"].float().requires_grad_()
    theirs = [each["embedding"].float().requires_grad_() for each in teachers]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        method = WhitenMTD()
        loss = method({"embedding": embedding}, [{"embedding": each} for each in theirs], {"pairs": two_views(4)})
    loss["whiten_mtd"].backward()
    assert all(each.grad is None for each in theirs)
    wanted = value(WhitenMTD(), student, teachers, {"pairs": two_views(4)})
    assert loss["whiten_mtd"].item() == pytest.approx(wanted, rel=1e-5)
    assert method.unweighted["whiten_mtd"].item() == loss["whiten_mtd"].item()


@pytest.mark.parametrize("strategy", DRAWING)
def test_draws_follow_the_places_not_the_order_of_calls(strategy):
    student, teachers = outputs(6, 24)
    batch = {"pairs": two_views(12), "indices": torch.arange(24) + 100}
    method = WhitenMTD(strategy)
    first = value(method, student, teachers, batch)
    torch.manual_seed(1)
    assert value(method, student, teachers, batch) == first == value(WhitenMTD(strategy), student, teachers, batch)
    assert value(method, student, teachers, {**batch, "indices": torch.arange(24) + 101}) != first


def test_what_is_refused():
    student, teachers = outputs(7)
    with pytest.raises(UserError, match="no pairs: give --loss none"):
        WhitenMTD()(student, teachers, {})
    with pytest.raises(UserError, match="no pairs"):
        WhitenMTD()(student, teachers, {"pairs": torch.empty(0, 2, dtype=torch.long)})
    with pytest.raises(UserError, match="one teacher at least"):
        WhitenMTD()(student, [], {"pairs": two_views(4)})
    with pytest.raises(UserError, match="different size"):
        WhitenMTD()(student, [{"embedding": torch.ones(6, 2)}], {"pairs": two_views(3)})
    with pytest.raises(UserError, match="student_temperature is 0"):
        WhitenMTD(student_temperature=0)


def test_an_unknown_strategy_is_answered_with_the_nearest(recorded):
    case = recorded["unknown_strategy"]
    assert "raises" in case
    with pytest.raises(UserError, match=f"'{case['strategy']}': did you mean 'mean'"):
        WhitenMTD(case["strategy"])


def test_no_task_is_a_zero_that_can_be_summed_and_differentiated():
    embedding = torch.full((3, 2), math.nan).requires_grad_()
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    loss, statistics = NoTask()({"embedding": embedding}, nothing, nothing)
    assert loss.item() == 0
    assert statistics == {}
    loss.backward()
    assert torch.equal(embedding.grad, torch.zeros(3, 2))
    assert NoTask.layout == "any"


def test_one_process_gathers_its_own_rows():
    x = torch.ones(3, 2)
    assert gather_rows(x) is x


PROCESS = """
import sys
import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from distilplace.losses.whiten_mtd import WhitenMTD
torch.set_num_threads(1)
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
case = torch.load(f"{folder}/case.pt", weights_only=True)
mine = case["parts"][rank]
network = torch.nn.Linear(*case["weight"].shape[::-1], bias=False, dtype=torch.float64)
network.weight.data.copy_(case["weight"])
network = DistributedDataParallel(network)
found = {}
for strategy in case["strategies"]:
    network.zero_grad()
    method = WhitenMTD(strategy)
    student = {"embedding": network(mine["inputs"])}
    teachers = [{"embedding": each} for each in mine["teachers"]]
    loss = method(student, teachers, {"pairs": mine["pairs"], "indices": mine["indices"]})["whiten_mtd"]
    loss.backward()
    found[strategy] = loss.detach(), network.module.weight.grad.clone(), sorted(method.statistics.items())
torch.save(found, f"{folder}/found{rank}.pt")
dist.destroy_process_group()
"""


def parts_of_a_batch(places: list[int], seed: int = 8) -> list[dict]:
    """What each process holds: ``places[r]`` places, rows 2i and 2i + 1 being the two views of place i."""
    generator = torch.Generator().manual_seed(seed)
    parts, start = [], 0
    for count in places:
        inputs, *teachers = (
            torch.randn(2 * count, width, generator=generator, dtype=torch.float64) for width in (6, 7, 9)
        )
        indices = torch.arange(start, start + 2 * count)
        pairs = torch.arange(2 * count).reshape(-1, 2)
        parts.append({"inputs": inputs, "teachers": teachers, "pairs": pairs, "indices": indices})
        start += 2 * count
    return parts


@pytest.mark.slow
@pytest.mark.parametrize("places", [[4, 4], [5, 3]], ids=["equal", "unequal"])
def test_two_processes_find_the_value_and_the_gradients_of_one(root, tmp_path, places):
    parts = parts_of_a_batch(places)
    weight = torch.randn(5, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    torch.save({"parts": parts, "weight": weight, "strategies": list(STRATEGIES)}, tmp_path / "case.pt")
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    started = [
        subprocess.Popen([*command, str(rank)], cwd=root, stderr=subprocess.PIPE, text=True) for rank in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    whole = {name: torch.cat([part[name] for part in parts]) for name in ("inputs", "indices")}
    teachers = [{"embedding": torch.cat(each)} for each in zip(*(part["teachers"] for part in parts), strict=True)]
    batch = {"pairs": torch.arange(2 * sum(places)).reshape(-1, 2), "indices": whole["indices"]}
    found = [torch.load(tmp_path / f"found{rank}.pt", weights_only=True) for rank in range(2)]
    for strategy in STRATEGIES:
        own = weight.clone().requires_grad_()
        method = WhitenMTD(strategy)
        loss = method({"embedding": whole["inputs"] @ own.T}, teachers, batch)["whiten_mtd"]
        loss.backward()
        for each in found:
            value, gradient, statistics = each[strategy]
            torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=0)
            torch.testing.assert_close(gradient, own.grad, rtol=1e-9, atol=1e-12)
            assert statistics == sorted(method.statistics.items())
