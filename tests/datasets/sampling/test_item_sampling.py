"""Batches of single items, of two views, of one pair a landmark: recomputed from what an epoch must contain."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.datasets.records import PlaceRecord, TrainingSet
from distilplace.datasets.sampling.items import GroupPairSampler, ItemBatchSampler, ViewBatchSampler


def training(groups: list[int]) -> TrainingSet:
    records = [PlaceRecord(str(i), "r", None, (), 0.0, 0.0) for i in range(len(groups))]
    nobody = [np.empty(0, dtype=np.int64)] * len(groups)
    return TrainingSet(records, nobody, nobody, groups=np.array(groups))


KINDS = (ItemBatchSampler, ViewBatchSampler, GroupPairSampler)


@given(count=st.integers(2, 40), size=st.integers(2, 12), seed=st.integers(0, 99), epoch=st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_every_item_comes_once_an_epoch(count, size, seed, epoch):
    sampler = ItemBatchSampler(training([0] * count), size, seed=seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    seen = [item for batch in batches for item in batch]
    assert len(seen) == len(set(seen)) == count - (count % size == 1)
    assert all(1 < len(batch) <= size for batch in batches)
    assert sampler.layout(size) == {}


@given(count=st.integers(2, 40), half=st.integers(2, 6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_two_views_of_an_item_stand_side_by_side(count, half, seed):
    sampler = ViewBatchSampler(training([0] * count), 2 * half, seed=seed)
    pairs = [tuple(batch[i : i + 2]) for batch in sampler for i in range(0, len(batch), 2)]
    assert all(second == first + count for first, second in pairs)
    assert len({first for first, _ in pairs}) == len(pairs) == count - (count % half == 1)
    assert sampler.layout(4)["pairs"].tolist() == [[0, 1], [2, 3]]


@given(groups=st.lists(st.integers(0, 6), min_size=8, max_size=40), half=st.integers(2, 6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_every_landmark_gives_one_pair_of_two_images(groups, half, seed):
    able = {group for group, count in Counter(groups).items() if count > 1}
    if len(able) < 2:
        with pytest.raises(UserError, match="landmarks"):
            GroupPairSampler(training(groups), 2 * half, seed=seed)
        return
    sampler = GroupPairSampler(training(groups), 2 * half, seed=seed)
    pairs = [tuple(batch[i : i + 2]) for batch in sampler for i in range(0, len(batch), 2)]
    assert all(first != second and groups[first] == groups[second] for first, second in pairs)
    asked = [groups[first] for first, _ in pairs]
    assert len(asked) == len(set(asked)) == len(able) - (len(able) % half == 1)


def test_every_pair_of_a_landmark_is_drawn_at_some_time():
    sampler = GroupPairSampler(training([0, 1, 0, 1, 0]), 4, seed=3)
    seen = set()
    for epoch in range(60):
        sampler.set_epoch(epoch)
        seen |= {tuple(batch[i : i + 2]) for batch in sampler for i in range(0, 4, 2)}
    assert seen == {(0, 2), (2, 0), (0, 4), (4, 0), (2, 4), (4, 2), (1, 3), (3, 1)}


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_depends_on_seed_and_number_and_may_be_entered_in_the_middle(kind):
    world = training([i // 3 for i in range(30)])
    sampler, again, other = kind(world, 4, seed=1), kind(world, 4, seed=1), kind(world, 4, seed=2)
    whole = list(sampler)
    assert list(other) != whole
    again.set_epoch(0, skip=2)
    assert list(again) == whole[2:]
    assert len(again) == len(whole) - 2
    sampler.set_epoch(1)
    assert list(sampler) != whole
    other.load_state_dict(again.state_dict())
    assert list(other) == whole[2:]


@pytest.mark.parametrize(
    ("kind", "groups"), [(ItemBatchSampler, [0]), (ViewBatchSampler, [0]), (GroupPairSampler, [0, 0])]
)
def test_too_little_data_is_said(kind, groups):
    with pytest.raises(UserError, match="too few"):
        kind(training(groups), 4, seed=1)


def test_a_set_without_landmarks_is_refused_with_the_remedy():
    world = training([0, 0, 1, 1])
    world.groups = None
    with pytest.raises(UserError, match="--batches pairs"):
        GroupPairSampler(world, 4, seed=1)
