"""Pictures that lie in one's folders twice, by links: a query whose own picture is in the map finds nothing else.

Only one's own sets are looked at; published ones keep their protocol.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.datasets.records import EvaluationSet, PlaceRecord

Identity = tuple[int, int]
"""Device and inode: equal for two paths of one file."""


def refuse_shared(test: EvaluationSet) -> None:
    """:class:`UserError` where a query and a database image of another run are one file."""
    known = identities(path for record in test.distinct_records() for path in record.images)
    shared: list[tuple[PlaceRecord, PlaceRecord]] = []
    for run, queries in enumerate(test.queries):
        others = [record for number, side in enumerate(test.database) if number != run for record in side]
        shared += _pairs(others, queries, known)
    if shared:
        one, other = shared[0]
        count = len({frozenset((one.key, other.key)) for one, other in shared})  # runs query each other
        more = f" (and {count - 1} more pairs)" if count > 1 else ""
        raise UserError(
            f"database image {one.key} and query {other.key} are one file, {os.path.realpath(other.images[0])}{more}: "
            "every such query finds itself; put pictures of its own in the place of the link"
        )


def shared_note(training: Sequence[PlaceRecord], test: EvaluationSet) -> list[str]:
    """A line for the log where images that train and images that test are one file; none where there is none."""
    tested = test.distinct_records()
    shared = _pairs(training, tested, identities(path for record in [*training, *tested] for path in record.images))
    if not shared:
        return []
    one, other = shared[0]
    return [f"{len(shared)} tested images train too, by links: {other.key} and {one.key} are one file"]


def identities(paths: Iterable[Path]) -> dict[str, Identity]:
    """Which file each path leads to, by the path's text, from one look into each folder; absent ones are left out.

    Folders tell the inodes of their files: regular files are not looked at one by one, which takes long over a network.
    """
    wanted: dict[str, set[str]] = {}
    for path in paths:
        folder, name = os.path.split(path)
        wanted.setdefault(folder, set()).add(name)
    found: dict[str, Identity] = {}
    for folder, names in wanted.items():
        with suppress(OSError), os.scandir(folder or ".") as entries:  # what cannot be read is said where it is opened
            device = os.stat(folder or ".").st_dev
            for entry in entries:
                if entry.name in names:
                    with suppress(OSError):
                        found[os.path.join(folder, entry.name)] = _identity(entry, device)
    return found


def _identity(entry: os.DirEntry[str], device: int) -> Identity:
    if not entry.is_symlink():
        return device, entry.inode()
    status = entry.stat()
    return status.st_dev, status.st_ino


def _pairs(
    database: Iterable[PlaceRecord], queries: Iterable[PlaceRecord], known: dict[str, Identity]
) -> list[tuple[PlaceRecord, PlaceRecord]]:
    """Records of either side that share a file, the first database record for each query."""
    owners: dict[Identity, tuple[PlaceRecord, Path]] = {}
    for record in database:
        for path in record.images:
            if (identity := known.get(str(path))) is not None:
                owners.setdefault(identity, (record, path))
    pairs = []
    for query in queries:
        for path in query.images:
            owner, other = owners.get(known.get(str(path), (-1, -1)), (query, path))
            # Compared once more: layered file systems may list one inode for two of them.
            if owner.key != query.key and os.path.samefile(path, other):
                pairs.append((owner, query))
                break
    return pairs
