"""Reading KITTI odometry as it lies on disk: poses, times, and the names of scans and images; nothing else is opened.

``D/poses/NN.txt``: a frame a line, 12 numbers: the 3 x 4 matrix from camera 0 at that frame to camera 0 at frame 0 (x
right, y down, z forward; metres). ``D/sequences/NN/times.txt`` (seconds), ``velodyne/%06d.bin``, ``image_2/%06d.png``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.common.inputs.text_files import finite_numbers, read_text

SEQUENCES = tuple(f"{number:02d}" for number in range(11))  # those with published poses
DET_TOLERANCE = 1e-2
IMAGE_SUFFIXES = (".png", ".jpg")
SCAN_COLUMNS = 4  # float32 x, y, z, reflectance


@dataclass(frozen=True)
class KittiSequence:
    """One sequence of n frames.

    ``poses`` float64 [n, 3, 4], ``times`` float64 [n] in seconds; ``images`` and ``clouds``: a path a frame, or empty
    where the folder is absent.
    """

    name: str
    poses: np.ndarray
    times: np.ndarray
    images: tuple[Path, ...]
    clouds: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.poses)

    def positions(self) -> np.ndarray:
        """Float64 [n, 2]: (z, x) of camera 0, metres: what lies ahead and to the right at frame 0."""
        return self.poses[:, [2, 0], 3]

    def identity_first(self) -> bool:
        """Is the first pose exactly the identity? KITTI's own is that up to rounding only; SLAM estimates' is."""
        return bool(np.array_equal(self.poses[0], np.eye(3, 4)))


def odometry_root(folder: Path) -> Path:
    """The folder that holds ``sequences``: ``folder`` itself or ``folder``/dataset, as the archives unpack."""
    for root in (folder, folder / "dataset"):
        if (root / "sequences").is_dir():
            return root
    raise UserError(f"{folder} holds no sequences/ folder: set {flag_of(folder)} to KITTI odometry's dataset folder")


def present_sequences(root: Path) -> list[str]:
    """Which of 00..10 have a folder and poses."""
    return [name for name in SEQUENCES if (root / "sequences" / name).is_dir() and poses_file(root, name).is_file()]


def first_images(root: Path, names: Iterable[str]) -> list[Path]:
    """The first image of each of the sequences that have one."""
    firsts = [root / "sequences" / name / "image_2" / f"000000{end}" for name in names for end in IMAGE_SUFFIXES]
    return [path for path in firsts if path.is_file()]


def poses_file(root: Path, name: str) -> Path:
    """Where the poses of a sequence lie."""
    return root / "poses" / f"{name}.txt"


def read_sequence(root: Path, name: str, columns: int = SCAN_COLUMNS) -> KittiSequence:
    """One sequence, checked: as many times, scans and images as poses, scans of whole points of ``columns`` float32.

    Raises:
        UserError: in one line, with the file: whatever does not fit.

    """
    folder = root / "sequences" / name
    if not folder.is_dir():
        raise UserError(f"KITTI sequence {folder} does not exist: check --kitti_sequence and {flag_of(folder)}")
    poses = read_poses(poses_file(root, name))
    times = read_times(folder / "times.txt")
    if len(times) != len(poses):
        raise UserError(f"{folder / 'times.txt'} has {len(times)} rows, {poses_file(root, name)} {len(poses)}")
    images = _frame_files(folder / "image_2", IMAGE_SUFFIXES, len(poses))
    clouds = _frame_files(folder / "velodyne", (".bin",), len(poses))
    for path in clouds:
        size = path.stat().st_size
        if size == 0 or size % (4 * columns):
            raise UserError(
                f"cloud file {path}: {size} bytes are no whole number of points ({4 * columns} bytes each): copy it "
                "again, or set --bin_columns"
            )
    return KittiSequence(name, poses, times, images, clouds)


def read_poses(path: Path) -> np.ndarray:
    """Float64 [n, 3, 4]; :class:`UserError` naming the line that has not 12 finite numbers or is no rotation."""
    values = _table(path, 12)
    poses = values.reshape(-1, 3, 4)
    wrong = np.flatnonzero(~(np.abs(np.linalg.det(poses[:, :, :3]) - 1.0) <= DET_TOLERANCE))
    if len(wrong):
        found = float(np.linalg.det(poses[wrong[0], :, :3]))
        raise UserError(
            f"{path} line {wrong[0] + 1}: the rotation's determinant is {found:.3f}, not 1: not a row-major 3 x 4 pose"
        )
    return poses


def read_times(path: Path) -> np.ndarray:
    """Float64 [n], seconds; :class:`UserError` naming the first line where time runs backwards."""
    times = _table(path, 1)[:, 0]
    back = np.flatnonzero(np.diff(times) < 0)
    if len(back):
        line = int(back[0]) + 2
        raise UserError(f"{path} line {line}: {times[line - 1]:g} s comes after {times[line - 2]:g} s: sort the frames")
    return times


def _table(path: Path, columns: int) -> np.ndarray:
    """Float64 [n, columns] of a text file of numbers between blanks; blank lines at its end are allowed."""
    lines = read_text(path).rstrip().split("\n")
    if lines == [""]:
        raise UserError(f"{path} is empty: copy it again")
    rows = [line.split() for line in lines]
    for number, words in enumerate(rows, start=1):
        if len(words) != columns:
            raise UserError(f"{path} line {number}: {len(words)} numbers, expected {columns}")
    return np.array([finite_numbers(words, f"{path} line {number}") for number, words in enumerate(rows, start=1)])


def _frame_files(folder: Path, suffixes: tuple[str, ...], count: int) -> tuple[Path, ...]:
    """The files 000000, 000001, ... of ``count`` frames; empty when the folder is absent."""
    if not folder.is_dir():
        return ()
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes}
    files = {stem: path for stem, path in files.items() if not stem.startswith(".")}
    if len(files) != count:
        raise UserError(f"{folder} holds {len(files)} files ({', '.join(suffixes)}) for {count} poses: complete it")
    for frame in range(count):
        if f"{frame:06d}" not in files:
            raise UserError(f"{folder} has no file {frame:06d}{suffixes[0]}: complete it")
    return tuple(files[f"{frame:06d}"] for frame in range(count))
