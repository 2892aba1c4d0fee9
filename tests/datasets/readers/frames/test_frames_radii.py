"""Radii of ``frames`` that are not given: chosen from their spacing, announced, beaten by given ones."""

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.common.inputs.position_checks import spacing
from distilplace.datasets import create_dataset
from tests.miniature_frames import straight, write_run


def about(data, word):
    return [note for note in data.notes if word in note]


@pytest.mark.parametrize(
    ("length", "step", "expected"),
    [
        (1200, 4.0, (10, 50, 25)),  # a town
        (1200, 1.0, (10, 50, 25)),
        (100, 1.0, (2.5, 12.5, 6.25)),  # a short drive: 2 units are too many
        (30, 0.3, (0.75, 3.75, 1.87)),  # as close as the spacing allows
        (1200, 12.0, (30, 150, 75)),  # sparse frames
    ],
)
def test_frames_radii_follow_spacing_and_length(tmp_path, length, step, expected):
    write_run(tmp_path / "run", straight(length, step), cameras=("image_left",), cloud=None, image_size=(4, 3))
    data = create_dataset("frames", dataset_folder=tmp_path)
    radii = data.radii
    assert (radii.positive, radii.negative, radii.evaluation) == pytest.approx(expected, rel=0.01)
    (note,) = about(data, "--positive_radius")
    assert note.startswith(f"frames lie {step:.2g} m apart (median); chosen from that: --positive_radius ")
    words = note.split()
    said = [float(words[words.index(f"--{name}_radius") + 1]) for name in ("positive", "negative", "eval")]
    again = create_dataset(
        "frames", dataset_folder=tmp_path, positive_radius=said[0], negative_radius=said[1], eval_radius=said[2]
    )
    assert again.radii == radii  # what is announced, given as flags, is the same run
    assert not about(again, "--positive_radius")
    for one, other in zip(data.training_set().positives, again.training_set().positives, strict=True):
        assert np.array_equal(one, other)
    assert all(len(row) for row in data.training_set().positives)
    assert data.validation_buffer == radii.negative
    assert not about(data, "ground truth: ")


def test_a_route_wound_up_in_a_small_place_leaves_frames_to_train_on(tmp_path):
    """480 m of lanes within 40 m: at 10, 50 and 25 m no frame would lie far enough from the test section."""
    lanes = [straight(40, 1.0, northing=4.0 * lane)[:: 1 - 2 * (lane % 2)] for lane in range(12)]
    write_run(tmp_path / "run", np.concatenate(lanes), cameras=("image_left",), cloud=None, image_size=(4, 3))
    data = create_dataset("frames", dataset_folder=tmp_path)
    assert data.radii.negative == 12.5
    assert len(data.training_set()) >= 0.2 * 480


def test_given_radii_win_over_chosen_ones(tmp_path):
    write_run(tmp_path / "run", straight(400, 4.0), cameras=("image_left",), cloud=None)
    only = create_dataset("frames", dataset_folder=tmp_path, negative_radius=7.0)
    assert only.radii.negative == 7.0
    assert only.radii.positive == 7.0  # 10 m were chosen, but positives must not lie beyond negatives
    wide = create_dataset("frames", dataset_folder=tmp_path, positive_radius=60.0)
    assert (wide.radii.positive, wide.radii.negative) == (60.0, 60.0)
    assert about(only, "chosen from that: --positive_radius 7 --eval_radius 25 (metres)")


def test_standing_frames_do_not_count_as_spacing():
    along = np.repeat(straight(40, 2.0), 9, axis=0)  # waits at every place
    assert spacing([along]) == 2.0
    assert spacing([np.zeros((5, 2))]) == 0.0


def test_frames_in_one_spot_or_in_degrees_give_no_radius(tmp_path):
    write_run(tmp_path / "run", straight(240, 4.0) * 1e-5, cameras=("image_left",), cloud=None)
    with pytest.raises(UserError, match=r"span .* m"):
        create_dataset("frames", dataset_folder=tmp_path)
