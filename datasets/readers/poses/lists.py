"""Lists of images with camera poses: PoseNet's dataset_train.txt and dataset_test.txt (Kendall et al., ICCV 2015).

Three header lines, then ``path X Y Z W P Q R``: metres, then a quaternion, scalar first. Paths may hold blanks.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path
from distilplace.common.inputs.text_files import finite_numbers, read_text
from distilplace.common.inputs.text_tables import read_table
from distilplace.common.numbers import parse_number
from distilplace.datasets.readers.poses.quaternions import unit_quaternions

HEADER = ("Visual Landmark Dataset V1", "ImageFile, Camera Position [X Y Z W P Q R]", "")
COLUMNS = ("t1", "t2", "t3", "q1", "q2", "q3", "q4")


class PoseList(NamedTuple):
    """Images in the order of the file.

    ``names`` as written; ``poses`` float64 [n, 7] with unit quaternions; ``norms`` float64 [n], what the quaternions'
    norms were in the file; ``header``: the three header lines.
    """

    names: list[str]
    poses: np.ndarray
    norms: np.ndarray
    header: tuple[str, ...] = HEADER


def read_pose_list(path: Path) -> PoseList:
    """Read a list. Any blanks may stand between the fields and blank lines between the rows.

    Raises:
        UserError: with the file and the line: not a path and seven finite numbers, a zero quaternion, a pose row where
            the header should be; or no row at all.

    """
    lines = read_text(path, remedy="copy it again").split("\n")
    for number, line in enumerate(lines[: len(HEADER)], start=1):
        if _is_row(line):
            raise UserError(f"{path} line {number} is a pose, but a list begins with {len(HEADER)} header lines")
    rows = [
        _row(line, f"{path} line {number}")
        for number, line in enumerate(lines[len(HEADER) :], start=len(HEADER) + 1)
        if line.strip()
    ]
    if not rows:
        raise UserError(f"{path} holds no pose after its {len(HEADER)} header lines: copy it again")
    return _pose_list(rows, tuple(line.strip() for line in lines[: len(HEADER)]))


def read_scene_list(folder: Path, part: str) -> PoseList:
    """The list of a scene's ``part`` ("train", "test"): dataset_<part>.txt, else the one table <...>_<part>.csv.

    Raises:
        UserError: there is neither; else as :func:`read_pose_list` and :func:`read_pose_csv`.

    """
    listed, tables = folder / f"dataset_{part}.txt", sorted(folder.glob(f"*_{part}.csv"))
    return read_pose_csv(tables[0]) if len(tables) == 1 and not listed.is_file() else read_pose_list(listed)


def write_pose_list(path: Path, names: Sequence[str], poses: np.ndarray) -> None:
    """Write a list, whole or not at all; ``poses`` [n, 7] with nine decimals.

    Raises:
        UserError: a name that could not be read back (a line break, blanks at its ends, a number after a blank).

    """
    lines = list(HEADER)
    for name, pose in zip(names, np.asarray(poses, dtype=np.float64), strict=True):
        line = " ".join([name, *(f"{value:.9f}" for value in pose)])
        if "\n" in line or "\r" in line or _row(line, f"image {name!r}")[0] != name:
            raise UserError(f"image name {name!r} cannot stand in a pose list: rename the file")
        lines.append(line)
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_pose_csv(path: Path) -> PoseList:
    """A table of transposenet's layout: columns img_path, t1-t3 (metres), q1-q4 (scalar first), found by their names.

    Raises:
        UserError: with the file and the line: a column is absent, or a row as :func:`read_pose_list` refuses it.

    """
    table = read_table(path, ("img_path", *COLUMNS), "expected a table of camera poses")
    rows = [
        _checked(row["img_path"], [row[name] for name in COLUMNS], f"{path} line {line}") for line, row in table.rows
    ]
    if not rows:
        raise UserError(f"{path} holds no pose: copy it again")
    return _pose_list(rows, HEADER)


def _pose_list(rows: list[tuple[str, list[float]]], header: tuple[str, ...]) -> PoseList:
    poses = np.array([pose for _, pose in rows], dtype=np.float64)
    norms = np.array([math.hypot(*pose[3:]) for _, pose in rows], dtype=np.float64)
    poses[:, 3:] = unit_quaternions(poses[:, 3:])
    return PoseList([name for name, _ in rows], poses, norms, header)


def _is_row(line: str) -> bool:
    try:
        _row(line, "")
    except UserError:
        return False
    return True


def _row(line: str, where: str) -> tuple[str, list[float]]:
    fields = line.strip().rsplit(maxsplit=7)
    words = fields[0].split() if fields else []
    if len(fields) < 8 or (len(words) > 1 and parse_number(words[-1]) is not None):
        raise UserError(f"{where}: {len(line.split())} fields, expected a path and 7 numbers (X Y Z W P Q R)")
    return _checked(fields[0], fields[1:], where)


def _checked(name: str, words: Sequence[str], where: str) -> tuple[str, list[float]]:
    pose = finite_numbers(words, where, "a path and 7 finite numbers (X Y Z W P Q R) are expected, or no row")
    if not any(pose[3:]):
        raise UserError(f"{where}: the quaternion is zero, which is no rotation: leave the image out of the list")
    return name, pose
