"""ASHT-KD as a method: our reading of it by loops, and who gets which gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps, with_maps
from distilplace.losses.asht import ASHT

TAU, T = 0.5, 3.0
"""Temperatures of the cases computed by loops; the cosines' is higher than the default, so that rows are not sharp."""
NO_MAPS = {"asht_feature_weight": 0, "tau_student": TAU}


def batch_of(places: int, seed: int = 0, share: float = 0.0) -> dict[str, Tensor]:
    """Consecutive pairs; a ``share`` of the other places is too near to be a negative."""
    place = torch.arange(2 * places) // 2
    near = torch.rand(places, places, generator=torch.Generator().manual_seed(seed)) < share
    near = (near | near.T)[place][:, place]
    return {"negatives_mask": (place.unsqueeze(0) != place.unsqueeze(1)) & ~near}


def outputs(seed: int, places: int, count: int, dtype=torch.float64) -> list[dict]:
    """A student's output and those of ``count`` teachers, of different dimensions."""
    generator = torch.Generator().manual_seed(seed)
    widths = [4, *(range(5, 5 + count))]
    return [
        {"embedding": torch.randn(2 * places, w, generator=generator, dtype=torch.float64).to(dtype)} for w in widths
    ]


def having_maps(found: list[dict], sizes: list[list[int]]) -> list[dict]:
    generator = torch.Generator().manual_seed(7)
    result = []
    for output, sides in zip(found, sizes, strict=True):
        rows = len(output["embedding"])
        shapes = {f"layer{number}": (rows, 2 + number, side, side + 1) for number, side in enumerate(sides, 1)}
        maps = {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        result.append({**output, **with_maps(maps)})
    return result


def terms_of(method: ASHT, found: list[dict], batch) -> dict[str, float]:
    return {name: value.item() for name, value in method(found[0], found[1:], batch).items()}


def table_of(output: dict, negatives: Tensor) -> list[list[float]]:
    """Logits by loops; minus infinity where two places are not negatives."""
    rows = [[v / math.hypot(*row) for v in row] for row in output["embedding"].tolist()]
    return [
        [
            sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / TAU
            if i + 1 == j or negatives[i, j]
            else -math.inf
            for j in range(1, len(rows), 2)
        ]
        for i in range(0, len(rows), 2)
    ]


def softmax(values: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def lesson_by_loops(tables: list[list[list[float]]], item: int) -> tuple[list[float], list[float], int, float]:
    """Weights, soft target, pseudo-label and complexity of one row of the teachers' tables."""
    rows = [table[item] for table in tables]
    weights = softmax([math.log(softmax(row)[item]) for row in rows])
    soft, sharp = (
        [sum(w * softmax(row, t)[j] for w, row in zip(weights, rows, strict=True)) for j in range(len(rows[0]))]
        for t in (T, 1.0)
    )
    candidates = sum(value > -math.inf for value in rows[0])
    entropy = -sum(p * math.log(p) for p in soft if p > 0)
    return weights, soft, sharp.index(max(sharp)), entropy / math.log(candidates) if candidates > 1 else 0.0


def errors_by_loops(tables, own) -> list[tuple[float, float, float]]:
    """Soft error, hard error and complexity of each row."""
    result = []
    for item, row in enumerate(own):
        _, soft, label, complexity = lesson_by_loops(tables, item)
        softened = softmax(row, T)
        kl = sum(p * math.log(p / q) for p, q in zip(soft, softened, strict=True) if p > 0)
        result.append((T * T * kl, -math.log(softmax(row)[label]), complexity))
    return result


def test_the_repositorys_loss_as_a_method():
    """Its logits are ours, its labels the places, its teachers all alike; nothing else is computed."""
    found, batch = outputs(0, 4, 2), batch_of(4, share=0.3)
    student, *teachers = (torch.tensor(table_of(output, batch["negatives_mask"])) for output in found)
    method = ASHT(asht_repo_loss=True, asht_hard_weight=2, tau_student=TAU)
    values = terms_of(method, found, batch)
    mean = ((teachers[0] + teachers[1]) / 2).tolist()
    pairs = [(softmax(mean[i], T), softmax(student[i].tolist(), T)) for i in range(4)]
    kl = sum(p * math.log(p / q) for wanted, own in pairs for p, q in zip(wanted, own, strict=True) if p > 0) / 4
    ce = -sum(math.log(softmax(student[i].tolist())[i]) for i in range(4)) / 4
    assert values == pytest.approx({"asht_soft": kl, "asht_hard": 2 * ce})
    assert method.student_maps(("layer1",)) == ()


@given(
    seed=st.integers(0, 999),
    places=st.integers(1, 5),
    count=st.integers(1, 3),
    share=st.sampled_from([0, 0.4]),
    gate=st.sampled_from(["role", "entropy", "fixed"]),
)
@settings(max_examples=30, deadline=None)
def test_soft_and_hard_terms_by_loops(seed, places, count, share, gate):
    found, batch = outputs(seed, places, count), batch_of(places, seed, share)
    own, *tables = (table_of(output, batch["negatives_mask"]) for output in found)
    rows = errors_by_loops(tables, own)
    turned = [[list(column) for column in zip(*table, strict=True)] for table in (own, *tables)]
    columns = errors_by_loops(turned[1:], turned[0])
    if gate == "role":
        soft, hard = [row[0] for row in rows], [column[1] for column in columns]
    else:
        shares = [1 - item[2] if gate == "entropy" else 0.3 for item in rows + columns]
        soft = [share * item[0] for share, item in zip(shares, rows + columns, strict=True)]
        hard = [(1 - share) * item[1] for share, item in zip(shares, rows + columns, strict=True)]
    method = ASHT(asht_gate=gate, asht_lambda=0.3, **NO_MAPS)
    assert terms_of(method, found, batch) == pytest.approx(
        {"asht_soft": sum(soft) / places, "asht_hard": sum(hard) / places}, rel=1e-9, abs=1e-12
    )
    assert method.statistics["asht_entropy"] == pytest.approx(sum(i[2] for i in rows + columns) / places / 2, abs=1e-12)
    weights = [lesson_by_loops(side, i)[0] for side in (tables, turned[1:]) for i in range(places)]
    for teacher in range(count):
        mean = sum(weight[teacher] for weight in weights) / places / 2
        assert method.statistics[f"asht_weight_{teacher + 1}"] == pytest.approx(mean)


def test_two_places_by_hand():
    """Teacher cosines (1, 0; 0, 1), student's (0, 1; 1, 0), temperatures 1: e / (e + 1) against 1 / (e + 1)."""
    teacher = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.float64)
    student = torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]], dtype=torch.float64)
    method = ASHT(temperature=1, tau_student=1, asht_feature_weight=0)
    p = math.e / (math.e + 1)
    values = terms_of(method, [{"embedding": student}, {"embedding": teacher}], batch_of(2))
    assert values == pytest.approx({"asht_soft": p * 1 + (1 - p) * -1, "asht_hard": math.log(math.e + 1)})
    assert method.statistics["asht_right_labels"] == 1
    assert method.statistics["asht_weight_1"] == 1


