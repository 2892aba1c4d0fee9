"""Where runs are cut into stretches for training and for testing."""

from distilplace.datasets.readers.frames.sections import cut_runs, distance_to, travelled
from tests.miniature_frames import straight


def test_the_stretch_slides_to_where_a_second_run_passes():
    """b covers only the first half of a's street: the shared test section must lie there, not in a's last third."""
    a, b = straight(400, 4.0), straight(200, 4.0, northing=1.5)
    cut = cut_runs(["a", "b"], [a, b], negative_radius=20.0, eval_radius=12.0)
    assert all(section.traversal and section.test.any() for section in cut)
    assert a[cut[0].test, 1].min() < 200
    assert cut[0].training.sum() > 20
    assert (distance_to(a[cut[0].training], b[cut[1].test]) > 20.0).all()


def test_streets_that_merely_cross_are_cut_singly():
    a = straight(300, 4.0)
    b = straight(300, 4.0)[:, ::-1] + (-150.0, 150.0)
    cut = cut_runs(["a", "b"], [a, b], negative_radius=20.0, eval_radius=12.0)
    assert not any(section.traversal for section in cut)
    for mine, section in zip((a, b), cut, strict=True):
        assert (travelled(mine)[section.test] > 0.65 * travelled(mine)[-1]).all()
        for theirs, other in zip((a, b), cut, strict=True):
            assert (distance_to(mine[section.training], theirs[other.test]) > 20.0).all()
