"""PCA whitening against its definition: identity covariance, dual and primal, the explicit formula, safe storage."""

import numpy as np
import pytest
import torch

from distilplace.common import pca
from distilplace.common.errors import UserError
from distilplace.evaluation.retrieval import whitening
from distilplace.evaluation.retrieval.whitening import PCAWhitening


def descriptors(count, width, seed=0):
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((count, width)) @ random.standard_normal((width, width)) + 3.0
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("count", "width", "dims"), [(200, 12, 12), (200, 12, 5), (20, 60, 19), (20, 60, 4)])
def test_whitened_training_descriptors_have_identity_covariance(count, width, dims):
    matrix = descriptors(count, width)
    fitted = PCAWhitening.fit(matrix, dims)
    whitened = (matrix - fitted.mean) @ fitted.projection.T
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(dims), atol=1e-9)
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-9)


def test_equals_the_definition_and_scikit_learn():
    from sklearn.decomposition import PCA

    matrix, new = descriptors(50, 8), descriptors(7, 8, seed=1).astype(np.float64)
    kept = new.copy()
    ours = PCAWhitening.fit(matrix, 3).transform(new)
    assert np.array_equal(new, kept)  # nothing in place
    assert ours.dtype == np.float32
    data = matrix.astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(data.T))
    explicit = (new - data.mean(axis=0)) @ vectors[:, ::-1][:, :3] / np.sqrt(values[::-1][:3])
    explicit /= np.linalg.norm(explicit, axis=1, keepdims=True)
    sign = np.sign((ours * explicit).sum(axis=0))
    np.testing.assert_allclose(ours, explicit * sign, atol=1e-6)
    theirs = PCA(3, whiten=True, svd_solver="full").fit(data).transform(new)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-6)


def test_dual_equals_primal(monkeypatch):
    matrix = descriptors(15, 40)
    primal, dual = (
        pca.principal(lambda *piece: matrix[piece].astype(np.float64), 15, 40, 10, divisor=14, samples_floor=floor)
        for floor in (None, whitening.FLOOR)
    )
    for name in ("mean", "values", "vectors", "total"):
        np.testing.assert_allclose(getattr(primal, name), getattr(dual, name), rtol=1e-6, atol=1e-8)
    whole, tall = PCAWhitening.fit(matrix, 10), PCAWhitening.fit(descriptors(60, 9), 4)
    monkeypatch.setattr(pca, "BLOCK", 31)  # blocks of two columns, of three rows
    np.testing.assert_allclose(PCAWhitening.fit(matrix, 10).projection, whole.projection, rtol=1e-7)
    np.testing.assert_allclose(PCAWhitening.fit(descriptors(60, 9), 4).projection, tall.projection, rtol=1e-7)
    np.testing.assert_array_equal(whole.transform(matrix).shape, (15, 10))


def test_directions_without_variance_are_floored():
    flat = np.zeros((10, 3))
    flat[:, 0] = np.arange(10.0)
    projection = PCAWhitening.fit(flat, 3).projection
    assert np.isfinite(projection).all()
    assert np.abs(projection[1:]).max() == pytest.approx(whitening.FLOOR**-0.5)


def test_state_goes_through_safetensors(tmp_path):
    from safetensors.numpy import load_file, save_file

    fitted = PCAWhitening.fit(torch.from_numpy(descriptors(30, 50)), 6)
    save_file(fitted.state(), tmp_path / "pca.safetensors")
    again = PCAWhitening.from_state(load_file(tmp_path / "pca.safetensors"))
    new = descriptors(5, 50, seed=2)
    assert np.array_equal(fitted.transform(new), again.transform(new))
    tensors = PCAWhitening.from_state({name: torch.from_numpy(value) for name, value in fitted.state().items()})
    assert np.array_equal(tensors.transform(new), again.transform(torch.from_numpy(new)))
    with pytest.raises(ValueError, match="fitted on 50"):
        again.transform(new[:, :4])


def test_too_few_samples_and_too_many_are_handled(monkeypatch):
    with pytest.raises(UserError, match="whitening to 9 dimensions: 9 training descriptors of 20 allow 1 to 8"):
        PCAWhitening.fit(descriptors(9, 20), 9)
    with pytest.raises(UserError, match="allow 1 to 20"):
        PCAWhitening.fit(descriptors(90, 20), 21)
    monkeypatch.setattr(whitening, "SAMPLES", 25)
    many = descriptors(90, 20)
    first, same, other = (PCAWhitening.fit(many, 4, seed=seed).projection for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    with pytest.raises(UserError, match="allow 1 to 20"):
        PCAWhitening.fit(many, 21)
