"""Every baseline against the specification's golden values, and against loops that follow its formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilplace.losses import create_distiller
from distilplace.losses.baselines import maps, memory, pose, relational, retrieval, vectors
from distilplace.losses.baselines.units import Start
from distilplace.losses.parts.cross_agent import Ball
from distilplace.losses.parts.hyperbolic import distance_matrix, noisy_distance_matrix
from distilplace.losses.terms import TERMS, load_term

ROW, COLUMN = torch.arange(6, dtype=torch.float64).unsqueeze(1), torch.arange(8, dtype=torch.float64)
S, T = torch.sin(0.7 * ROW + 0.3 * COLUMN + 0.1), torch.cos(0.5 * ROW - 0.2 * COLUMN + 0.2)
GAP = (ROW - ROW.T).abs()
MASKS = {"positives_mask": GAP == 1, "negatives_mask": GAP >= 3}
GOLDEN = [
    ("rkd_d", {}, 0.01616685),
    ("rkd_a", {}, 0.00898059),
    ("rkdg", {}, 0.03542447),
    ("kd", {"kd_temperature": 1}, 0.20250360),
    ("kd", {}, 0.21403509),
    ("csd", {}, 0.62724896),
    ("mkd", {}, 0.22923986),
    ("mse", {}, 0.18721211),
    ("epcnet", {"mse_norm": "l2"}, 0.18721211),
    ("afd", {}, 0.84866633),
    ("afd", {"afd_legacy": "true"}, 0.74733777),
    ("sp", {}, 0.07623868),
    ("pkt", {}, 0.02306495),
    ("cc", {"cc_dim": 0}, 4.68023272),
    ("darkrank", {}, 0.95287773),
    ("lsdnet", {}, 0.67212986),
]


@pytest.mark.parametrize(("name", "options", "wanted"), GOLDEN)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-3)])
def test_golden_values(name, options, wanted, dtype, tolerance):
    if name == "rkdg":
        found = relational.rkdg(S, T)
    else:
        method = create_distiller(name, **options)
        student, teacher = {"embedding": S.to(dtype)}, {"embedding": T.to(dtype)}
        method.prepare(student, [teacher], 6)
        (found,) = method(student, [teacher], MASKS).values()
    assert float(found) == pytest.approx(wanted, rel=tolerance)


def test_the_parts_of_mkd_and_the_two_forms_of_rkd():
    assert float(vectors.kd(S, T, kd_temperature=1.0)) == pytest.approx(0.20250360, rel=1e-5)
    assert float(vectors.mkd(S, T) - vectors.kd(S, T, kd_temperature=1.0)) == pytest.approx(
        0.02596828 + 0.00076798, rel=1e-5
    )
    weighted = relational.rkd(S, T, rkdloss_distance_weight=25, rkdloss_angle_weight=50)
    assert float(weighted) == pytest.approx(25 * 0.01616685 + 50 * 0.00898059, rel=1e-5)


def legacy_rkdg(noisy: tuple[int, int]) -> float:
    """Upstream's value where rounding puts so many self-distances of student and teacher above 0, into the mean."""
    ball, relative = Ball(0.1, None), []
    for embeddings, count in zip((S, T), noisy, strict=True):
        distances = distance_matrix(ball(embeddings), None, ball.curvature)
        relative.append(distances * (30 + count) / distances.sum())
    return float(relational.rkd(S, T) + F.smooth_l1_loss(*relative))


def test_upstreams_mean_counts_the_self_distances_that_are_noise():
    """How many these are differs by processor; the golden value is that of one where some are."""
    ball = Ball(0.1, None)
    here = tuple(int((noisy_distance_matrix(ball(x), ball.curvature).diagonal() > 0).sum()) for x in (S, T))
    assert float(relational.rkdg(S, T, legacy_mean=True)) == pytest.approx(legacy_rkdg(here), rel=1e-4)
    possible = [legacy_rkdg((student, teacher)) for student in range(7) for teacher in range(7)]
    assert any(value == pytest.approx(0.03612103, rel=1e-4) for value in possible)


