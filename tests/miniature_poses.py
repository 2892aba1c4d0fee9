"""Writes miniature scenes of posed images: a ring of cameras that look at its middle. Equal arguments, equal bytes."""

from pathlib import Path

import numpy as np

from distilplace.datasets.readers.poses.lists import HEADER
from distilplace.datasets.readers.poses.quaternions import quaternions_from_matrices
from tests.miniature_images import write_picture

SIZE = (96, 54)  # width, height
RADIUS = 5.0
TRAIN = {"seq1": 7, "seq3": 5}
TEST = {"seq2": 6}


def ring_pose(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Centre [3] of a camera on the ring and its world-to-camera rotation [3, 3]; the world's z is up.

    In the camera x is right, y down, z ahead; it looks 0.2 rad down, so that no two conventions agree by chance.
    """
    centre = np.array([RADIUS * np.cos(angle), RADIUS * np.sin(angle), 1.5])
    ahead = np.array([-np.cos(angle) * np.cos(0.2), -np.sin(angle) * np.cos(0.2), -np.sin(0.2)])
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return centre, np.stack([right, np.cross(ahead, right), ahead])


def ring_angles(sequences: dict[str, int], start: float = 0.0) -> dict[str, list[float]]:
    """Per sequence the angles of its frames, all round the ring."""
    return {name: [start + 2 * np.pi * k / count for k in range(count)] for name, count in sequences.items()}


def ring_rows(sequences: dict[str, int], start: float = 0.0) -> list[tuple[str, np.ndarray]]:
    """Per frame ``seqN/frame0000k.png`` and its pose [7] as Cambridge writes it."""
    rows = []
    for name, angles in ring_angles(sequences, start).items():
        for number, angle in enumerate(angles, start=1):
            centre, rotation = ring_pose(angle)
            rows.append(
                (f"{name}/frame{number:05d}.png", np.concatenate([centre, quaternions_from_matrices(rotation)]))
            )
    return rows


def list_text(rows: list[tuple[str, np.ndarray]]) -> str:
    """A pose list, with six decimals as the published ones."""
    lines = [*HEADER, *(" ".join([name, *(f"{value:.6f}" for value in pose)]) for name, pose in rows)]
    return "\n".join(lines) + "\n"


def write_cambridge(
    folder: Path, *, train: dict[str, int] = TRAIN, test: dict[str, int] = TEST, size: tuple[int, int] = SIZE
) -> Path:
    """12 training and 6 test images with their lists; ``folder`` is the scene."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, sequences, start in (("train", train, 0.0), ("test", test, 0.3)):
        rows = ring_rows(sequences, start)
        for name, _ in rows:
            write_picture(folder / name, hash_of(name), size=size)
        (folder / f"dataset_{part}.txt").write_text(list_text(rows))
    return folder


def hash_of(name: str) -> int:
    """A number of a name, the same in every process."""
    return int.from_bytes(name.encode()[-12:], "little") % 100003


def odd_text(matrix: np.ndarray) -> str:
    """A matrix [4, 4] as 7-Scenes writes it: blanks and tabs mixed, exponents of three digits."""
    rows = []
    for row in matrix:
        words = []
        for value in row:
            mantissa, exponent = f"{value:.7e}".split("e")
            words.append(f"{mantissa}e{exponent[0]}{int(exponent[1:]):03d}")
        rows.append(" " + "\t ".join(words) + "\t")
    return "\n".join(rows) + "\n"


def write_seven_scenes(
    folder: Path,
    *,
    train: dict[int, int] | None = None,
    test: dict[int, int] | None = None,
    size: tuple[int, int] = (64, 48),
) -> Path:
    """Training sequences 1 (8 frames) and 3 (4), test sequence 2 (6); camera-to-world matrices, world's y down."""
    swap = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # z up -> y down
    parts = (("TrainSplit.txt", train or {1: 8, 3: 4}, 0.0), ("TestSplit.txt", test or {2: 6}, 0.3))
    for split, sequences, start in parts:
        for number, count in sequences.items():
            home = folder / f"seq-{number:02d}"
            home.mkdir(parents=True)
            for frame in range(count):
                centre, rotation = ring_pose(start + 0.1 * number + 2 * np.pi * frame / count)
                matrix = np.eye(4)
                matrix[:3, :3], matrix[:3, 3] = swap @ rotation.T, swap @ centre
                write_picture(home / f"frame-{frame:06d}.color.png", 100 * number + frame, size=size)
                (home / f"frame-{frame:06d}.pose.txt").write_text(odd_text(matrix))
        (folder / split).write_text("".join(f"sequence{number}\r\n" for number in sequences))
    return folder
