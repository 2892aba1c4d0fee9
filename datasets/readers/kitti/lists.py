"""MinkLoc3D-SI's published KITTI lists: two pickles, read by the restricted reader (protocol C)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.image_sets import Truth
from distilplace.datasets.io.pickles import load_pickle


@dataclass(frozen=True)
class PublishedLists:
    """Frame numbers of the database and the queries, and the sorted database indices right for each query."""

    database: list[int]
    queries: list[int]
    truth: Truth


def published_lists(root: Path, sequence: str, frames: int) -> PublishedLists:
    """``KITTI_NN_database*.pickle`` and ``KITTI_NN_query*.pickle`` in ``root``; the sequence has ``frames`` frames.

    Each is a list of one dict: number -> {``query_velo``: sequences/NN/velodyne/000000.bin}; a query's key 0 holds its
    database indices, in any order. Unlike elsewhere queries 0 search database 0: they are runs of their own here.

    Raises:
        UserError: not exactly one file of a kind, or another content; with the file and the entry.

    """
    paths = _only(root, f"KITTI_{sequence}_database*.pickle"), _only(root, f"KITTI_{sequence}_query*.pickle")
    sides = [_entries(path) for path in paths]
    numbers = [
        [_frame(entry, sequence, frames, f"{path}: entry {number}") for number, entry in enumerate(side)]
        for path, side in zip(paths, sides, strict=True)
    ]
    truth = [_matches(entry, len(numbers[0]), f"{paths[1]}: entry {number}") for number, entry in enumerate(sides[1])]
    return PublishedLists(numbers[0], numbers[1], truth)


def _only(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        raise UserError(f"{root} holds {len(found)} files {pattern}: put one there, from MinkLoc3D-SI's eval/")
    return found[0]


def _entries(path: Path) -> list[dict[Any, Any]]:
    content = load_pickle(path)
    if not (isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict) and content[0]):
        raise UserError(f"{path}: expected a list of one dict of places")
    places = content[0]
    if sorted(key for key in places if isinstance(key, int)) != list(range(len(places))):
        raise UserError(f"{path}: places must be numbered 0..{len(places) - 1}")
    entries = [places[number] for number in range(len(places))]
    if not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: every place must be a dict with query_velo")
    return entries


def _frame(entry: dict[Any, Any], sequence: str, frames: int, where: str) -> int:
    name = str(entry.get("query_velo"))
    found = re.fullmatch(rf"sequences/{re.escape(sequence)}/velodyne/([0-9]{{6}})\.bin", name)
    if found is None:
        raise UserError(f"{where}: query_velo is {name!r}, expected sequences/{sequence}/velodyne/000000.bin")
    if int(found[1]) >= frames:
        raise UserError(f"{where}: frame {found[1]}, but the sequence has {frames} frames")
    return int(found[1])


def _matches(entry: dict[Any, Any], count: int, where: str) -> np.ndarray:
    row = entry.get(0)
    if not isinstance(row, list | np.ndarray) or not all(
        isinstance(i, int | np.integer) and 0 <= i < count for i in row
    ):
        raise UserError(f"{where}: key 0 must list database indices 0..{count - 1}")
    return np.array(sorted({int(index) for index in row}), dtype=np.int64)