def test_golden_maps():
    grid = [torch.arange(size, dtype=torch.float64) for size in (4, 5, 3, 3)]
    n, c, y, x = torch.meshgrid(*grid, indexing="ij")
    student = torch.relu(torch.sin(0.8 * n + 1.1 * c + 0.5 * y + 0.9 * x))
    teacher = torch.relu(torch.cos(0.3 * n + 0.7 * c - 0.6 * y + 0.4 * x))
    assert float(maps.at(student, teacher)) == pytest.approx(0.03690684, rel=1e-5)
    hint = maps.Hint(Start(student, teacher, 4, 0))
    assert not list(hint.parameters())
    assert float(hint(student, teacher)) == pytest.approx(0.26766670, rel=1e-5)


def test_whiten_mtds_loss_of_fused_similarities():
    second = [torch.sin(0.7 * ROW + 0.3 * COLUMN + 0.15), torch.cos(0.5 * ROW - 0.2 * COLUMN + 0.27)]
    other = [torch.sin(0.9 * ROW - 0.4 * COLUMN), torch.sin(0.9 * ROW - 0.4 * COLUMN + 0.05)]
    student, first, last = (
        F.normalize(x) @ F.normalize(y).T for x, y in ((S, second[0]), (T, second[1]), (other[0], other[1]))
    )
    diagonal = torch.eye(6, dtype=torch.bool)
    fused = torch.where(diagonal, torch.maximum(first, last), torch.minimum(first, last))
    assert float(relational.similarity_divergence(student, (first + last) / 2)) == pytest.approx(0.05691829, rel=1e-5)
    assert float(relational.similarity_divergence(student, fused)) == pytest.approx(0.08420508, rel=1e-5)
    pairs = torch.stack([torch.arange(6), torch.arange(6, 12)], dim=1)
    views = torch.cat([S, second[0]]), torch.cat([T, second[1]])
    assert float(relational.simkl(*views, pairs)) == pytest.approx(
        float(relational.similarity_divergence(student, first)), rel=1e-12
    )
    alone = [F.normalize(x) @ F.normalize(x).T for x in (S, T)]
    assert float(relational.simkl(S, T)) == pytest.approx(float(relational.similarity_divergence(*alone)), rel=1e-9)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def slow_kl(wanted: list[float], found: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(wanted, found, strict=True))


def test_vectors_the_slow_way():
    s, t = draw(1, 5, 4), draw(2, 5, 4)
    rows = list(zip(s.tolist(), t.tolist(), strict=True))
    wanted = sum(9 * slow_kl(softmax([x / 3 for x in b]), softmax([x / 3 for x in a])) for a, b in rows) / 5
    assert float(vectors.kd(s, t, kd_temperature=3)) == pytest.approx(wanted, rel=1e-9)
    wanted = sum((x - y) ** 2 for a, b in rows for x, y in zip(softmax(a), softmax(b), strict=True)) / 20
    assert float(vectors.mse(s, t, mse_norm="softmax")) == pytest.approx(wanted, rel=1e-9)
    assert float(vectors.mse(s, t, mse_norm="none")) == pytest.approx(float((s - t).square().mean()), rel=1e-9)
    wanted = sum(abs(s[b, d] - t[b, d]) * abs(s[b + 1, d] - t[b + 1, d]) for b in range(4) for d in range(4)) / 4
    assert float(vectors.neighbour_correlation(s, t)) == pytest.approx(float(wanted), rel=1e-9)
    soft = [torch.softmax(x / 2, dim=1) for x in (s, t)]
    inter = sum(float(torch.corrcoef(torch.stack([soft[0][i], soft[1][i]]))[0, 1]) for i in range(5)) / 5
    intra = sum(float(torch.corrcoef(torch.stack([soft[0][:, j], soft[1][:, j]]))[0, 1]) for j in range(4)) / 4
    assert float(vectors.dist(s, t, dist_temperature=2)) == pytest.approx(4 * (2 - inter - intra), rel=1e-9)


