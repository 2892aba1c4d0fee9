"""Terms of a large batch against their textbook form: the same numbers from a fraction of the memory."""

import pytest

from distilplace.tools.bench.inputs import Sizes
from distilplace.tools.bench.relations import angle_peak, relation_cases
from distilplace.tools.bench.run import difference, kept_bytes

CASES = list(relation_cases(Sizes(large_batch=96)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_and_gradients_are_those_of_the_textbook(case) -> None:
    assert difference(case.ours(), case.reference()) < case.tolerance / 10


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_kept_for_the_backward_pass_does_not_grow_with_width_or_a_third_index(case) -> None:
    ours, reference = kept_bytes(case.ours), kept_bytes(case.reference)
    assert 15 * ours < reference


def test_the_angles_of_a_batch_never_stand_in_memory_together() -> None:
    words = angle_peak(Sizes(largest_batch=256), alone=False).split()
    peak, whole = float(words[4]), float(words[-1])
    assert whole == 128
    assert peak < whole / 2
