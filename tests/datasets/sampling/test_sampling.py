"""The batch sampler: the golden guarantees, counted randomness, expansion, resuming."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.datasets.records import PlaceRecord, TrainingSet
from distilplace.datasets.sampling.batches import PairBatchSampler, _separate_repeats


def from_golden(case) -> TrainingSet:
    n = len(case["positives"])
    records = [PlaceRecord(str(i), "r", None, (), *case["positions"][i].tolist()) for i in range(n)]
    return TrainingSet(records, *([case[name][i].numpy() for i in range(n)] for name in ("positives", "non_negatives")))


def from_lists(positives: list[list[int]]) -> TrainingSet:
    records = [PlaceRecord(str(i), "r", None, (), float(i), 0.0) for i in range(len(positives))]
    rows = [np.array(row, dtype=np.int64) for row in positives]
    return TrainingSet(records, rows, [np.union1d(row, [i]) for i, row in enumerate(rows)])


def check_guarantees(training: TrainingSet, batches: list[list[int]], batch_size: int) -> None:
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 4 <= len(batches[-1]) <= batch_size
    assert len(batches[-1]) % 2 == 0
    anchors = [anchor for batch in batches for anchor in batch[::2]]
    assert len(anchors) == len(set(anchors))
    for batch in batches:
        for anchor, second in zip(batch[::2], batch[1::2], strict=True):
            assert second in training.positives[anchor]


@pytest.mark.parametrize("seed", range(3))
def test_golden_guarantees(golden, seed):
    for name, case in golden("j_sampler.pt").items():
        training = from_golden(case)
        sampler = PairBatchSampler(training, case["batch_size"], seed=seed, max_batches=case["max_batches"])
        size = max(4, case["batch_size"])
        for epoch, properties in enumerate(case["properties"]):
            sampler.set_epoch(epoch)
            batches = list(sampler)
            assert len(sampler) == len(batches)
            check_guarantees(training, batches, size)
            counts = Counter(item for batch in batches for item in batch)
            with_positives = {i for i, row in enumerate(training.positives) if len(row)}
            assert set(counts) <= with_positives
            if case["max_batches"] is None:
                # only a rest of one pair may be missing
                assert len(with_positives - set(counts)) <= 2, name
                assert abs(len(batches) - properties["n_batches"]) <= 1
            else:
                assert len(batches) == properties["n_batches"]
            assert all(len(batch) == len(set(batch)) for batch in batches)  # upstream: up to 6 repeats in a batch


def chain(n: int) -> TrainingSet:
    return from_lists([[j for j in (i - 1, i + 1) if 0 <= j < n] for i in range(n)])


@settings(deadline=None, max_examples=150)
@given(n=st.integers(4, 40), density=st.floats(0.02, 0.6), seed=st.integers(0, 10_000), batch_size=st.integers(1, 24))
def test_guarantees_on_any_relation(n, density, seed, batch_size):
    linked = np.random.default_rng(seed).random((n, n)) < density
    linked |= linked.T
    np.fill_diagonal(linked, False)
    training = from_lists([np.flatnonzero(row).tolist() for row in linked])
    try:
        sampler = PairBatchSampler(training, batch_size, seed=seed)
    except UserError:
        assert linked.any(axis=1).sum() <= 3  # one pair at most
        return
    batches = list(sampler)
    check_guarantees(training, batches, sampler.batch_size)
    missing = set(np.flatnonzero(linked.any(axis=1)).tolist()) - {item for batch in batches for item in batch}
    assert len(missing) <= 2
    assert len(sampler) == len(batches)


def test_no_item_twice_in_a_batch_where_avoidable(line_world):
    """Oddity 14: a chain leaves many items whose positives are taken; upstream repeated items inside a batch."""
    for seed in range(20):
        batches = list(PairBatchSampler(chain(200), 128, seed=seed))
        assert all(len(set(batch)) == len(batch) for batch in batches)
        batches = list(PairBatchSampler(line_world(60, seed=seed), 16, seed=seed))
        assert all(len(set(batch)) == len(batch) for batch in batches)


def test_separating_repeats_loses_no_item():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        linked = rng.random((24, 24)) < 0.12
        linked |= linked.T
        np.fill_diagonal(linked, False)
        positives = [np.flatnonzero(row) for row in linked]
        pairs = PairBatchSampler(from_lists([row.tolist() for row in positives]), 10, seed=seed)._pairs(rng)
        batches = [pairs[start : start + 5] for start in range(0, len(pairs), 5)]
        before = [len(batch) for batch in batches], {item for pair in pairs for item in pair}
        repeats = _count_repeats(batches)
        _separate_repeats(batches, positives)
        assert before == ([len(b) for b in batches], {item for batch in batches for pair in batch for item in pair})
        assert sorted(pair[0] for batch in batches for pair in batch) == sorted(anchor for anchor, _ in pairs)
        assert _count_repeats(batches) <= repeats


def _count_repeats(batches) -> int:
    return sum(2 * len(batch) - len({item for pair in batch for item in pair}) for batch in batches)


def test_an_unlucky_pairing_is_drawn_again():
    """Random relations whose first pairing leaves a repeat that no swap removes, but another pairing avoids."""
    for seed in (10, 51, 207):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(8, 40))
        linked = rng.random((n, n)) < rng.uniform(0.03, 0.2)
        linked |= linked.T
        np.fill_diagonal(linked, False)
        sampler = PairBatchSampler(
            from_lists([np.flatnonzero(row).tolist() for row in linked]), int(rng.integers(2, 10)) * 2, seed=seed
        )
        assert all(len(set(batch)) == len(batch) for batch in sampler)


def test_unavoidable_repeat_is_accepted():
    """Three places that see only each other: the third can only be paired with one of the others again."""
    (batch,) = PairBatchSampler(from_lists([[1, 2], [0, 2], [0, 1]]), 8, seed=0)
    assert len(batch) == 4
    assert set(batch) == {0, 1, 2}


def test_composition_is_a_function_of_seed_epoch_and_batch_size(line_world):
    training = line_world(80)
    np.random.seed(1)
    one = PairBatchSampler(training, 16, seed=3)
    first = [one.set_epoch(epoch) or list(one) for epoch in range(4)]
    np.random.seed(2)
    other = PairBatchSampler(training, 16, seed=3)
    other.set_epoch(3)
    assert list(other) == first[3]  # without having run the epochs before
    other.set_epoch(0)
    assert list(other) == first[0]
    assert first[0] != first[1]
    assert list(PairBatchSampler(training, 16, seed=4)) != first[0]


def test_global_random_state_is_left_alone(line_world):
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    list(PairBatchSampler(line_world(40), 8, seed=0))
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_resuming_in_the_middle_gives_the_rest(line_world):
    training = line_world(100)
    sampler = PairBatchSampler(training, 8, seed=1)
    sampler.set_epoch(2)
    whole = list(sampler)
    for skip in (0, 3, len(whole), len(whole) + 5):
        resumed = PairBatchSampler(training, 8, seed=1)
        resumed.set_epoch(2, skip=skip)
        assert list(resumed) == whole[skip:]
        assert len(resumed) == len(whole[skip:])
    resumed.set_epoch(3)
    assert resumed.skip == 0


def test_expansion_up_to_the_limit_and_its_state(line_world):
    training = line_world(100)
    sampler = PairBatchSampler(training, 8, seed=1, batch_size_limit=20, batch_expansion_rate=1.4)
    sizes = [sampler.batch_size]
    while sampler.expand_batch():
        sizes.append(sampler.batch_size)
    assert sizes == [8, 12, 16, 20]
    check_guarantees(training, list(sampler), 20)
    sampler.set_epoch(5, skip=1)
    other = PairBatchSampler(training, 8, seed=9, batch_size_limit=20, batch_expansion_rate=1.4)
    other.load_state_dict(sampler.state_dict())
    assert list(other) == list(sampler)
    assert other.batch_size == 20


def test_slow_expansion_still_grows(line_world):
    sampler = PairBatchSampler(line_world(40), 4, seed=0, batch_size_limit=9, batch_expansion_rate=1.1)
    sizes = []
    while sampler.expand_batch():
        sizes.append(sampler.batch_size)
    assert sizes == [6, 8]


def test_no_expansion_without_a_rate(line_world):
    sampler = PairBatchSampler(line_world(40), 8, seed=0)
    assert not sampler.expand_batch()
    assert sampler.batch_size == 8


@pytest.mark.parametrize(("asked", "used"), [(1, 4), (2, 4), (4, 4), (7, 8), (16, 16)])
def test_batch_size_is_made_usable(line_world, asked, used, caplog):
    sampler = PairBatchSampler(line_world(40), asked, seed=0)
    assert sampler.batch_size == used
    assert len(next(iter(sampler))) == used
    assert bool(caplog.records) == (asked != used)


def test_useless_settings_are_refused(line_world):
    with pytest.raises(UserError, match="expansion rate"):
        PairBatchSampler(line_world(40), 8, seed=0, batch_size_limit=16, batch_expansion_rate=1.0)
    with pytest.raises(UserError, match="limit"):
        PairBatchSampler(line_world(40), 8, seed=0, batch_size_limit=4, batch_expansion_rate=2.0)
    for positives in ([[], [], [], []], [[1], [0], [], []], []):
        with pytest.raises(UserError, match="too few"):
            PairBatchSampler(from_lists(positives), 8, seed=0)
