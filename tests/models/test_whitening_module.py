"""Whitening: the recorded projections, identity covariance, memory, published and own files, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.models.whitening import FLOOR, Whitening


def features(seed: int, rows: int, dim: int) -> Tensor:
    """Unit vectors float64 [rows, dim] of unequal spread, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(1, 0.1, dim, dtype=torch.float64)
    values = torch.randn(rows, dim, generator=generator, dtype=torch.float64) * spread + 0.3
    return torch.nn.functional.normalize(values, dim=1)


def covariance(y: Tensor) -> Tensor:
    centred = y - y.mean(dim=0)
    return centred.T @ centred / len(y)


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("l_whiten_mtd.pt")["pca"]


def test_recorded_projections(recorded):
    assert len(recorded) > 0
    for case in recorded.values():
        x = case["features"].double()
        before = x.clone()
        fitted = Whitening.fit(x, case["dim2"], whit=case["whit"])
        found = fitted(case["test_features"].double())
        scale = case["gram_f64"].abs().max()
        torch.testing.assert_close(found @ found.T, case["gram_f64"], rtol=1e-9, atol=1e-10 * float(scale))
        # Directions of floored eigenvalues have no order or sign of their own: only their Gram matrix means something.
        sure = min(case["dim2"], case["dim1"] - int(case["state_dict"]["n_0"]))
        torch.testing.assert_close(
            found[:, :sure].abs(), case["abs_projected_f64"][:, :sure], rtol=1e-9, atol=1e-9 * float(scale) ** 0.5
        )
        assert torch.equal(x, before)
        assert fitted.samples == len(x)
        assert fitted.dropped == 0


