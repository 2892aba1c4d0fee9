"""Embedding many images: order, batches of one size, and no more than one batch read ahead."""

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.runtime.embedding import embed_images
from distilplace.runtime.preprocessing import Preprocessing


def colours(batch):
    """What stands for a network: the mean colour [B, 3] of images."""
    return batch.mean(axis=(1, 2)).astype(np.float32)


def images_of(*heights):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (height, 6, 3), dtype=np.uint8) for height in heights]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_images_of_several_sizes_keep_their_order(size):
    images = images_of(4, 4, 5, 4, 4, 4, 6)
    seen = []

    def described(batch):
        seen.append(batch.shape[:2])
        return colours(batch)

    found = embed_images(iter(images), Preprocessing(), described, 3, size)
    assert np.array_equal(found, np.stack([image.mean(axis=(0, 1)).astype(np.float32) for image in images]))
    assert sum(count for count, _ in seen) == 7
    assert max(count for count, _ in seen) <= size
    assert embed_images([], Preprocessing(), described, 3, size).shape == (0, 3)


def test_one_batch_is_read_ahead_and_no_more():
    class Counting(Preprocessing):
        def apply(self, image, *, as_query=False):
            read.append(1)
            return super().apply(image, as_query=as_query)

    read, ahead = [], []

    def described(batch):
        ahead.append(len(read))
        return colours(batch)

    embed_images(images_of(*[4] * 12), Counting(), described, 3, 2)
    assert all(count <= 2 * (number + 2) for number, count in enumerate(ahead))
    assert len(read) == 12


def test_a_wrong_image_among_many_is_told():
    images = [*images_of(*[4] * 9), np.zeros((4, 4), np.uint8)]
    with pytest.raises(UserError, match=r"an array uint8 \[4, 4\] is no image"):
        embed_images(images, Preprocessing(), colours, 3, 2)