def test_relations_the_slow_way():
    s, t = draw(3, 5, 4), draw(4, 5, 4)
    a, b = F.normalize(s), F.normalize(t)
    rows = [([float(a[i] @ b[j]) for j in range(5)], [float(b[i] @ b[j]) for j in range(5)]) for i in range(5)]
    wanted = sum(slow_kl(softmax(target), softmax(found)) for found, target in rows) / 5
    assert float(relational.csd(s, t, csd_loss="kl")) == pytest.approx(wanted, rel=1e-9)
    total = 0.0
    for i in range(5):
        weights = softmax([float(s[i] @ t[j]) for j in range(5)])
        total += sum(weights[j] * math.dist(a[i].tolist(), b[j].tolist()) for j in range(5))
    assert float(relational.afd(s, t)) == pytest.approx(total / 5, rel=1e-9)
    off = [(i, j) for i in range(5) for j in range(5) if i != j]
    wanted = sum((float(a[i] @ a[j]) - float(b[i] @ b[j])) ** 2 for i, j in off) / 25
    assert float(relational.selfsim(s, t)) == pytest.approx(wanted, rel=1e-9)
    assert float(relational.selfsim(s.view(5, 2, 2, 1), t)) == pytest.approx(wanted, rel=1e-9)


def test_lsdnet_lays_out_what_the_laplacians_sum():
    s, t = draw(5, 6, 4), draw(6, 6, 3)
    choice = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    positives, negatives = choice < 0.25, choice > 0.6
    a, b = F.normalize(s), F.normalize(t)
    near, far = torch.nonzero(positives).tolist(), torch.nonzero(negatives).tolist()
    wanted = 0.0
    for pairs in (near, far):
        gaps = [math.dist(a[i].tolist(), a[j].tolist()) - math.dist(b[i].tolist(), b[j].tolist()) for i, j in pairs]
        wanted += sum(gap**2 for gap in gaps) / len(gaps)
    products = [float((a[i] - a[j]) @ (a[k] - a[m]) - (b[i] - b[j]) @ (b[k] - b[m])) for i, j in near for k, m in far]
    wanted += sum(product**2 for product in products) / len(products)
    assert float(retrieval.lsdnet(s, t, positives, negatives)) == pytest.approx(wanted, rel=1e-9)
    nobody = torch.zeros(6, 6, dtype=torch.bool)
    assert float(retrieval.lsdnet(s, t, nobody, nobody)) == 0


@pytest.mark.parametrize("length", [1, 3, 9])
def test_darkrank_the_slow_way(length):
    s, t = draw(7, 5, 4), draw(8, 5, 3)
    wanted = 0.0
    for i in range(5):
        others = sorted((j for j in range(5) if j != i), key=lambda j: math.dist(t[i].tolist(), t[j].tolist()))
        scores = [-2 * math.dist(s[i].tolist(), s[j].tolist()) ** 1.5 for j in others[:length]]
        for m, score in enumerate(scores):
            wanted -= score - math.log(sum(math.exp(later) for later in scores[m:]))
    found = retrieval.darkrank(s, t, darkrank_alpha=2, darkrank_beta=1.5, darkrank_length=length)
    assert float(found) == pytest.approx(wanted / 5, rel=1e-9, abs=1e-12)


def test_darkrank_never_ranks_a_row_beside_itself():
    t = torch.tensor([[0.0], [0.0], [1.0], [3.0]], dtype=torch.float64)
    s = torch.tensor([[0.0], [2.0], [1.0], [3.5]], dtype=torch.float64)
    order = [[1, 2, 3], [0, 2, 3], [0, 1, 3], [2, 0, 1]]
    wanted = 0.0
    for i, others in enumerate(order):
        scores = [-3 * abs(float(s[i] - s[j])) ** 3 for j in others]
        wanted -= sum(score - math.log(sum(map(math.exp, scores[m:]))) for m, score in enumerate(scores))
    assert float(retrieval.darkrank(s, t)) == pytest.approx(wanted / 4, rel=1e-9)