@pytest.mark.parametrize("gate", ["role", "entropy", "fixed"])
def test_identical_teachers_are_one_teacher(gate):
    found, batch = having_maps(outputs(0, 4, 1), [[6, 3], [5, 4]]), batch_of(4, share=0.3)
    method = ASHT(asht_gate=gate)
    wanted = terms_of(method, found, batch)
    assert len(wanted) == 3
    assert terms_of(method, [found[0], found[1], found[1], found[1]], batch) == pytest.approx(wanted)
    assert [method.statistics[f"asht_weight_{k}"] for k in (1, 2, 3)] == pytest.approx([1 / 3] * 3)


def test_a_fixed_share_of_one_is_soft_alone():
    found, batch = outputs(1, 4, 2), batch_of(4)
    both = terms_of(ASHT(asht_gate="fixed", asht_lambda=1, **NO_MAPS), found, batch)
    alone = terms_of(ASHT(asht_mode="S", asht_gate="fixed", asht_lambda=1, **NO_MAPS), found, batch)
    assert both.pop("asht_hard") == 0
    assert both == alone
    assert set(terms_of(ASHT(asht_mode="H", **NO_MAPS), found, batch)) == {"asht_hard"}


@pytest.mark.parametrize("gate", ["role", "entropy", "fixed"])
def test_a_student_equal_to_its_only_teacher_has_nothing_to_learn_softly(gate):
    found, batch = having_maps(outputs(2, 5, 1), [[4, 2], [4, 2]]), batch_of(5, share=0.3)
    values = terms_of(ASHT(asht_gate=gate, temperature=1), [found[0], found[0]], batch)
    assert values["asht_soft"] == pytest.approx(0, abs=1e-12)
    assert values["asht_feature"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"asht_gate": "entropy"}, {"asht_repo_loss": True}])
