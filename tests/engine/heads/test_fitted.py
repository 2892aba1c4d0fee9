"""Heads fitted behind a network: the mean of its training embeddings, and the ridge regression to its teacher's."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distilplace.common.outputs import ALIGNED
from distilplace.datasets.records import RankingRules
from distilplace.datasets.relations import true_neighbours
from distilplace.datasets.sampling.splitting import Split, subset
from distilplace.engine.heads import fitted, ridge
from distilplace.engine.heads.fitted import HeadFitter, fit_centre, fit_linear, held_ridge
from distilplace.engine.heads.ridge import Ridge, fit_ridge
from tests.engine.toy_run import PLACES, ToyData, ToyNet


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return {"images": 4 * torch.randn(20, 3, 8, 8)}


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@torch.no_grad()
@pytest.mark.parametrize("learned", [(), ("linear:5",)])
def test_centring_subtracts_the_mean_of_unit_embeddings_behind_whatever_head_there_is(batch, learned):
    network = ToyNet().eval()
    if learned:
        network.add_embedding_head(learned)
    before = network(batch)["embedding"]
    after = fit_centre(network, before[:12])
    mean = unit(before[:12]).mean(axis=0)
    found = network(batch)["embedding"].numpy()
    np.testing.assert_allclose(found, unit(unit(before) - mean), atol=2e-5)
    np.testing.assert_allclose(found[:12], after.numpy(), atol=2e-5)
    assert network.embedding_head.names == (*learned, "unit", "centre", "unit")
    fit_linear(network, Ridge(np.ones((3, len(mean))), np.arange(3.0)))
    assert network.embedding_head.names == (*learned, "unit", "centre", "unit", "linear:3", "unit")
    np.testing.assert_allclose(
        network(batch)["embedding"], unit(found.sum(1, keepdims=True) + np.arange(3.0)), atol=2e-5
    )


def test_the_ridge_is_the_closed_form():
    draw = np.random.default_rng(0)
    student, teacher = draw.normal(size=(30, 6)) + 2, draw.normal(size=(30, 4))
    found = fit_ridge(student, teacher, share=0.3)
    mean, target = student.mean(axis=0), teacher.mean(axis=0)
    gram = (student - mean).T @ (student - mean)
    strength = 0.3 * np.trace(gram) / 6
    weight = np.linalg.solve(gram + strength * np.eye(6), (student - mean).T @ (teacher - target)).T
    np.testing.assert_allclose(found.weight, weight, atol=1e-10)
    np.testing.assert_allclose(found.bias, target - weight @ mean, atol=1e-10)
    np.testing.assert_allclose(found(student), student @ weight.T + found.bias, atol=1e-12)


@pytest.fixture
def toy(tmp_path):
    """Keys, embeddings of student and teacher, and a split: the last places of both drives are held back."""
    data = ToyData(tmp_path)
    records = data.records
    training = data.training_set()
    kept = [row for row, record in enumerate(records) if record.northing < 70]
    held = data.evaluation_set()
    later = [[record for record in run if record.northing >= 70] for run in held.database]
    validation = replace(held, database=later, queries=later, query_sets=true_neighbours(later, later, 5.0))
    draw = np.random.default_rng(1)
    places = draw.normal(size=(PLACES, 8))
    teacher = unit(np.concatenate([places, places]) + 0.05 * draw.normal(size=(2 * PLACES, 8)))
    turn = np.linalg.qr(draw.normal(size=(8, 8)))[0]
    student = unit(teacher @ turn + 0.3 * draw.normal(size=(2 * PLACES, 8)) + 3)
    return [r.key for r in records], student, teacher, Split(subset(training, np.array(kept)), validation, "")


def test_the_strength_is_chosen_on_places_that_the_fit_has_not_seen(toy, monkeypatch):
    keys, student, teacher, held = toy
    fits = []
    real = ridge.fit_ridge
    monkeypatch.setattr(ridge, "fit_ridge", lambda *given: fits.append(len(given[0])) or real(*given))
    found = held_ridge(keys, student, teacher, held)
    assert {*fits} == {len(held.training)} == {14}
    strengths = [fit_ridge(student, teacher, share) for share in ridge.SHARES]
    assert any(np.array_equal(found.weight, each.weight) for each in strengths)  # and fitted again on all of them


def test_of_equal_strengths_the_strongest_is_taken_and_the_rules_of_the_places_hold(toy, monkeypatch):
    keys, student, teacher, held = toy
    assert ridge.choose_share(student, teacher, lambda found: 1.0) == ridge.SHARES[-1]
    rules, real = RankingRules(unmatched="miss"), fitted.evaluate_runs
    seen = []
    monkeypatch.setattr(fitted, "evaluate_runs", lambda *a, **b: seen.append(b["rules"]) or real(*a, **b))
    held_ridge(keys, student, teacher, Split(held.training, replace(held.validation, rules=rules), ""))
    assert seen == [rules] * len(ridge.SHARES)


@pytest.mark.parametrize(("requires", "learned"), [((ALIGNED,), ("f",)), (("embedding",), ()), (None, ())])
def test_a_student_learns_a_map_where_its_losses_compare_outputs(requires, learned, monkeypatch):
    monkeypatch.setattr(fitted, "save_map_models", lambda *given: ("f",))
    context = SimpleNamespace(options=SimpleNamespace(align_head=False, centre=True))
    distiller = None if requires is None else SimpleNamespace(teacher_requires=requires, absolute=True)
    training = SimpleNamespace(records=[None])
    found = HeadFitter.prepare(context, training, None, [], distiller, None)
    assert (found.maps, found.learned_maps) == (("f",), learned)