def test_maps_of_different_size_and_width():
    s, t = draw(9, 3, 2, 6, 4), draw(10, 3, 5, 3, 2)
    small = F.avg_pool2d(s, 2)
    attention = [F.normalize(x.square().mean(dim=1).flatten(1)) for x in (small, t)]
    assert float(maps.at(s, t)) == pytest.approx(float(F.mse_loss(*attention)), rel=1e-9)
    total = 0.0
    for a, b in zip(small, t, strict=True):
        f, g = ([F.normalize(channel.flatten(), dim=0) for channel in x] for x in (a, b))
        for one, other, sign in ((g, g, 1), (f, f, 1), (f, g, -2)):
            values = [float(x @ y) ** 2 for x in one for y in other]
            total += sign * sum(values) / len(values)
    assert float(maps.nst(s, t)) == pytest.approx(total / 3, rel=1e-9)
    hint = maps.Hint(Start(s, t, 3, 0), hint_batch_norm=True).double()
    convolution, norm = hint.regressor.layers
    assert isinstance(norm, nn.BatchNorm2d)
    weight = convolution.weight[:, :, 0, 0]
    mapped = torch.einsum("oc,bchw->bohw", weight, s)
    mean, variance = mapped.mean(dim=(0, 2, 3)), mapped.var(dim=(0, 2, 3), unbiased=False)
    mapped = (mapped - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + norm.eps).sqrt()
    wanted = float(F.mse_loss(F.avg_pool2d(mapped, 2), t).detach())
    assert float(hint(s, t).detach()) == pytest.approx(wanted, rel=1e-9)
    grown = maps.Hint(Start(t, s, 3, 0)).double()(t, s)
    assert math.isfinite(grown)


def test_vid_is_a_gaussian_likelihood_with_variance_5_at_first():
    s, t = draw(11, 3, 2, 4, 4), draw(12, 3, 5, 2, 2)
    vid = maps.VID(Start(s, t, 3, 0)).double()
    small = F.avg_pool2d(s, 2)
    with torch.no_grad():
        vid.log_scale[2] += 1
        predicted = vid.mean(small)
        wanted = 0.0
        for c in range(5):
            variance = math.log1p(math.exp(float(vid.log_scale[c]))) + 1e-5
            assert variance == pytest.approx(5, rel=1e-6) or c == 2
            for b, y, x in [(b, y, x) for b in range(3) for y in range(2) for x in range(2)]:
                wanted += float(predicted[b, c, y, x] - t[b, c, y, x]) ** 2 / variance + math.log(variance)
    assert float(vid(s, t)) == pytest.approx(wanted / 2 / (3 * 5 * 4), rel=1e-7)
    assert [layer.bias for layer in vid.mean if isinstance(layer, nn.Conv2d)] == [None] * 3


def slow_crd(anchors, bank, compared, places, tau, constant=None):
    scores = [[math.exp(float(anchors[i] @ bank[j]) / tau) for j in row] for i, row in enumerate(compared.tolist())]
    if constant is None:
        constant = sum(map(sum, scores)) / sum(map(len, scores)) * places
    count = len(scores[0]) - 1
    total = 0.0
    for first, *others in scores:
        total -= math.log(first / constant / (first / constant + count / places))
        total -= sum(math.log(count / places / (each / constant + count / places)) for each in others)
    return total / len(scores), constant