def test_the_order_of_places_and_rows_does_not_count(options):
    found, batch = having_maps(outputs(3, 4, 2), [[6, 3], [6, 3], [3, 2]]), batch_of(4, share=0.3)
    order = torch.tensor([5, 0, 3, 7, 2, 6, 1, 4])
    moved = [
        {
            "embedding": output["embedding"][order],
            **with_maps({name: value[order] for name, value in layer_maps(output).items()}),
        }
        for output in found
    ]
    pairs = order.argsort().reshape(-1, 2)[torch.tensor([2, 0, 3, 1])]
    again = {"negatives_mask": batch["negatives_mask"][order][:, order], "pairs": pairs}
    method = ASHT(**options)
    assert terms_of(method, moved, again) == pytest.approx(terms_of(method, found, batch))


def gradient_of(term: str, found: list[dict], batch, **options) -> Tensor:
    embedding = found[0]["embedding"].clone().requires_grad_()
    teachers = [{"embedding": output["embedding"].clone().requires_grad_()} for output in found[1:]]
    ASHT(**options)({"embedding": embedding}, teachers, batch)[term].backward()
    assert all(teacher["embedding"].grad is None for teacher in teachers)
    return embedding.grad


def test_by_role_query_images_learn_softly_and_database_images_hard():
    found, batch = outputs(4, 4, 2), batch_of(4)
    soft, hard = (gradient_of(term, found, batch, **NO_MAPS) for term in ("asht_soft", "asht_hard"))
    assert (soft[0::2].abs().sum(dim=1) > 1e-6).all()
    assert (soft[1::2] == 0).all()
    assert (hard[0::2] == 0).all()
    assert (hard[1::2].abs().sum(dim=1) > 1e-6).all()


@pytest.mark.parametrize("gate", ["entropy", "fixed"])
def test_by_the_other_gates_both_learn_both(gate):
    found, batch = outputs(4, 4, 2), batch_of(4)
    for term in ("asht_soft", "asht_hard"):
        gradient = gradient_of(term, found, batch, asht_gate=gate, **NO_MAPS)
        assert (gradient.abs().sum(dim=1) > 1e-6).all()


@pytest.mark.parametrize("options", [{"asht_gate": "entropy"}, {"asht_gate": "fixed"}, {"asht_repo_loss": True}])
def test_the_gradient_is_that_of_the_terms(options):
    found, batch = outputs(5, 3, 2), batch_of(3, share=0.3)
    method = ASHT(**NO_MAPS, **options)
    total = lambda x: sum(method({"embedding": x}, found[1:], batch).values())  # noqa: E731
    assert torch.autograd.gradcheck(total, found[0]["embedding"].requires_grad_())


def test_a_place_within_the_radius_counts_in_no_row():
    """With no negatives at all each image has its own partner alone: nothing to choose, nothing to learn."""
    found = outputs(6, 4, 2)
    nothing = {"negatives_mask": torch.zeros(8, 8, dtype=torch.bool)}
    for options in ({}, {"asht_gate": "entropy"}, {"asht_repo_loss": True}):
        values = terms_of(ASHT(**options), found, nothing)
        assert values == pytest.approx({"asht_soft": 0, "asht_hard": 0}, abs=1e-12)


