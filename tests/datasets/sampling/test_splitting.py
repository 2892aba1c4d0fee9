"""The validation split: a region apart from what trains, with true matches between different runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.datasets.records import PlaceRecord, TrainingSet, positions
from distilplace.datasets.relations import training_relations
from distilplace.datasets.sampling.splitting import split, subset


def _world(runs: list[np.ndarray], positive: float = 10.0, negative: float = 50.0) -> TrainingSet:
    records = [
        PlaceRecord(f"r{number}/{index}", f"r{number}", None, (), float(north), float(east))
        for number, run in enumerate(runs)
        for index, (north, east) in enumerate(run)
    ]
    return TrainingSet(records, *training_relations(positions(records), positive, negative))


def _loop(count: int, radius: float, offset: float = 0.0) -> np.ndarray:
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([(radius + offset) * np.sin(angles), (radius + offset) * np.cos(angles)], axis=1)


def _extent(training_set: TrainingSet, run: str) -> float:
    mine = positions([r for r in training_set.records if r.run == run])
    return float(np.linalg.norm(mine.max(axis=0) - mine.min(axis=0)))


def _validated(validation):
    return validation.distinct_records()


def _gaps(ones, others):
    return np.linalg.norm(positions(ones)[:, None] - positions(others)[None], axis=2)


def _check(world: TrainingSet, training: TrainingSet, validation, buffer: float, eval_radius: float) -> None:
    """Every promise of datasets/sampling/splitting.py, the slow way."""
    held = _validated(validation)
    known = {record.key: index for index, record in enumerate(world.records)}
    assert not {r.key for r in training.records} & {r.key for r in held}
    assert _gaps(training.records, held).min() > buffer
    used = {r.key for r in [*training.records, *held]}
    dropped = [r for r in world.records if r.key not in used]
    assert (_gaps(dropped, held).min(axis=1) <= buffer).all()  # nothing but what the buffer asks for
    kept = [known[r.key] for r in training.records]
    assert kept == sorted(kept)
    place = {old: new for new, old in enumerate(kept)}
    for new, old in enumerate(kept):
        for mine, theirs in ((training.positives, world.positives), (training.non_negatives, world.non_negatives)):
            assert mine[new].tolist() == [place[j] for j in theirs[old].tolist() if j in place]
    assert any(len(row) for row in training.positives)
    answered = 0
    for n, entries in enumerate(validation.query_sets):
        assert sorted(entries) == list(range(len(validation.queries[n])))
        for i, entry in entries.items():
            assert n not in entry
            for m in set(range(len(validation.runs))) - {n}:
                gaps = _gaps([validation.queries[n][i]], validation.database[m])[0] if validation.database[m] else []
                assert entry[m] == [k for k, gap in enumerate(gaps) if gap <= eval_radius]
                answered += len(entry[m]) > 0
    assert answered >= 0.5 * sum(map(len, validation.queries)) > 0
    assert validation.radius == eval_radius


def split_validation(*world, **settings):
    made = split(*world, **settings)
    return made.training, made.validation


def test_three_loops_give_a_region_seen_by_every_run():
    world = _world([_loop(120, 200.0), _loop(110, 200.0, 2.0), _loop(100, 200.0, -2.0)])
    training, validation = split_validation(world, 0.1)
    buffer = min(50.0, 0.1 * _extent(world, "r0"))
    _check(world, training, validation, buffer, 25.0)
    assert validation.runs == ["r0", "r1", "r2"]
    assert 33 <= len(_validated(validation)) <= 38
    assert validation.database == validation.queries
    covered = np.unwrap(np.sort(np.arctan2(*positions(_validated(validation)).T)))
    assert np.diff(covered).max() < 0.2 or np.diff(np.sort(covered % (2 * np.pi))).max() < 0.2


def test_a_stretch_that_many_runs_pass_is_no_larger_than_asked():
    """Three of four runs drive only the guide's last fifth: the region is short, not a tenth of the guide."""
    guide = np.column_stack([np.zeros(200), np.arange(200) * 5.0])
    world = _world([guide, *(guide[160:] + np.array([1.0, shift]) for shift in (0.5, 1.0, 1.5))])
    training, validation = split_validation(world, 0.1)
    _check(world, training, validation, 50.0, 25.0)
    assert 32 <= len(_validated(validation)) <= 40


