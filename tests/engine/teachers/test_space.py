"""Spaces in which embeddings are compared: against the slow way and scikit-learn; teachers that hand them on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.engine.teachers.aligned import AlignedTeacher
from distilplace.engine.teachers.sources import StoredTeacher
from distilplace.engine.teachers.space import fit_space, training_space


def outputs(rows: int = 40, width: int = 6) -> Tensor:
    """Nearly collinear embeddings float64 [rows, width] of unequal spread, as GeM pooling gives them."""
    random = torch.Generator().manual_seed(rows)
    spread = torch.linspace(0.3, 0.05, width, dtype=torch.float64)
    return 2 + torch.randn(rows, width, generator=random, dtype=torch.float64) * spread


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


def test_raw_and_centred_by_hand():
    x, new = outputs(), outputs(7)
    raw, centred = fit_space("raw", x), fit_space("centred", x)
    assert raw.width == centred.width == 6
    np.testing.assert_allclose(raw.apply(new).numpy(), unit(new.numpy()), rtol=1e-12)
    mean = np.array([sum(x[:, d].tolist()) / len(x) for d in range(6)])
    np.testing.assert_allclose(centred.apply(new).numpy(), unit(new.numpy() - mean), rtol=1e-10)
    cosines = centred.apply(x) @ centred.apply(x).T
    assert float((unit(x.numpy()) @ unit(x.numpy()).T).mean()) > 0.97
    assert abs(float(cosines.mean())) < 0.1


@pytest.mark.parametrize("dim", [None, 3])
def test_whitened_is_scikit_learns_pca_at_unit_length(dim):
    x, new = outputs(), outputs(7)
    space = fit_space("whitened", x, dim)
    assert space.width == (dim or 6)
    theirs = unit(PCA(space.width, whiten=True, svd_solver="full").fit(x.numpy()).transform(new.numpy()))
    found = space.apply(new).numpy()
    np.testing.assert_allclose(found * np.sign((found * theirs).sum(axis=0)), theirs, rtol=1e-8, atol=1e-10)


def test_fewer_outputs_than_numbers_give_a_narrower_whitened_space():
    assert fit_space("whitened", outputs(5)).width == 4


def test_types_of_embeddings_stay_and_half_precision_becomes_single():
    space = fit_space("centred", outputs().float())
    assert space.apply(outputs(3).float()).dtype == torch.float32
    assert space.apply(outputs(3).bfloat16()).dtype == torch.float32
    exact = space.apply(outputs(3).float().double())
    torch.testing.assert_close(space.apply(outputs(3).float()).double(), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "table", "dim", "message"),
    [
        ("centred", outputs(), 3, "--align_dim 3: a centred space has the teacher's width"),
        ("whitened", outputs(5), 6, "--align_dim 6: 5 training outputs of 6 numbers allow 1 to 4"),
        ("whitened", torch.ones(9, 4), None, "are equal, there is nothing to whiten"),
        ("centred", torch.full((3, 2), torch.nan), None, "not finite"),
    ],
)
def test_what_no_space_can_be_fitted_on_is_refused(kind, table, dim, message):
    with pytest.raises(UserError, match=message):
        fit_space(kind, table, dim)


def test_embeddings_of_another_width_are_refused():
    with pytest.raises(UserError, match="do not fit a centred space of 6 numbers"):
        fit_space("centred", outputs()).apply(torch.ones(2, 5))


def stored(table: Tensor) -> tuple[StoredTeacher, list[str]]:
    keys = [f"k{row}" for row in range(len(table))]
    return StoredTeacher({"embedding": table}, keys, Path("store")), keys


def test_a_space_is_that_of_the_named_places_alone():
    table = outputs()
    source, keys = stored(table)
    found = training_space(source, keys[10:], "centred")
    torch.testing.assert_close(found.mean, table[10:].mean(dim=0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_aligned_teacher_adds_the_embedding_of_its_space_and_a_bank_of_all_of_them(shuffle):
    table = outputs()
    plain, keys = stored(table)
    source = plain.shuffled(3) if shuffle else plain
    space = training_space(source, keys, "centred")
    torch.testing.assert_close(space.mean, table.mean(dim=0), rtol=1e-12, atol=0)
    teacher = AlignedTeacher(source, space, source)
    found = teacher.outputs({"keys": keys[5:9]})
    assert torch.equal(found["embedding"], source.outputs({"keys": keys[5:9]})["embedding"])
    assert torch.equal(found["aligned_embedding"], space.apply(found["embedding"]))
    assert torch.equal(teacher.bank(keys)[5:9], found["aligned_embedding"])
    assert torch.equal(found["embedding"], table[5:9]) != shuffle
    assert (teacher.requires, teacher.network) == ((), None)
