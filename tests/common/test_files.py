"""Files are whole or absent, and randomness is counted."""

import random

import numpy as np
import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path
from distilplace.common.randomness import counted_seed, forked_random_state, generator


def write_half(target):
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(target)
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_randomness_is_a_function_of_its_parts():
    assert generator(1, "a").integers(1 << 40) == generator(1, "a").integers(1 << 40)
    assert counted_seed(1, 23) != counted_seed(12, 3)


def test_a_forked_state_repeats_inside_and_changes_nothing_outside():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = draw()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    with forked_random_state(3, "x"):
        inside = draw()
    assert draw() == expected
    with forked_random_state(3, "x"):
        assert draw() == inside


def test_messages_are_one_line():
    assert str(UserError("a\n  b")) == "a b"
