"""The filter against dense matrices, its grid of neighbours against all pairs, diagonals against loops."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.runtime.localise.diagonals import diagonal_scores
from distilplace.runtime.localise.motion import MotionModel, headings_of, step_of
from distilplace.runtime.localise.neighbours import pairs_within
from distilplace.runtime.localise.sequence import PlaceFilter


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 60), reach=st.floats(0.1, 80))
def test_pairs_are_those_of_all_distances(seed, count, reach):
    positions = np.random.default_rng(seed).uniform(-100, 100, (count, 2))
    pairs = pairs_within(positions, reach)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    expected = np.argwhere(distances <= reach)
    assert np.array_equal(np.stack([pairs.source, pairs.target], axis=1), expected)
    assert np.allclose(pairs.offset, positions[pairs.target] - positions[pairs.source], atol=1e-4)


def dense_update(belief, off, likelihood, off_likelihood, transitions, motion):
    """One step with an (m + 1) x (m + 1) matrix over (speed, place) pairs and the off-map state, the slow way."""
    count = len(belief)
    matrix = np.zeros((count + 1, count + 1))
    for i in range(count):
        total = transitions[i].sum()
        matrix[i, :count] = (1 - motion.leaves) * transitions[i]
        matrix[i, count] = 1 - total + motion.leaves * total
    matrix[count, :count] = (1 - motion.stays_away) / count
    matrix[count, count] = motion.stays_away
    after = np.append(belief, off) @ matrix * np.append(np.tile(likelihood, count // len(likelihood)), off_likelihood)
    after /= after.sum()
    return after[:count], after[count]


def driven(positions, lengths, reach):
    """Metres of way from place to place, and distances: along a run, else the distance signed by the heading."""
    offset = positions[None] - positions[:, None]
    apart = np.linalg.norm(offset, axis=2)
    headings, ahead = headings_of(positions, lengths), apart.copy()
    starts = np.cumsum([0, *lengths])
    runs = [np.flatnonzero((starts <= i) & (i < starts[-1]))[-1] for i in range(len(positions))]
    for i in range(len(positions)):
        for j in range(len(positions)):
            steps = np.linalg.norm(np.diff(positions[min(i, j) : max(i, j) + 1], axis=0), axis=1)
            way = steps.sum() * (1 if j >= i else -1)
            signed = -apart[i, j] if offset[i, j] @ headings[i] < 0 else apart[i, j]
            ahead[i, j] = way if runs[i] == runs[j] and abs(way) <= 2 * reach else signed
    return ahead, apart, offset


def dense_moves(ahead, apart, motion):
    """From every (speed, place) to every other without odometry, [m, m]."""
    count, speeds = len(ahead), motion.speeds
    moves = np.zeros((len(speeds), count, len(speeds), count))
    for k, speed in enumerate(speeds):
        squared = np.where(
            apart <= motion.reach, ((ahead - speed * motion.step) / (motion.spread * motion.step)) ** 2, np.inf
        )
        beyond = squared - squared.min(axis=1, keepdims=True)
        weights = np.where(beyond <= 9, np.exp(-0.5 * beyond), 0)
        weights /= weights.sum(axis=1, keepdims=True)
        for before in range(len(speeds)):
            share = motion.switches / len(speeds) + (1 - motion.switches) * (before == k)
            moves[before, :, k] = share * weights
    return moves.reshape(count * len(speeds), -1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["none", "distance", "displacement"]))
def test_the_filter_equals_a_dense_forward_pass(seed, kind):
    rng = np.random.default_rng(seed)
    positions, lengths = rng.uniform(0, 60, (25, 2)), [10, 15]
    motion = MotionModel(step=5, speeds=(0.5, 1.0, 2.0), switches=0.1, sigma=1.5, drift=0.2)
    tracker = PlaceFilter(positions, motion, lengths, contrast=5.0, off_map_quantile=0.9)
    belief, off = np.full(75, 0.8 / 75), 0.2
    ahead, apart, offset = driven(positions, lengths, motion.reach)
    slope = None
    for step in range(5):
        distances = rng.uniform(0.2, 1.4, 25)
        odometry = {"none": None, "distance": 8.0, "displacement": np.array([5.0, -4.0])}[kind]
        if slope is None:
            slope = np.log(5.0) / (np.quantile(distances, 0.975) - np.quantile(distances, 0.025))
        likelihood = np.exp(-slope * distances)
        off_likelihood = np.quantile(likelihood, 0.9)
        if step == 0:
            belief, off = belief * np.tile(likelihood, 3), off * off_likelihood
            belief, off = belief / (belief.sum() + off), off / (belief.sum() + off)
        else:
            if odometry is None:
                moves = dense_moves(ahead, apart, motion)
            else:
                error = ahead - 8.0 if kind == "distance" else np.linalg.norm(offset - odometry, axis=2)
                squared = np.square(error / (1.5 + 0.2 * np.linalg.norm(odometry)))
                weights = np.where((apart <= 20) & (squared <= 9), np.exp(-0.5 * squared), 0)
                weights /= np.where(weights.sum(axis=1) > 0, weights.sum(axis=1), 1)[:, None]
                moves = np.kron(np.full((3, 3), 1 / 3), weights)
            belief, off = dense_update(belief, off, likelihood, off_likelihood, moves, motion)
        found = tracker.update(distances, odometry)
        assert np.allclose(found.places, belief.reshape(3, 25).sum(axis=0), atol=1e-6)
        assert found.off_map == pytest.approx(off, abs=1e-6)
        assert found.places.sum() + found.off_map == pytest.approx(1)


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_a_steady_speed_is_followed(speed):
    """Around a block, at half to twice the pace of the map's vehicle, with images that are right half of the time."""
    corners = np.array([[0, 0], [40, 0], [40, 40], [0, 40], [0, 0]])
    positions = np.concatenate([np.linspace(a, b, 8, endpoint=False) for a, b in pairwise(corners)])
    hits = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        route = np.rint(speed * np.arange(10)).astype(int) + rng.integers(0, 12)
        distances = np.clip(rng.normal(1.2, 0.15, (10, 32)), 0, 2)
        distances[np.arange(10), route] -= 0.4
        tracker = PlaceFilter(positions, MotionModel(5.0), [32])
        for row in distances:
            belief = tracker.update(row)
        hits += abs(int(belief.places.argmax()) - route[-1]) <= 1
    assert hits >= 17


