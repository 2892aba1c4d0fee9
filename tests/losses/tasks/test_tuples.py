"""SARE and triplet losses of tuples, and the soft loss of regions: recorded values, loops, gradients, mistakes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.outputs import with_maps
from distilplace.losses.tasks.tuples import SareInd, SareJoint, TupleTriplet

ALL = (SareInd, SareJoint, TupleTriplet)
TUPLES = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 2]])
DIFFICULT = torch.tensor([[5, 1], [7, 0]])


def spec_rows() -> Tensor:
    """S of spec-methods.md section 9."""
    i, j = torch.arange(6.0, dtype=torch.float64).unsqueeze(1), torch.arange(8.0, dtype=torch.float64)
    return torch.sin(0.7 * i + 0.3 * j + 0.1)


def networks(seed: int, dtype=torch.float64) -> tuple[dict, dict]:
    """Outputs of a network and of its predecessor: 8 images, 3 regions, region 0 the whole image."""
    generator = torch.Generator().manual_seed(seed)
    outputs = []
    for _ in range(2):
        regions = torch.randn(8, 3, 5, generator=generator, dtype=torch.float64).to(dtype)
        outputs.append({"embedding": regions[:, 0].clone(), "maps.regions": regions})
    return outputs[0], outputs[1]


def loss_of(loss_function, output, tuples: Tensor = TUPLES, **extras):
    mask = torch.zeros(len(output["embedding"]), len(output["embedding"]), dtype=torch.bool)
    return loss_function(output, mask, mask, tuples=tuples, **extras)


def direction(vector: list[float]) -> list[float]:
    return [value / math.hypot(*vector) for value in vector]


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def by_hand(kind, anchor, positive, negatives, squared: bool = False) -> float:
    """The hard loss of one tuple of unit vectors."""
    if kind is TupleTriplet:
        near = math.dist(anchor, positive)
        return sum(max(near - math.dist(anchor, n) + math.sqrt(0.1), 0) for n in negatives) / len(negatives)

    def score(x) -> float:
        return math.exp(-(math.dist(anchor, x) ** 2) if squared else dot(anchor, x) / 0.07)

    if kind is SareJoint:
        return -math.log(score(positive) / (score(positive) + sum(score(n) for n in negatives)))
    shares = [score(positive) / (score(positive) + score(n)) for n in negatives]
    return -sum(math.log(share) for share in shares) / len(shares)


def softened(scores: list[float], temperature: float) -> list[float]:
    powers = [math.exp(score / temperature) for score in scores]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("kind", "wanted"), [(SareInd, 2.19783998), (SareJoint, 6.59351993), (TupleTriplet, 0.29512231)]
)
def test_the_values_that_an_independent_program_gave(kind, wanted, dtype, tolerance):
    output = {"embedding": spec_rows().to(dtype)}
    loss, statistics = loss_of(kind(), output, torch.tensor([[0, 2, 1, 4, 5]]))
    assert loss.item() == pytest.approx(wanted, rel=tolerance)
    assert loss.dtype == dtype
    assert (statistics["soft"], statistics["tuple_recall@1"]) == (0, 0)


@given(seed=st.integers(0, 999), kind=st.sampled_from(ALL), squared=st.booleans())
@settings(max_examples=30, deadline=None)
def test_hard_losses_by_loops(seed, kind, squared):
    output, _ = networks(seed)
    rows = [direction(row) for row in output["embedding"].tolist()]
    options = {"sare_distance": "l2"} if squared and kind is not TupleTriplet else {}
    wanted = [by_hand(kind, rows[a], rows[p], [rows[n] for n in others], squared) for a, p, *others in TUPLES.tolist()]
    loss, statistics = loss_of(kind(**options), output)
    assert loss.item() == pytest.approx(sum(wanted) / 2, rel=1e-9, abs=1e-12)
    right = [all(dot(rows[a], rows[p]) > dot(rows[a], rows[n]) for n in others) for a, p, *others in TUPLES.tolist()]
    assert statistics["tuple_recall@1"] == sum(right) / 2


@given(seed=st.integers(0, 999), kind=st.sampled_from(ALL), generation=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_later_generations_by_loops(seed, kind, generation):
    now, before = networks(seed)
    regions, old = (
        [[direction(region) for region in image] for image in output["maps.regions"].tolist()]
        for output in (now, before)
    )
    hard, soft = [], []
    for (a, p, *others), difficult in zip(TUPLES.tolist(), DIFFICULT.tolist(), strict=True):
        anchor = regions[a][0]
        chosen = [max(regions[n], key=lambda region: dot(anchor, region)) for n in others]
        hard.append(by_hand(kind, anchor, regions[p][0], chosen))
        scores = [dot(anchor, region) for d in difficult for region in regions[d]]
        target = [dot(old[a][0], region) for d in difficult for region in old[d]]
        wanted = softened(target, [0.07, 0.07, 0.06, 0.05][generation])
        soft.append(-sum(t * math.log(q) for t, q in zip(wanted, softened(scores, 0.07), strict=True)))
    loss, statistics = loss_of(
        kind(generations=4), now, difficult_positives=DIFFICULT, previous=before, generation=generation
    )
    assert statistics["hard"] == pytest.approx(sum(hard) / 2, rel=1e-9, abs=1e-12)
    assert statistics["soft"] == pytest.approx(sum(soft) / 2, rel=1e-9)
    assert loss.item() == pytest.approx((sum(hard) + 0.5 * sum(soft)) / 2, rel=1e-9)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "extras", [{"generation": 0, "previous": {}}, {"generation": 2}, {"difficult_positives": DIFFICULT}]
)
def test_the_first_generation_reads_no_regions(kind, extras):
    output = {"embedding": networks(0)[0]["embedding"]}
    assert loss_of(kind(generations=3), output, **extras)[0] == loss_of(kind(), output)[0]


def test_regions_are_asked_for_when_there_is_a_later_generation():
    assert SareInd().feature_maps == SareInd(generations=1).feature_maps == ()
    assert SareInd(generations=2).feature_maps == ("regions",)
    assert SareInd.layout == "tuples"
    assert SareInd.batch_keys == ("tuples", "difficult_positives", "previous", "generation")


@pytest.mark.parametrize("kind", ALL)
def test_the_previous_network_gets_no_gradient_and_the_learning_one_the_right_one(kind):
    now, before = networks(1)
    old = before["maps.regions"].requires_grad_()
    loss_function = kind(generations=2)

    def loss_from(regions: Tensor) -> Tensor:
        output = {**now, "maps.regions": regions}
        return loss_of(loss_function, output, difficult_positives=DIFFICULT, previous=before, generation=1)[0]

    assert torch.autograd.gradcheck(loss_from, now["maps.regions"].requires_grad_())
    loss_from(now["maps.regions"]).backward()
    assert old.grad is None


@pytest.mark.parametrize("kind", ALL)
def test_order_of_batch_and_of_tuples_does_not_count(kind):
    now, before = networks(2)
    loss_function = kind(generations=2)
    extras = {"difficult_positives": DIFFICULT, "previous": before, "generation": 1}
    wanted = loss_of(loss_function, now, **extras)[0].item()
    order = torch.tensor([3, 7, 1, 0, 2, 6, 4, 5])
    where = order.argsort()
    moved = [
        {
            "embedding": output["embedding"][order],
            **with_maps({"regions": output["maps.regions"][order]}),
        }
        for output in (now, before)
    ]
    tuples = where[TUPLES].flip(0)[:, [0, 1, 3, 2]]
    extras = {"difficult_positives": where[DIFFICULT].flip(0).flip(1), "previous": moved[1], "generation": 1}
    assert loss_of(loss_function, moved[0], tuples, **extras)[0].item() == pytest.approx(wanted)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("options", [{}, {"sare_distance": "l2"}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rows_that_coincide_or_vanish_give_finite_gradients(kind, options, dtype):
    embedding = spec_rows().to(dtype)
    embedding[1] = embedding[0]
    embedding[3] = 0
    embedding.requires_grad_()
    loss, statistics = loss_of(
        kind(**({} if kind is TupleTriplet else options)), {"embedding": embedding}, torch.tensor([[0, 1, 0, 3]])
    )
    loss.backward()
    assert loss.item() >= 0
    assert embedding.grad.isfinite().all()
    assert all(math.isfinite(value) for value in statistics.values())


def test_no_difficult_positives_are_no_soft_loss():
    now, before = networks(3)
    for difficult in (None, torch.zeros(2, 0, dtype=torch.int64)):
        extras = {"difficult_positives": difficult, "previous": before, "generation": 1}
        assert loss_of(SareInd(generations=2), now, **extras)[1]["soft"] == 0


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"tuples": None}, "needs tuples"),
        ({"tuples": torch.tensor([[0, 1]])}, "at least one negative"),
        ({"previous": {"embedding": torch.ones(8, 5)}, "generation": 1}, "learning network does not give"),
        ({"generation": 4}, "generation 4 has no temperature"),
    ],
)
def test_batches_that_cannot_be_trained_on_are_refused(extras, message):
    output = {"embedding": networks(0)[0]["embedding"]}
    with pytest.raises(UserError, match=message):
        loss_of(SareInd(generations=4), output, **extras)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SareInd, {"temperatures": "0.07_0"}, "above 0"),
        (SareInd, {"generations": 5}, "temperatures names 4"),
        (SareInd, {"generations": 1.5}, "whole number"),
        (SareInd, {"soft_weight": -1}, "negative weight"),
        (SareJoint, {"sare_distance": "L2"}, "did you mean 'l2'|known: dot, l2"),
        (TupleTriplet, {"tuple_margin": -0.1}, "negative weight"),
    ],
)
def test_settings_that_mean_nothing_are_refused(kind, options, message):
    with pytest.raises(UserError, match=message):
        kind(**options)