def resized(channel_mean: list[list[float]], height: int, width: int) -> list[float]:
    """Averages over the cells of a height x width grid, by loops, flattened."""
    rows, columns = len(channel_mean), len(channel_mean[0])
    cells = []
    for y in range(height):
        for x in range(width):
            ys = range(y * rows // height, -(-(y + 1) * rows // height))
            xs = range(x * columns // width, -(-(x + 1) * columns // width))
            cells.append(sum(channel_mean[i][j] for i in ys for j in xs) / (len(ys) * len(xs)))
    return cells


def test_the_feature_term_by_loops():
    """Levels meet from the coarsest backwards; a row weights the teachers as its query or its database side does."""
    found, batch = having_maps(outputs(8, 3, 2), [[6, 4, 2], [9, 4], [7, 5, 3, 1]]), batch_of(3)
    tables = [table_of(output, batch["negatives_mask"]) for output in found[1:]]
    turned = [[list(column) for column in zip(*table, strict=True)] for table in tables]
    total = 0.0
    for own_name, *names in (("layer3", "layer2", "layer4"), ("layer2", "layer1", "layer3")):
        own = found[0][f"maps.{own_name}"]
        height, width = own.shape[2:]
        for row in range(6):
            weights = lesson_by_loops(turned if row % 2 else tables, row // 2)[0]
            fused = [0.0] * (height * width)
            for weight, output, name in zip(weights, found[1:], names, strict=True):
                seen = resized(output[f"maps.{name}"][row].square().mean(dim=0).tolist(), height, width)
                fused = [value + weight * new for value, new in zip(fused, seen, strict=True)]
            mine = own[row].square().mean(dim=0).flatten().tolist()
            lengths = math.hypot(*mine), math.hypot(*fused)
            squares = [(a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(mine, fused, strict=True)]
            total += sum(squares) / (height * width) / 6
    method = ASHT(tau_student=TAU, asht_feature_weight=2)
    assert terms_of(method, found, batch)["asht_feature"] == pytest.approx(2 * total)
    assert method.unweighted["asht_feature"].item() == pytest.approx(total)


def test_maps_that_were_not_asked_for_are_not_read():
    found, batch = having_maps(outputs(9, 3, 2), [[6, 3], [6, 3], [6, 3]]), batch_of(3)
    method = ASHT()
    names = ("layer1", "layer2")
    assert method.student_maps(names) == method.teacher_maps(names) == names
    wanted = terms_of(method, found, batch)
    stranger = {"map": torch.ones(6, 2, 1, 1, dtype=torch.float64), "stem": torch.ones(6, 2, 9, 9, dtype=torch.float64)}
    crowded = {**found[0], **with_maps({**layer_maps(found[0]), **stranger})}
    assert terms_of(method, [crowded, *found[1:]], batch) == wanted
    assert terms_of(method, [found[0], crowded, found[2]], batch) == terms_of(method, [found[0], *found[::2]], batch)


def test_networks_without_levels_have_no_feature_term():
    found, batch = having_maps(outputs(9, 3, 2), [[6, 3], [6, 3], []]), batch_of(3)
    assert set(terms_of(ASHT(), found, batch)) == {"asht_soft", "asht_hard"}
    assert set(terms_of(ASHT(), found[2:] + found[:2], batch)) == {"asht_soft", "asht_hard"}
    assert ASHT().student_maps(()) == ()
    assert ASHT(asht_feature_weight=0).teacher_maps(("layer1",)) == ()
    with_weight_0 = ASHT(asht_feature_weight=0)
    assert set(terms_of(with_weight_0, found[:2], batch)) == {"asht_soft", "asht_hard"}


@pytest.mark.parametrize("options", [{}, {"asht_gate": "entropy"}, {"asht_gate": "fixed"}, {"asht_repo_loss": True}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_terms_are_finite_and_not_negative_even_where_rows_coincide_or_vanish(options, dtype):
    found, batch = outputs(10, 4, 3, dtype), batch_of(4)
    for output in found:
        output["embedding"][2] = output["embedding"][0]
        output["embedding"][5] = 0
    embedding = found[0]["embedding"].requires_grad_()
    terms = ASHT(**options)(found[0], found[1:], batch)
    sum(terms.values()).backward()
    assert all(value.isfinite() and value >= -1e-12 for value in terms.values())
    assert embedding.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"asht_mode": "HS"}, "known: S, H, SH|did you mean"),
        ({"asht_gate": "rolle"}, "did you mean 'role'"),
        ({"asht_lambda": 1.5}, "from 0 to 1"),
        ({"temperature": 0}, "above 0"),
        ({"tau_student": -1}, "above 0"),
        ({"tau_weight": 0}, "above 0"),
        ({"asht_mode": "S", "asht_soft_weight": 0, "asht_feature_weight": 0}, "every weight"),
        ({"asht_repo_loss": "yes"}, "True or False"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ASHT(**options)


def test_batches_that_cannot_be_compared_are_refused():
    found, batch = outputs(0, 3, 1), batch_of(3)
    with pytest.raises(UserError, match="none given"):
        ASHT()(found[0], [], batch)
    with pytest.raises(UserError, match="different size"):
        ASHT()(found[0], [{"embedding": torch.ones(4, 2)}], batch)
    with pytest.raises(UserError, match="not made of pairs"):
        ASHT()({"embedding": torch.ones(3, 2)}, [{"embedding": torch.ones(3, 2)}], batch)
