"""The town itself: its plan, its camera, its scanner, its seasons."""

import itertools

import numpy as np
import pytest

from distilplace.demoworld import camera, conditions, lidar, textures, traversal
from distilplace.demoworld.layout import NODES, inset, make_layout
from distilplace.demoworld.mesh import Material, MeshBuilder
from distilplace.demoworld.town import Town, make_town
from distilplace.demoworld.traversal import Traversal, traversal_mesh


@pytest.fixture(scope="module")
def town() -> Town:
    return make_town(1)


def test_full_size_places_meet_in_every_traversal_and_guessing_is_poor(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions alone, as generate() would place them; the scenes are not built."""
    monkeypatch.setattr(traversal, "traversal_mesh", lambda *_: None)
    monkeypatch.setattr(traversal, "Scene", lambda _: None)
    runs = []
    for name, base in conditions.TRAINING + conditions.TEST:
        drive = Traversal(town, name, base, 60, images=1)
        starts = np.array([drive.start_of(i) for i in range(60)])
        runs.append(drive.vehicle(starts + lidar.SUBMAP_LENGTH / 2)[0])
    assert 0 < len(conditions.TRAINING) * 60 <= 300
    chances = []
    for a, b in itertools.permutations(runs, 2):
        apart = np.linalg.norm(a[:, None] - b[None], axis=2)
        assert apart.min(1).max() <= 10
        chances.append((apart <= 25).mean())
    assert np.mean(chances) < 0.08


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_layout_is_a_closed_lane_clear_of_the_pavements(seed: int) -> None:
    layout = make_layout(seed)
    assert 600 < layout.route.length < 800
    steps = np.linalg.norm(np.roll(layout.route.points, -1, 0) - layout.route.points, axis=1)
    assert steps.max() < 0.4
    turn = np.angle(np.exp(1j * np.diff(layout.route.headings)))
    assert np.abs(turn).max() < 0.2
    for block in layout.blocks:
        ahead = np.roll(block.kerb, -1, 0) - block.kerb
        offset = layout.route.points[:, None] - block.kerb[None]
        inside = (ahead[None, :, 0] * offset[..., 1] - ahead[None, :, 1] * offset[..., 0] > 0).all(1)
        assert not inside.any()
    assert len(layout.crossings) == NODES**2


def test_inset_moves_each_edge_by_its_own_distance() -> None:
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    assert np.allclose(inset(square, np.array([1.0, 2, 3, 4])), [[4, 1], [8, 1], [8, 7], [4, 7]])


def test_camera_rays_hit_what_stands_in_front() -> None:
    builder = MeshBuilder()
    builder.box((10, 3, 1.65), (0.5, 0.5, 0.5), 0.0, Material.PLAIN, (0.9, 0.05, 0.05))
    builder.polygon([(-200, -200, 0), (200, -200, 0), (200, 200, 0), (-200, 200, 0)], Material.PLAIN, (0.2, 0.2, 0.2))
    scene = camera.Scene(builder.build())
    lens = camera.Camera(scene, conditions.TRAINING[0][1], np.zeros((0, 3), np.float32))
    pose = camera.CameraPose(np.array([0, 0, 1.65], np.float32), 0.0, 0.0, 0.0)
    frame = lens.frame(pose, np.random.default_rng(0)).astype(float)
    redness = frame[..., 0] - frame[..., 1:].max(2)
    row, column = np.unravel_index(redness.argmax(), redness.shape)
    half = np.tan(np.radians(camera.FIELD_OF_VIEW / 2))
    expected = (1 - 3 / 9.5 / half) / 2 * camera.WIDTH  # y = +3 is left of a camera that looks along +x
    assert abs(column - expected) < 6
    assert abs(row - camera.HEIGHT / 2) < 6
    distance, _, normal = scene.cast(np.array([0.0, 3.0, 1.65]), np.array([[1.0, 0, 0]], np.float32))
    assert distance[0] == pytest.approx(9.5, abs=1e-4)
    assert np.allclose(normal[0], [-1, 0, 0], atol=1e-5)


def test_submap_frame_is_oxfords_and_normalisation_follows_the_specification() -> None:
    ahead_left_up = np.array([[0.0, 5.0, 2.9]])  # vehicle at the origin, heading north: 5 m ahead, 1 m above the sensor
    assert np.allclose(lidar.to_start_frame(ahead_left_up, np.zeros(2), np.pi / 2), [[5, 0, -1]])
    east = np.array([[5.0, 0.0, 1.9]])
    assert np.allclose(lidar.to_start_frame(east, np.zeros(2), np.pi / 2), [[0, 5, 0]])

    random = np.random.default_rng(1)
    cube = random.uniform(-3, 3, (4096, 3)) + 40  # nothing of a cube is farther than twice its mean distance
    centred = cube - cube.mean(0)
    scale = 0.5 / np.sqrt((centred**2).sum(1)).mean()
    assert np.allclose(lidar.normalised(cube, cube, random), -centred * scale)

    far = cube.copy()
    far[:40] += 30
    points = lidar.normalised(far, far, random)
    centred = far - far.mean(0)
    expected = -centred * (0.5 / np.sqrt((centred**2).sum(1)).mean())
    kept = expected[(np.abs(expected) <= 1).all(1)]
    assert points.shape == (4096, 3)
    assert len(kept) == 4056
    assert np.allclose(points[:4056], kept)
    assert all(np.isclose(kept, row).all(1).any() for row in points[4056:])


def test_moved_cars_and_season_change_the_scene(town: Town) -> None:
    (first, summer), (second, _) = conditions.TRAINING[0], conditions.TRAINING[1]
    bare = next(base for _, base in conditions.TRAINING if base.season == "winter")
    paint = [
        {tuple(v) for v in mesh.vertices[mesh.material == Material.PAINT].mean(1).round(2).tolist()}
        for mesh in (traversal_mesh(town, first, summer), traversal_mesh(town, second, summer))
    ]
    same = len(paint[0] & paint[1]) / min(map(len, paint))
    assert 0.1 < same < 0.9  # some stay, some are gone
    leaves = [(traversal_mesh(town, first, c).material == Material.LEAF).sum() for c in (summer, bare)]
    assert leaves[1] < 0.5 * leaves[0]


def test_noise_belongs_to_a_place() -> None:
    cells = np.arange(2000)
    values = textures.cell_hash(cells, cells[::-1], 3)
    assert np.array_equal(values, textures.cell_hash(cells, cells[::-1], 3))
    assert 0.45 < values.mean() < 0.55
    u, v = np.random.default_rng(0).uniform(0, 50, (2, 2000))
    smooth = textures.fractal_smooth(u, v, 2.0)
    assert 0 <= smooth.min() < smooth.max() <= 1
    assert np.abs(smooth - textures.fractal_smooth(u + 1e-3, v, 2.0)).max() < 0.01