def test_a_wide_world_keeps_the_whole_buffer():
    world = _world([np.column_stack([np.zeros(400), np.arange(400) * 10.0 + shift]) for shift in (0.0, 3.0)])
    training, validation = split_validation(world, 0.1, buffer=50.0)
    _check(world, training, validation, 50.0, 25.0)


def test_a_run_alone_alternates_between_database_and_queries():
    world = _world([np.column_stack([np.zeros(100), np.arange(100) * 2.0])], 3.0, 10.0)
    training, validation = split_validation(world, 0.1, buffer=10.0, eval_radius=5.0)
    _check(world, training, validation, 10.0, 5.0)
    assert validation.runs == ["r0/database", "r0/queries"]
    held = [r.easting for r in _validated(validation)]
    assert max(held) == 198.0  # the run's last stretch
    assert [r.easting for r in validation.database[0]] == sorted(held)[::2]
    assert [r.easting for r in validation.queries[1]] == sorted(held)[1::2]


def test_the_stretch_moves_when_the_last_one_is_unusable():
    """The run's end is driven in 60 m steps: no query there has a match within 25 m."""
    along = np.concatenate([np.arange(80) * 5.0, 400.0 + 60.0 * np.arange(20)])
    world = _world([np.column_stack([np.zeros(100), along])])
    training, validation = split_validation(world, 0.1)
    _check(world, training, validation, 50.0, 25.0)
    assert max(r.easting for r in _validated(validation)) < 460.0


def test_nothing_usable_is_said_and_training_stays_whole():
    world = _world([np.column_stack([np.zeros(30), np.arange(30) * 100.0])], 150.0, 300.0)
    made = split(world, 0.1)
    assert made.training is world
    assert made.validation is None
    assert "no stretch of 10% of the 30 training samples" in made.note
    empty = _world([])
    assert split(empty, 0.1).validation is None


def test_a_world_inside_one_evaluation_radius_is_unusable():
    assert split(_world([_loop(40, 4.0)], 1.0, 3.0), 0.1).validation is None


def test_fraction_zero_is_upstreams_training_set():
    world = _world([_loop(40, 200.0)], 40.0, 50.0)
    assert split_validation(world, 0.0) == (world, None)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.5])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(UserError, match="--val_fraction"):
        split_validation(_world([_loop(40, 200.0)], 40.0, 50.0), fraction)


def test_subset_renumbers():
    world = _world([np.array([[0.0, 0.0], [0.0, 5.0], [0.0, 10.0], [0.0, 30.0]])])
    part = subset(world, np.array([0, 2, 3]))
    assert [r.key for r in part.records] == ["r0/0", "r0/2", "r0/3"]
    assert [row.tolist() for row in part.positives] == [[1], [0], []]
    assert [row.tolist() for row in part.non_negatives] == [[0, 1, 2]] * 3


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    runs=st.integers(1, 4),
    count=st.integers(4, 60),
    step=st.floats(0.5, 20.0),
    fraction=st.floats(0.02, 0.5),
    buffer=st.floats(0.0, 60.0),
    eval_radius=st.floats(1.0, 30.0),
    far_apart=st.booleans(),
)
def test_promises_hold_in_any_world(seed, runs, count, step, fraction, buffer, eval_radius, far_apart):
    random = np.random.default_rng(seed)
    world = _world(
        [
            np.cumsum(random.normal((0, step), 1, (random.integers(2, count + 1), 2)), axis=0)
            + ([5000.0 * number, 0.0] if far_apart else random.uniform(-3, 3, 2))
            for number in range(runs)
        ],
        2 * step,
        6 * step,
    )
    training, validation = split_validation(world, fraction, buffer=buffer, eval_radius=eval_radius)
    if validation is None:
        assert training is world
        return
    sizes = {f"r{number}": sum(r.run == f"r{number}" for r in world.records) for number in range(runs)}
    guide = max(sizes, key=lambda run: sizes[run])
    _check(world, training, validation, min(buffer, 0.1 * _extent(world, guide)), eval_radius)
    again = split_validation(world, fraction, buffer=buffer, eval_radius=eval_radius)
    assert [r.key for r in again[0].records] == [r.key for r in training.records]