def test_crd_contrasts_with_the_banks_and_moves_them():
    s, t = draw(13, 4, 6), draw(14, 4, 3)
    crd = memory.CRD(Start(s, t, 10, 5), crd_negatives=6, crd_dim=4, crd_temperature=0.2, crd_momentum=0.25).double()
    indices = torch.tensor([7, 0, 9, 7])
    constants: list[float | None] = [None, None]
    for _ in range(2):
        drawn = crd._draw(indices)
        compared = torch.cat([indices.unsqueeze(1), drawn], dim=1)
        assert drawn.shape == (4, 6)
        assert not (drawn == indices.unsqueeze(1)).any()
        assert drawn.min() >= 0
        assert drawn.max() <= 9
        banks = crd.student_bank.clone(), crd.teacher_bank.clone()
        mapped = F.normalize(crd.student_map(s)).detach(), F.normalize(crd.teacher_map(t)).detach()
        first, constants[0] = slow_crd(mapped[0], banks[1], compared, 10, 0.2, constants[0])
        second, constants[1] = slow_crd(mapped[1], banks[0], compared, 10, 0.2, constants[1])
        assert float(crd(s, t, indices)) == pytest.approx(first + second, rel=1e-9)
        for bank, before, vectors_of in zip((crd.student_bank, crd.teacher_bank), banks, mapped, strict=True):
            new = {0: vectors_of[1], 9: vectors_of[2], 7: (vectors_of[0] + vectors_of[3]) / 2}
            for place in range(10):
                moved = F.normalize(0.25 * before[place] + 0.75 * new[place], dim=0) if place in new else before[place]
                torch.testing.assert_close(bank[place], moved)
    state = {name: value.clone() for name, value in crd.state_dict().items()}
    crd.eval()
    assert float(crd(s, t, indices)) == float(crd(s, t, indices))
    torch.testing.assert_close(crd.state_dict(), state, rtol=0, atol=0)
    assert int(crd.step) == 2


def test_crds_negatives_are_spread_over_all_other_places():
    s = draw(1, 2, 3)
    crd = memory.CRD(Start(s, s, 5, 1), crd_negatives=5000, crd_dim=2)
    counts = crd._draw(torch.tensor([2, 0]))[0].bincount(minlength=5) / 5000
    assert counts.tolist() == pytest.approx([0.25, 0.25, 0, 0.25, 0.25], abs=0.03)


def test_imitation_trusts_the_teacher_where_it_is_right():
    s, t, p = draw(15, 5, 7), draw(16, 5, 7), draw(17, 5, 7)
    ail = pose.AIL(Start(s, t, 5, 0), ail_alpha=0.3).double()

    def square(x: Tensor, y: Tensor) -> float:
        return sum((a - b) ** 2 for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True))

    errors = [square(t[i], p[i]) for i in range(5)]
    eta = max(errors) - min(errors)
    trusts = [max(0.0, 1 - error / eta) for error in errors]
    wanted = sum(0.3 * square(s[i], p[i]) + 0.7 * trusts[i] * square(s[i], t[i]) for i in range(5)) / 5
    assert float(ail(s, t, p)) == pytest.approx(wanted, rel=1e-6)
    assert 0.0 in trusts
    later = float(ail(s[:2], t[:2], p[:2]))
    wanted = sum(0.3 * square(s[i], p[i]) + 0.7 * trusts[i] * square(s[i], t[i]) for i in range(2)) / 2
    assert later == pytest.approx(wanted, rel=1e-6)
    ours, theirs = draw(18, 5, 2, 2, 2), draw(19, 5, 2, 2, 2)
    aht = pose.AHT(Start(ours, theirs, 5, 0)).double()
    wanted = sum(trusts[i] * square(ours[i], theirs[i]) for i in range(5)) / 5
    assert float(aht(ours, theirs, p, t)) == pytest.approx(wanted, rel=1e-6)
    wanted = sum(square(s[i], t[i]) for i in range(5)) / 5
    assert float(pose.posekd(s, t)) == pytest.approx(wanted, rel=1e-9)
    assert float(pose.imitation(s, t, t, torch.tensor(1.0), 0.0)) == pytest.approx(wanted, rel=1e-9)


def test_every_line_of_the_table_leads_to_a_documented_function_or_class():
    assert all((load_term(name).__doc__ or "").strip() for name in TERMS)
