"""Sections of poses: the error curve, the images chosen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.evaluation.report.sections.poses import choose_by_error, cumulative


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 50), min_size=1, max_size=12), st.floats(0.5, 60), st.floats(0, 1))
def test_the_error_curve_is_the_share_within(values, end, part):
    across, up = cumulative(np.array(values), end)
    assert (across[0], across[-1]) == (0, end)
    assert (np.diff(across) >= 0).all()
    assert len(across) == len(up)
    at = part * end
    shown = up[np.flatnonzero(across <= at)[-1]]  # a staircase holds its value until the next step
    assert shown == pytest.approx(100 * sum(value <= at for value in values) / len(values))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 50), min_size=1, max_size=12), st.integers(1, 4))
def test_both_ends_of_the_errors_are_shown_once(values, each):
    chosen = choose_by_error(np.array(values), each)
    indices = [index for _, _, index in chosen]
    assert len(set(indices)) == len(indices)
    assert len(indices) >= min(len(values), 2 * each)
    assert values[indices[0]] == min(values)
    assert values[indices[-1]] == max(values)
    assert [values[i] for i in indices] == sorted(values[i] for i in indices)
