"""WAKD: attention against the gradient it stands for, Gram terms by loops, and the rows of a tuple."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps, with_maps
from distilplace.losses.wakd import WAKD, class_free_attention, gram_vlad, row_groups

KINDS = ("attention", "vlad", "activation")
TUPLES = {"tuples": torch.tensor([[0, 1, 2], [4, 3, 5]]), "difficult_positives": torch.tensor([[6, 1], [3, 3]])}
GROUPS = [[0, 1, 2, 0, 6, 1], [4, 3, 5, 4, 3, 3]]


def spec_maps() -> tuple[Tensor, Tensor]:
    """The maps of spec-methods.md section 9, before the ReLU."""
    n, c, y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in (4, 5, 3, 3)), indexing="ij")
    return torch.sin(0.8 * n + 1.1 * c + 0.5 * y + 0.9 * x), torch.cos(0.3 * n + 0.7 * c - 0.6 * y + 0.4 * x)


def outputs(seed: int, rows: int = 7, dtype=torch.float64) -> tuple[dict, dict]:
    """A student and a teacher whose vectors and maps have nothing but the rows in common."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for shapes in (((6,), (3, 4), (5, 2, 3)), ((8,), (2, 6), (4, 3, 5))):
        values = [torch.randn(rows, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
        found.append({"embedding": values[0], **with_maps({"vlad": values[1], "map": values[2]})})
    return found[0], found[1]


def terms_of(method, student, teacher, batch=None) -> dict[str, float]:
    return {name: value.item() for name, value in method(student, [teacher], batch or {}).items()}


def attention_by_autograd(maps: Tensor) -> Tensor:
    """As published: the gradient of the largest probability with respect to the activations, averaged over space."""
    activations = F.relu(maps.detach()).requires_grad_()
    largest = F.softmax(activations.mean(dim=(2, 3)), dim=1).amax(dim=1)
    (gradient,) = torch.autograd.grad(largest.sum(), activations)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    found = (weights * F.relu(maps)).mean(dim=1)
    return F.relu(found) / found.amax(dim=(1, 2), keepdim=True)


def attention_by_differences(activations: Tensor, step: float = 1e-5) -> Tensor:
    """Channel weights by central differences; all places of a channel have the same derivative, so one is moved."""
    weights = torch.zeros(activations.shape[:2], dtype=torch.float64)
    for n in range(len(activations)):
        for c in range(activations.shape[1]):
            values = []
            for sign in (1, -1):
                moved = activations[n].clone()
                moved[c] += sign * step
                values.append(F.softmax(moved.mean(dim=(1, 2)), dim=0).max())
            weights[n, c] = (values[0] - values[1]) / (2 * step)
    found = torch.einsum("nc,nchw->nhw", weights, activations)
    return F.relu(found) / found.amax(dim=(1, 2), keepdim=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_the_value_that_an_independent_program_gave(dtype, tolerance):
    student, teacher = (
        {"embedding": torch.ones(4, 2, dtype=dtype), "maps.map": maps.to(dtype)} for maps in spec_maps()
    )
    method = WAKD(wakd_vectors="embedding")
    assert terms_of(method, student, teacher) == {
        "wakd_vlad": 0,
        "wakd_attention": pytest.approx(1.508956, rel=tolerance),
    }
    assert method.unweighted["wakd_attention"].item() == pytest.approx(0.01508956, rel=tolerance)


@given(seed=st.integers(0, 999), channels=st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_attention_is_what_the_gradient_says_in_value_and_in_its_own_gradient(seed, channels):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(3, channels, 4, 3, generator=generator, dtype=torch.float64)
    pull = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)
    found, gradients = [], []
    for attention in (class_free_attention, attention_by_autograd):
        own = maps.clone().requires_grad_()
        found.append(attention(own))
        (pull * found[-1]).sum().backward()
        gradients.append(own.grad)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)
    assert found[0].min() >= 0
    torch.testing.assert_close(found[0].amax(dim=(1, 2)), torch.ones(3, dtype=torch.float64))


def test_attention_is_what_finite_differences_say():
    for maps in spec_maps():
        torch.testing.assert_close(
            class_free_attention(maps), attention_by_differences(F.relu(maps)), rtol=1e-8, atol=1e-8
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_maps_without_anything_to_attend_to_have_no_attention(channels, dtype):
    generator = torch.Generator().manual_seed(0)
    alike = torch.rand(2, 1, 4, 4, generator=generator, dtype=dtype).expand(2, channels, 4, 4)
    for maps in (torch.zeros(2, channels, 4, 4, dtype=dtype), -alike, alike):
        own = maps.clone().requires_grad_()
        attention = class_free_attention(own)
        attention.sum().backward()
        assert (attention == 0).all()
        assert own.grad.isfinite().all()


def rows_of_unit_length(rows: list[list[float]]) -> list[list[float]]:
    return [[value / math.hypot(*row) for value in row] for row in rows]


def gram_error(one: list[list[float]], other: list[list[float]]) -> float:
    """Mean square difference of two Gram matrices whose rows have length 1, by loops."""
    grams = [
        rows_of_unit_length([[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows])
        for rows in (one, other)
    ]
    count = len(one)
    return sum((grams[0][i][j] - grams[1][i][j]) ** 2 for i in range(count) for j in range(count)) / count**2


@given(
    seed=st.integers(0, 999),
    kind=st.sampled_from(KINDS),
    vectors=st.sampled_from(["vlad", "embedding"]),
    tuples=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_terms_by_loops(seed, kind, vectors, tuples):
    pair = outputs(seed)
    groups = GROUPS if tuples else [list(range(7))]
    found = [terms_by_loops(pair, rows, kind, vectors) for rows in groups]
    wanted = {name: 3 * sum(terms[name] for terms in found) / len(groups) for name in found[0]}
    method = WAKD(wakd_kd=kind, kd_weight=3, wakd_vectors=vectors)
    assert terms_of(method, *pair, TUPLES if tuples else {}) == pytest.approx(wanted, rel=1e-9)


def terms_by_loops(pair, rows: list[int], kind: str, vectors: str) -> dict[str, float]:
    """Unweighted terms of one Gram matrix over ``rows``."""
    described, mapped = [], []
    for output in pair:
        if vectors == "vlad":
            clusters = [rows_of_unit_length(image) for image in output["maps.vlad"].tolist()]
            described.append([[value for cluster in clusters[n] for value in cluster] for n in rows])
        else:
            found = rows_of_unit_length(output["embedding"].tolist())
            described.append([found[n] for n in rows])
        maps = output["maps.map"]
        if kind == "activation":
            columns = [[[*zip(*channel, strict=True)] for channel in image] for image in maps.tolist()]
            flat = [[v for channel in image for c in rows_of_unit_length(channel) for v in c] for image in columns]
            mapped.append([flat[n] for n in rows])
        else:
            mapped.append([class_free_attention(maps)[n].flatten().tolist() for n in rows])
    terms = {"wakd_vlad": gram_error(*described)}
    return terms if kind == "vlad" else {**terms, f"wakd_{kind}": gram_error(*mapped)}


def test_each_group_is_a_tuple_with_its_anchor_twice():
    embedding = torch.zeros(7, 2)
    assert row_groups(TUPLES, embedding).tolist() == GROUPS
    assert row_groups({"tuples": TUPLES["tuples"]}, embedding).tolist() == [[0, 1, 2, 0], [4, 3, 5, 4]]
    assert row_groups({}, embedding).tolist() == [list(range(7))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vectors", ["vlad", "embedding"])
def test_a_batch_of_four_tuples_counts_as_the_mean_of_four_single_ones(kind, vectors):
    """The published trainer holds one tuple per GPU: 2 + 3 + 1 + 3 rows, and gradients are averaged over GPUs."""
    method = WAKD(wakd_kd=kind, wakd_vectors=vectors)
    pair = outputs(5, rows=32)
    tuples, difficult = torch.arange(20).reshape(4, 5), torch.arange(20, 32).reshape(4, 3)
    whole = terms_of(method, *pair, {"tuples": tuples, "difficult_positives": difficult})
    single = []
    for anchor_and_pairs, far in zip(tuples, difficult, strict=True):
        rows = torch.cat([anchor_and_pairs, far])
        part = [
            {
                "embedding": output["embedding"][rows],
                **with_maps({name: value[rows] for name, value in layer_maps(output).items()}),
            }
            for output in pair
        ]
        batch = {"tuples": torch.arange(5)[None], "difficult_positives": torch.arange(5, 8)[None]}
        single.append(terms_of(method, *part, batch))
    assert whole == pytest.approx({name: sum(terms[name] for terms in single) / 4 for name in whole}, abs=1e-6)
    assert min(whole.values()) > 1e-3


def test_vlad_rows_weigh_each_cluster_alike():
    vlad = torch.tensor([[[3.0, 4.0], [0.0, 100.0]], [[4.0, 3.0], [0.1, 0.0]]], dtype=torch.float64)
    gram = torch.tensor([[2, 0.96], [0.96, 2]], dtype=torch.float64)
    torch.testing.assert_close(gram_vlad(vlad), gram / math.hypot(2, 0.96))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vectors", ["vlad", "embedding"])
def test_equal_networks_have_nothing_to_learn_and_order_does_not_count(kind, vectors):
    method = WAKD(wakd_kd=kind, wakd_vectors=vectors)
    student, teacher = outputs(1)
    assert terms_of(method, student, student, TUPLES) == pytest.approx(dict.fromkeys(method.unweighted, 0), abs=1e-12)
    order = torch.tensor([3, 6, 0, 2, 5, 1, 4])
    moved = [
        {
            "embedding": output["embedding"][order],
            **with_maps({name: value[order] for name, value in layer_maps(output).items()}),
        }
        for output in (student, teacher)
    ]
    where = {name: order.argsort()[value].flip(0) for name, value in TUPLES.items()}
    assert terms_of(method, *moved, where) == pytest.approx(terms_of(method, student, teacher, TUPLES))
    assert terms_of(method, *moved) == pytest.approx(terms_of(method, student, teacher))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vectors", ["vlad", "embedding"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_reach_the_student_alone_and_are_finite(kind, vectors, dtype):
    pair = outputs(2, dtype=dtype)
    leaves = []
    for output in pair:
        for value in (output["embedding"], *layer_maps(output).values()):
            value[1] = value[0]
            value[5] = 0
            leaves.append(value.requires_grad_())
    method = WAKD(wakd_kd=kind, wakd_vectors=vectors)
    terms = method(pair[0], [pair[1]], TUPLES)
    sum(terms.values()).backward()
    assert all(value.isfinite() and value >= 0 for value in terms.values())
    embedding, vlad, maps, *frozen = (leaf.grad for leaf in leaves)
    assert all(gradient is None for gradient in frozen)
    learned = [embedding if vectors == "embedding" else vlad, *([maps] if kind != "vlad" else [])]
    assert all(gradient.isfinite().all() and gradient.any() for gradient in learned)


def test_the_gradient_is_that_of_the_term():
    """Without attention, whose weights are constants; that one is compared with the published form above."""
    student, teacher = outputs(3)
    method = WAKD(wakd_kd="activation")

    def total(vlad: Tensor, maps: Tensor) -> Tensor:
        output = {"embedding": student["embedding"], **with_maps({"vlad": vlad, "map": maps})}
        return sum(method(output, [teacher], TUPLES).values())

    assert torch.autograd.gradcheck(total, [value.requires_grad_() for value in layer_maps(student).values()])


def test_only_maps_that_are_read_are_asked_for():
    asked = {
        (kind, vectors): WAKD(wakd_kd=kind, wakd_vectors=vectors).student_maps(("layer1",))
        for kind in KINDS
        for vectors in ("vlad", "embedding")
    }
    assert asked == {
        ("attention", "vlad"): ("map", "vlad"),
        ("attention", "embedding"): ("map",),
        ("vlad", "vlad"): ("vlad",),
        ("vlad", "embedding"): (),
        ("activation", "vlad"): ("map", "vlad"),
        ("activation", "embedding"): ("map",),
    }
    assert WAKD().teacher_maps(()) == ("map", "vlad")


def test_networks_without_netvlad_are_told_what_to_do():
    student, teacher = outputs(4)
    del teacher["maps.vlad"]
    with pytest.raises(UserError, match="teacher does not give: give --wakd_vectors embedding"):
        WAKD()(student, [teacher], {})
    with pytest.raises(UserError, match="'map', which the student does not give"):
        WAKD(wakd_vectors="embedding")({"embedding": student["embedding"]}, [teacher], {})
    with pytest.raises(UserError, match="different size"):
        WAKD()({**student, "embedding": torch.ones(3, 2)}, [teacher], {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wakd_kd": "atention"}, "did you mean 'attention'"),
        ({"wakd_vectors": "embeddings"}, "did you mean 'embedding'"),
        ({"kd_weight": 0}, "every weight"),
        ({"kd_weight": -1}, "negative weight"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        WAKD(**options)
