"""The promise of Learn then Test, tried over many worlds; the features of answers against their definition."""

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.evaluation.confidence import accepted_from, fit_confidence
from distilplace.runtime.localise.confidence import FEATURES, Confidence, features_of_answer


def world(rng, count):
    """Confidences and, with exactly that probability, right or wrong."""
    probabilities = np.clip(rng.beta(2.0, 0.6, count), 1e-3, 1 - 1e-3)
    return probabilities, rng.random(count) < probabilities


def test_the_promise_holds_over_many_calibrations():
    rng = np.random.default_rng(0)
    shown, _ = world(rng, 400)
    exact, truth = world(rng, 200_000)
    kept, broken = 0, 0
    for _ in range(60):
        probabilities, right = world(rng, 600)
        threshold = accepted_from(shown, probabilities, right, 0.95, 0.9)
        if threshold is not None:
            kept += 1
            broken += truth[exact >= threshold].mean() < 0.95
    assert kept > 30
    assert broken <= 0.1 * 60 + 3


def test_a_threshold_is_lower_where_answers_are_better():
    rng = np.random.default_rng(1)
    probabilities = rng.random(600)
    good = accepted_from(probabilities, probabilities, rng.random(600) < 0.999, 0.95, 0.9)
    assert good == pytest.approx(probabilities.min())
    assert accepted_from(probabilities, probabilities, rng.random(600) < 0.5, 0.95, 0.9) is None


def test_features_are_what_they_say():
    similarities = np.array([0.2, 0.9, 0.85, 0.6])
    positions = np.array([[0.0, 0.0], [100.0, 0.0], [103.0, 4.0], [300.0, 0.0]])
    found = features_of_answer(similarities, positions, radius=10, k=2)
    assert found == pytest.approx([0.9, 0.9 - 0.6, np.log1p(2.5)])
    alone = features_of_answer(similarities, positions, radius=1000, k=10)
    assert alone[1] == pytest.approx(0.7)


def fitted(rng, count=400):
    features = rng.normal([0.5, 0.0, 2.0], size=(count, 3))
    right = rng.random(count) < 1 / (1 + np.exp(-6 * features[:, 0]))
    return features, fit_confidence(features, right, radius=25.0, k=10, source="a run")


def test_a_fit_survives_json_and_orders_answers():
    features, confidence = fitted(np.random.default_rng(2))
    again = Confidence.from_dict(confidence.to_dict(), "map m")
    assert again == confidence
    assert again.features == FEATURES
    probabilities = again.probability(features)
    assert np.corrcoef(probabilities, features[:, 0])[0, 1] > 0.8
    assert again.probability(features[0]) == pytest.approx(probabilities[0])
    assert 0 < again.accepted < 1
    assert again.threshold is not None
    assert "95%" in again.promise()


@pytest.mark.parametrize("fault", [{"weights": (1.0,)}, {"scale": (0.0, 1.0, 1.0)}, {"threshold": 3.0}, {"k": "x"}])
def test_a_damaged_calibration_is_refused(fault):
    _, confidence = fitted(np.random.default_rng(2))
    with pytest.raises(UserError, match="map m: its calibration cannot be read"):
        Confidence.from_dict(confidence.to_dict() | fault, "map m")


def test_too_few_or_one_sided_images_are_refused():
    rng = np.random.default_rng(3)
    with pytest.raises(UserError, match="20 calibration images; at least 60"):
        fit_confidence(rng.normal(size=(20, 3)), rng.random(20) < 0.5, radius=25, k=10, source="a run")
    with pytest.raises(UserError, match="50 of 50 answers that a confidence is learned from are right"):
        fit_confidence(rng.normal(size=(100, 3)), np.ones(100, bool), radius=25, k=10, source="a run")


def test_answers_that_choose_the_threshold_may_all_be_right():
    rng = np.random.default_rng(4)
    second = np.arange(200) % 2 == 1
    right = second | (rng.random(200) < 0.9)
    features = rng.normal(size=(200, 3)) + 2 * right[:, None]
    found = fit_confidence(features, right, radius=25, k=10, source="a run", second=second)
    assert found.threshold is not None
    assert found.accepted == 1.0