def test_recorded_state_dicts_are_read(recorded):
    for case in recorded.values():
        state = case["state_dict"]
        read = Whitening.from_state(state)
        assert (read.dim1, read.dim2) == (case["dim1"], case["dim2"])
        torch.testing.assert_close(
            read(case["test_features"]), case["projected"], rtol=1e-4, atol=1e-5 * float(state["dvt"].abs().max())
        )
        fitted = Whitening.fit(case["features"], case["dim2"], whit=case["whit"])
        assert read.kept == pytest.approx(fitted.kept, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    dim1=st.integers(2, 12),
    share=st.floats(0.05, 1),
    more=st.integers(5, 40),
    rows_per_block=st.integers(1, 9),
)
def test_whitened_training_features_have_identity_covariance(seed, dim1, share, more, rows_per_block):
    dim2 = max(1, round(share * dim1))
    x = features(seed, dim1 + more, dim1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distilplace.common.pca.BLOCK", rows_per_block * dim1)
        fitted = Whitening.fit(x, dim2)
    values = torch.linalg.eigvalsh(covariance(x)).flip(0)
    expected = torch.diag((values / values.clamp_min(FLOOR * values[0]))[:dim2])  # 1, but for floored ones
    torch.testing.assert_close(covariance(fitted(x)), expected, rtol=0, atol=1e-6)
    assert fitted.kept == pytest.approx(float(values[:dim2].sum() / values.sum()), rel=1e-9)


def test_at_published_size_the_covariance_is_the_identity():
    x = features(0, 700, 600)
    fitted = Whitening.fit(x.float(), 512)
    y = fitted(x.float().double())
    assert (covariance(y) - torch.eye(512)).abs().max() < 1e-6
    assert y.mean(dim=0).abs().max() < 1e-9
    assert fitted.dvt.dtype == fitted.mean.dtype == torch.float64
    assert fitted.mean.shape == (600,)
    assert fitted.dvt.shape == (512, 600)


def test_floored_directions_are_not_blown_up():
    x = features(1, 40, 24)
    x[:, 11:] = 0
    fitted = Whitening.fit(x, 24)
    values = torch.linalg.eigvalsh(covariance(x))
    assert float(fitted.dvt.norm(dim=1).max()) <= (FLOOR * float(values[-1])) ** -0.5 * (1 + 1e-9)
    assert fitted.kept == pytest.approx(1)


def test_signs_are_unique():
    x = features(2, 60, 7)
    fitted = Whitening.fit(x, 7)
    shuffled = Whitening.fit(x.flip(0), 7)
    torch.testing.assert_close(shuffled.dvt, fitted.dvt, rtol=1e-8, atol=1e-8)
    for row in fitted.dvt:
        assert row[row.abs().argmax()] > 0


def test_rows_of_zeros_are_left_out_and_counted():
    """Upstream's matrix keeps zeros where drop_last dropped an image, and whitens them too."""
    x = features(3, 50, 6)
    holes = torch.cat([x[:20], torch.zeros(3, 6), x[20:], torch.zeros(4, 6)])
    fitted, clean = Whitening.fit(holes, 4), Whitening.fit(x, 4)
    torch.testing.assert_close(fitted.dvt, clean.dvt, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fitted.mean, clean.mean, rtol=1e-12, atol=1e-12)
    assert (fitted.samples, fitted.dropped) == (50, 7)


def test_forward_changes_nothing_and_keeps_the_type():
    x = features(4, 30, 5)
    fitted = Whitening.fit(x, 3)
    for dtype, wanted in ((torch.float64, torch.float64), (torch.float32, torch.float32), (torch.half, torch.float32)):
        e = x.to(dtype)
        before = e.clone()
        found = fitted(e)
        assert torch.equal(e, before)
        assert found.dtype == wanted
        slow = [
            [sum(float(fitted.dvt[k, j]) * (float(row[j]) - float(fitted.mean[j])) for j in range(5)) for k in range(3)]
            for row in e
        ]
        torch.testing.assert_close(found, torch.tensor(slow, dtype=wanted), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="5 numbers"):
        fitted(x[:, :4])


def test_the_samples_are_never_copied_to_float64_as_a_whole():
    x = torch.rand(20_000, 64) + 0.1
    sizes = []
    plain = torch.Tensor.to

    def watched(tensor, *arguments, **settings):
        found = plain(tensor, *arguments, **settings)
        if found.dtype == torch.float64:
            sizes.append(found.numel())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distilplace.common.pca.BLOCK", 1024 * 64)
        patch.setattr(torch.Tensor, "to", watched)
        fitted = Whitening.fit(x, 8)
    assert len(sizes) > 2 * 19
    assert max(sizes) <= 1024 * 64
    torch.testing.assert_close(fitted.mean, x.double().mean(dim=0))


@pytest.mark.parametrize(
    ("x", "dim2", "message"),
    [
        (features(5, 12, 20), 12, r"--whiten_dim 12 needs 13 samples at least, here are 12: give"),
        (
            torch.cat([features(5, 12, 20), torch.zeros(5, 20)]),
            12,
            r"13 samples at least, here are 12 \(5 more were all zero\)",
        ),
        (features(5, 30, 4), 5, r"--whiten_dim 5: the teacher's embeddings have 4 numbers; give 1 to 4"),
        (features(5, 30, 4), 0, r"--whiten_dim 0"),
        (features(5, 3, 4).repeat(10, 1)[::3], 2, r"all 10 samples are equal"),
        (features(5, 30, 4).index_fill(0, torch.tensor([7, 9]), math.nan), 2, r"2 of 30 embeddings .* not finite"),
        (torch.zeros(30, 4), 2, r"here are 0 \(30 more were all zero\)"),
        (torch.zeros(0, 4), 2, r"here are 0: give"),
    ],
)
def test_what_cannot_be_whitened_is_refused(x, dim2, message):
    with pytest.raises(UserError, match=message) as caught:
        Whitening.fit(x, dim2)
    assert "\n" not in str(caught.value)


def test_files_come_back_as_they_were(tmp_path):
    x = features(6, 40, 9)
    fitted = Whitening.fit(torch.cat([x, torch.zeros(2, 9)]), 5)
    path = tmp_path / "new" / "teacher.safetensors"
    fitted.save(path, "teacher abc 224")
    read = Whitening.load(path, "teacher abc 224")
    assert torch.equal(read(x), fitted(x))
    assert (read.dim1, read.dim2, read.kept, read.samples, read.dropped) == (9, 5, fitted.kept, 40, 2)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    again = Whitening.from_state(fitted.state())
    assert torch.equal(again(x), fitted(x))
    assert math.isnan(again.kept)
    again.save(path, "unknown share")
    assert math.isnan(Whitening.load(path, "unknown share").kept)


def test_files_of_something_else_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "teacher.safetensors"
    fitted = Whitening.fit(features(7, 40, 9), 5)
    fitted.save(path, "a")
    with pytest.raises(UserError, match="fitted with other weights, images or options: remove it"):
        Whitening.load(path, "b")
    with pytest.raises(UserError, match="does not exist"):
        Whitening.load(tmp_path / "absent.safetensors", "a")
    save_file({"mean": torch.zeros(3)}, tmp_path / "other.safetensors", {"made_from": "a"})
    with pytest.raises(UserError, match="dim1, dim2, dvt absent"):
        Whitening.load(tmp_path / "other.safetensors", "a")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged"):
        Whitening.load(path, "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim2": torch.tensor(4)}, "damaged"),
        ({"mean": torch.zeros(1, 8)}, "damaged"),
        ({"dvt": torch.full((5, 9), math.inf)}, "not finite"),
    ],
)
def test_states_that_contradict_themselves_are_refused(change, message):
    state = Whitening.fit(features(8, 40, 9), 5).state()
    with pytest.raises(UserError, match=message):
        Whitening.from_state(state | change)
