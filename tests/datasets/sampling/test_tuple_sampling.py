"""The tuple sampler: who may be in a tuple, counted randomness, the cache of hard negatives, exact resuming."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.datasets.records import PlaceRecord, TrainingSet
from distilplace.datasets.relations import training_relations
from distilplace.datasets.sampling.mining import difficult_positives, squared_distances
from distilplace.datasets.sampling.tuples import TupleBatchSampler


def city(places=40, queries=True, spacing=1.0, positive=2.5, negative=5.0):
    """A street of places, seen by the gallery at even and by queries at odd indices."""
    line = np.column_stack([np.arange(places) * spacing, np.zeros(places)])
    records = [PlaceRecord(str(i), "street", None, (), *row) for i, row in enumerate(line.tolist())]
    positives, non_negatives = training_relations(line, positive, negative)
    return TrainingSet(records, positives, non_negatives, np.arange(1, places, 2) if queries else None)


def network(seed, count=40, width=8):
    """Embeddings of all items by "the network" at some moment."""
    matrix = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return lambda: matrix


def sampler_of(training, size=3, **settings):
    return TupleBatchSampler(training, size, **{"cache_size": 9, "neg_pool": 6, "seed": 7} | settings)


def epoch_of(sampler, epoch, skip=0, moment=0):
    """All batches of an epoch, the network changing from round to round."""
    sampler.set_epoch(epoch, skip)
    batches = []
    for number in range(sampler.rounds):
        sampler.begin_round(number, network(100 * epoch + number + moment))
        assert len(list(sampler)) == len(sampler)
        batches += list(sampler)
    return batches


@pytest.mark.parametrize("queries", [True, False])
def test_tuples_hold_what_they_should(queries):
    training = city(queries=queries)
    sampler = sampler_of(training, pos_num=2, neg_num=4)
    anchors = []
    for batch in epoch_of(sampler, 0):
        layout = sampler.layout(len(batch))
        assert layout["tuples"].shape == (len(batch) // 8, 6)
        assert layout["difficult_positives"].shape == (len(batch) // 8, 2)
        assert layout["tuples"].dtype == layout["difficult_positives"].dtype == torch.int64
        items = np.array(batch)
        assert sorted(torch.cat(list(layout.values()), dim=1).ravel().tolist()) == list(range(len(batch)))
        positive_mask, negative_mask = training.masks(batch)
        for row, difficult in zip(layout["tuples"], layout["difficult_positives"], strict=True):
            anchor, positive, negatives = row[0], row[1], row[2:]
            assert positive_mask[anchor, positive]
            assert positive_mask[anchor, difficult].all()
            assert negative_mask[anchor, negatives].all()
            answers = items[[*row[1:].tolist(), *difficult.tolist()]]
            assert not queries or (items[anchor] % 2 == 1 and (answers % 2 == 0).all())
            assert items[anchor] not in answers
            anchors.append(items[anchor])
    assert sorted(anchors) == (list(range(1, 40, 2)) if queries else list(range(40)))
    assert sampler.batch_size == 24
    assert sampler.expand_batch() is False


def test_a_round_equals_loops():
    training = city()
    sampler = sampler_of(training, neg_pool=1000, pos_pool=2, cache_size=6)
    features = network(3)()
    sampler.set_epoch(1)
    sampler.begin_round(1, lambda: features)
    tuples = np.concatenate([np.reshape(batch, (-1, 8)) for batch in sampler])
    assert tuples.shape == (6, 8)
    for anchor, positive, *rest in tuples.tolist():
        far = {item: ((features[anchor] - features[item]) ** 2).sum() for item in range(40)}
        gps = sorted((i for i in training.positives[anchor].tolist() if i % 2 == 0), key=far.get)
        assert positive == gps[0]
        outside = [i for i in range(0, 40, 2) if i not in training.non_negatives[anchor]]
        assert rest[:3] == sorted(outside, key=far.get)[:3]
        gallery = np.arange(0, 40, 2)
        hard = difficult_positives(anchor, np.array(gps[:2]), gallery, features, 3).tolist()
        assert rest[3:] == (hard + hard[:1] * 3)[:3]  # filled up with the first


def test_epochs_have_rounds_of_whole_batches():
    sampler = sampler_of(city())  # 20 anchors: 9 + 9 + 2
    assert sampler.rounds == 3
    sizes = []
    for number in range(3):
        sampler.begin_round(number, network(0))
        sizes.append([len(batch) // 8 for batch in sampler])
    assert sizes == [[3, 3, 3], [3, 3, 3], [2]]
    assert sampler_of(city(), cache_size=8).rounds == 4  # 8 rounded down to 6
    short = sampler_of(city(), max_batches=4)
    assert (short.rounds, len(epoch_of(short, 0))) == (2, 4)
    with pytest.raises(ValueError, match="round 2 of 2"):
        short.begin_round(2, network(0))


def test_batches_depend_on_seed_epoch_and_network_alone():
    training = city()
    first, again = epoch_of(sampler_of(training), 0), epoch_of(sampler_of(training), 0)
    assert first == again
    assert first != epoch_of(sampler_of(training, seed=8), 0)
    assert first != epoch_of(sampler_of(training), 1)
    assert first != epoch_of(sampler_of(training), 0, moment=50)
    np.random.seed(3)
    torch.manual_seed(3)
    assert first == epoch_of(sampler_of(training), 0)


def negatives_by_anchor(batches):
    return {row[0]: row[2:5] for batch in batches for row in np.reshape(batch, (-1, 8)).tolist()}


def test_the_cache_keeps_the_hardest_ever_met():
    training, sampler = city(), sampler_of(city(), neg_pool=3)
    same = network(5)()
    distances = squared_distances(same, same)
    worst = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        batches = []
        for number in range(sampler.rounds):
            sampler.begin_round(number, lambda: same)
            batches += list(sampler)
        found = negatives_by_anchor(batches)
        worst.append({anchor: np.sort(distances[anchor, row]) for anchor, row in found.items()})
        assert all(not set(row) & set(training.non_negatives[anchor].tolist()) for anchor, row in found.items())
    # by the same network, what a later epoch finds is never easier; three draws a visit cannot do that alone
    for before, after in pairwise(worst):
        assert all((after[anchor] <= before[anchor]).all() for anchor in before)
    assert any((worst[-1][anchor] < worst[0][anchor]).any() for anchor in worst[0])


def saved(sampler):
    buffer = io.BytesIO()
    torch.save(sampler.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("done", [1, 2, 3, 4, 6])
def test_resuming_is_exact_though_the_network_has_changed_since_mining(done):
    training = city()
    whole = sampler_of(training)
    expected = [*epoch_of(whole, 0), *epoch_of(whole, 1), *epoch_of(whole, 2)]
    # the interrupted run: epoch 0, then `done` of epoch 1's seven batches
    sampler = sampler_of(training)
    seen = epoch_of(sampler, 0)
    sampler.set_epoch(1)
    for number in range(sampler.rounds):
        if len(seen) == 7 + done:
            break
        sampler.begin_round(number, network(100 + number))
        for batch in sampler:
            seen.append(batch)
            if len(seen) == 7 + done:
                break
    state = saved(sampler)
    resumed = sampler_of(training, seed=99)
    resumed.load_state_dict(state)
    resumed.set_epoch(1, skip=done)
    asked = []
    for number in range(resumed.rounds):
        mined_here = 3 * number >= done  # the round in progress and those before are not mined again

        def features(number=number):
            asked.append(number)
            return network(100 + number)()

        resumed.begin_round(number, features)
        assert (number in asked) == mined_here
        seen += list(resumed)
    seen += epoch_of(resumed, 2)
    assert seen == expected


def test_a_state_of_other_tuples_is_refused():
    state = saved(sampler_of(city()))
    with pytest.raises(ValueError, match="tuples of 8 out of 40 items"):
        sampler_of(city(), neg_num=5).load_state_dict(state)
    with pytest.raises(ValueError, match="makes tuples of 8 out of 20"):
        sampler_of(city(20)).load_state_dict(state)


def test_anchors_without_positives_or_negatives_are_left_out():
    training = city()
    training.positives[3] = np.array([5])  # a query: no positive in the gallery
    training.non_negatives[7] = np.arange(40)  # no negative anywhere
    anchors = {row[0] for batch in epoch_of(sampler_of(training), 0) for row in np.reshape(batch, (-1, 8)).tolist()}
    assert anchors == set(range(1, 40, 2)) - {3, 7}
    with pytest.raises(UserError, match="none of the training set's 20 queries has both"):
        sampler_of(city(negative=100.0))


def test_bad_use_is_refused():
    with pytest.raises(UserError, match="--neg_num 0: must be at least 1"):
        sampler_of(city(), neg_num=0)
    sampler = sampler_of(city(), pos_num=0)
    with pytest.raises(RuntimeError, match="begin_round has not been called"):
        next(iter(sampler))
    with pytest.raises(ValueError, match="do not fit 40"):
        sampler.begin_round(0, network(0, count=39))
    with pytest.raises(UserError, match="not finite"):
        sampler.begin_round(0, lambda: np.full((40, 3), np.nan, dtype=np.float32))
    sampler.begin_round(0, network(0))
    assert [len(batch) for batch in sampler] == [15, 15, 15]
    assert sampler.layout(15)["difficult_positives"].shape == (3, 0)