def corridor(rng, count=200, frames=12, noise=0.35):
    """A street of places 5 m apart, and distances of a drive along it whose single images are often wrong."""
    positions = np.stack([np.arange(count) * 5.0, np.zeros(count)], axis=1)
    places = rng.normal(size=(count, 16))
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    route = 60 + 2 * np.arange(frames)
    queries = places[route] + noise * rng.normal(size=(frames, 16))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return positions, places, route, np.sqrt(np.maximum(2 - 2 * queries @ places.T, 0))


def test_sequences_find_what_single_images_miss():
    rng = np.random.default_rng(3)
    single, filtered, diagonal = 0, 0, 0
    for _ in range(12):
        positions, _, route, distances = corridor(rng)
        tracker = PlaceFilter(positions, MotionModel(step=10), [len(positions)])
        for row in distances:
            belief = tracker.update(row)
        single += distances[-1].argmin() == route[-1]
        filtered += abs(belief.places.argmax() - route[-1]) <= 1
        diagonal += abs(diagonal_scores(distances, [200], window=None).argmin() - route[-1]) <= 1
    assert filtered >= single + 3
    assert diagonal >= single + 2


def test_images_of_nowhere_move_the_belief_off_the_map():
    rng = np.random.default_rng(5)
    positions, places, _, on_map = corridor(rng, noise=0.15)
    strangers = rng.normal(size=(12, 16))
    strangers /= np.linalg.norm(strangers, axis=1, keepdims=True)
    off_map = np.sqrt(2 - 2 * strangers @ places.T)
    found = []
    for table in (on_map, off_map):
        tracker = PlaceFilter(positions, MotionModel(step=10), [len(positions)])
        for row in table:
            belief = tracker.update(row)
        found.append(belief.off_map)
    assert found[0] < 0.1
    assert found[1] > 0.9


def test_odometry_away_from_every_place_leads_off_the_map():
    positions = np.stack([np.arange(20) * 5.0, np.zeros(20)], axis=1)
    tracker = PlaceFilter(positions, MotionModel(step=4, sigma=0.5, drift=0.0))
    distances = np.ones(20)
    tracker.update(distances)
    assert tracker.update(distances, np.array([0.0, 14.0])).off_map > 0.9


@pytest.mark.parametrize("window", [None, 3])
def test_diagonals_are_the_plain_loops(window):
    rng = np.random.default_rng(0)
    lengths, speeds = [7, 12], (0.5, 1.0, 2.0)
    table = rng.uniform(size=(4, 19))
    wanted = table.copy()
    if window is not None:
        for row in range(4):
            for start, length in ((0, 7), (7, 12)):
                for i in range(length):
                    part = table[row, start + max(0, i - window) : start + min(length, i + window + 1)]
                    wanted[row, start + i] = (table[row, start + i] - part.mean()) / part.std()
    expected = np.full(19, np.inf)
    for end in range(19):
        start = 0 if end < 7 else 7
        for speed in speeds:
            line = [wanted[t, max(start, end - round(speed * (3 - t)))] for t in range(4)]
            expected[end] = min(expected[end], np.mean(line))
    assert np.allclose(diagonal_scores(table, lengths, speeds, window), expected)


def test_a_restarted_filter_forgets():
    positions = np.random.default_rng(1).uniform(0, 50, (10, 2))
    tracker = PlaceFilter(positions, MotionModel(step=10))
    first = tracker.update(np.linspace(0.1, 1, 10)).places
    tracker.update(np.linspace(1, 0.1, 10))
    tracker.restart()
    assert np.array_equal(tracker.update(np.linspace(0.1, 1, 10)).places, first)


def test_steps_and_headings_stay_within_runs():
    positions = np.array([[0, 0], [3, 4], [6, 8], [100, 0], [100, 2], [100, 2]], dtype=float)
    assert step_of(positions, [3, 3]) == 5.0
    assert step_of(positions[:1], [1]) == 1.0
    headings = headings_of(positions, [3, 3])
    assert headings == pytest.approx(np.array([[0.6, 0.8]] * 3 + [[0, 1], [0, 1], [0, 0]]))
