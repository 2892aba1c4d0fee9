"""The text files of SVD's ``metadata-release`` and whiten_mtd's frame counts.

Videos go by their ids, without ``.mp4``.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.common.inputs.text_files import read_lines
from distilplace.common.numbers import parse_whole

HOMES = ("metadata-release", "metadata", ".")
COUNT_FILES = ("num_frames", "frame_count", "frame_counts")
COUNT_HOMES = (".", "frames", "metadata-release", "metadata")
VIDEO = re.compile(r"([\w-]+)(?:\.mp4)?", re.ASCII)
LABELS = {"0": 0, "1": 1}

Truth = dict[str, dict[str, int]]
"""Query video -> candidate video -> 1 near-duplicate, 0 not; both in the order of the file."""


def list_file(folder: Path, name: str) -> Path | None:
    """The list ``name`` (with or without ``.txt``) in ``folder``/metadata-release or ``folder``; None: absent."""
    return _first_file(folder, HOMES, (name,))


def required_list(folder: Path, name: str) -> Path:
    """:func:`list_file`, or a :class:`UserError`."""
    found = list_file(folder, name)
    if found is None:
        raise UserError(f"no list {name} in {folder / HOMES[0]} or {folder}: unpack SVD's metadata-release there")
    return found


def count_file(folder: Path) -> Path | None:
    """The file of frame counts under ``folder``, called ``num_frames`` by whiten_mtd; None: absent."""
    return _first_file(folder, COUNT_HOMES, COUNT_FILES)


def _first_file(folder: Path, homes: tuple[str, ...], names: tuple[str, ...]) -> Path | None:
    places = (folder / home / f"{name}{suffix}" for home in homes for name in names for suffix in ("", ".txt"))
    return next((place for place in places if place.is_file()), None)


def read_video_ids(path: Path) -> list[str]:
    """Ids of a list with one ``<id>.mp4`` a line, each once; :class:`UserError` naming the line that is none."""
    return list(dict.fromkeys(_video(parts[0], where) for parts, where in _lines(path, 1)))


def read_ground_truth(path: Path) -> Truth:
    """Lines ``query.mp4 candidate.mp4 0|1``.

    Raises:
        UserError: a line of another form, a query as its own candidate, a pair with both labels; with file and line.

    """
    truth: Truth = {}
    for (query_name, candidate_name, label), where in _lines(path, 3):
        query, candidate = _video(query_name, where), _video(candidate_name, where)
        if label not in LABELS:
            raise UserError(f"{where}: the label must be 0 or 1, not '{label[:20]}'")
        if query == candidate:
            raise UserError(f"{where}: video {query} is paired with itself")
        if truth.setdefault(query, {}).setdefault(candidate, LABELS[label]) != LABELS[label]:
            raise UserError(f"{where}: the pair {query} {candidate} has the other label in an earlier line")
    return truth


def read_frame_counts(path: Path) -> dict[str, int]:
    """Lines ``id n``: how many frames each video has; :class:`UserError` naming the line that is none."""
    counts: dict[str, int] = {}
    for (name, count), where in _lines(path, 2):
        number = parse_whole(count)
        if number is None or number < 0:
            raise UserError(f"{where}: '{count[:20]}' is no number of frames")
        counts[_video(name, where)] = number
    return counts


def _lines(path: Path, fields: int) -> Iterator[tuple[list[str], str]]:
    """The fields of each line that is not blank, and where it stands; at least one line."""
    for number, line in read_lines(path):
        parts = line.split()
        if len(parts) != fields:
            raise UserError(f"{path}, line {number}: expected {fields} field(s), found {len(parts)}")
        yield parts, f"{path}, line {number}"


def _video(name: str, where: str) -> str:
    found = VIDEO.fullmatch(name)
    if found is None:
        raise UserError(f"{where}: '{name[:40]}' is no video name: expected <id>.mp4")
    return found[1]
