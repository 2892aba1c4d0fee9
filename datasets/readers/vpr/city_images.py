"""Street images of one city (Pittsburgh, Tokyo): a split from a dbStruct file, or from a folder of ``@``-names.

Where the struct file lies (D, D/datasets, D/raw) and which folders hold the images differs between code bases; the
first pair of folders that has the first database and the first query image is taken. A .mat may say .jpg where the
file is .png: both are tried, once per top-level folder, which also finds parts of a download that are missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.common.inputs.image_files import find_images
from distilplace.datasets.image_sets import RUNS, record
from distilplace.datasets.io.utm_names import parse_utm
from distilplace.datasets.readers.vpr.dbstruct import DbStruct, read_dbstruct
from distilplace.datasets.records import PlaceRecord

STRUCT_FOLDERS = (".", "datasets", "raw")
OTHER_SUFFIX = {".jpg": ".png", ".png": ".jpg"}


class Layout(NamedTuple):
    """How a set's files are named: the struct file of a split, and pairs of (database, query) image folders."""

    struct: str
    folders: Sequence[tuple[str, str]]
    at_names: bool = True
    """May the split be a folder of ``@``-names instead?"""

    def struct_file(self, folder: Path, split: str) -> Path | None:
        """The split's struct file below ``folder``, or None."""
        candidates = (folder / below / self.struct.format(split) for below in STRUCT_FOLDERS)
        return next((path for path in candidates if path.is_file()), None)

    def has(self, folder: Path, split: str) -> bool:
        """Is the split there, in one form or the other?"""
        return self.struct_file(folder, split) is not None or (self.at_names and _at_folder(folder, split).is_dir())


@dataclass(frozen=True)
class CitySplit:
    """Database and query images of one split; ``source`` is the file or folder that lists them.

    ``struct`` is what the file says; None for ``@``-names, which have ``pano_ids``, one per database image, and perhaps
    ``notes`` on files that were left out.
    """

    source: Path
    database: list[PlaceRecord]
    queries: list[PlaceRecord]
    struct: DbStruct | None = None
    pano_ids: list[str] | None = None
    notes: tuple[str, ...] = ()


def read_split(folder: Path, split: str, layout: Layout) -> CitySplit:
    """One split below ``folder``; a struct file is preferred to a folder of ``@``-names.

    Raises:
        UserError: neither is there, the struct is malformed, or images are missing.

    """
    path = layout.struct_file(folder, split)
    if path is not None:
        return _from_struct(folder, path, layout)
    if layout.at_names and _at_folder(folder, split).is_dir():
        return _from_names(folder, split)
    other = f", nor images/{split}/database and queries" if layout.at_names else ""
    raise UserError(
        f"data set folder {folder}: no {layout.struct.format(split)} in it, in its datasets/ or in its raw/{other}: "
        f"check {flag_of(folder)}"
    )


def _at_folder(folder: Path, split: str) -> Path:
    return folder / "images" / split / "database"


def _from_struct(folder: Path, path: Path, layout: Layout) -> CitySplit:
    struct = read_dbstruct(path)
    if struct.frame_numbers or not struct.database or not struct.queries:
        raise UserError(f"{path}: expected database and query images with (east, north) positions in metres")
    roots = _image_folders(folder, path, struct, layout.folders)
    names, places = (struct.database, struct.queries), (struct.database_positions, struct.query_positions)
    database, queries = (
        [
            record(run, file, _relative(name, path), northing=north, easting=east)
            for file, name, (east, north) in zip(_image_paths(root, listed, path), listed, where.tolist(), strict=True)
        ]
        for run, root, listed, where in zip(RUNS, roots, names, places, strict=True)
    )
    return CitySplit(path, database, queries, struct)


def _from_names(folder: Path, split: str) -> CitySplit:
    sides: list[list[PlaceRecord]] = []
    pano_ids: list[str] = []
    notes: list[str] = []
    for run in RUNS:
        root = folder / "images" / split / run
        listed = find_images(root)
        notes += [f"{split}/{note}" for note in listed.notes]
        found = [(path, parse_utm(path, root)) for path in listed.files]
        # Two splits may use one name for different images: the split belongs to the key.
        sides.append(
            [
                record(run, path, f"{split}/{path.relative_to(root)}", northing=said.northing, easting=said.easting)
                for path, said in found
            ]
        )
        pano_ids = pano_ids or [said.pano_id for _, said in found]
    return CitySplit(folder / "images" / split, sides[0], sides[1], None, pano_ids, tuple(notes))


def _relative(name: str, source: Path) -> str:
    """A listed name as a clean relative path: './' removed; one that leads elsewhere is refused."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{source}: image '{name}' does not lie below the image folder: names must be relative")
    return str(path)


def _existing(path: Path) -> Path | None:
    """``path``, or its .jpg or .png twin, whichever is a file."""
    other = path.with_suffix(OTHER_SUFFIX.get(path.suffix, path.suffix))
    return next((file for file in (path, other) if file.is_file()), None)


def _image_folders(
    folder: Path, source: Path, struct: DbStruct, candidates: Sequence[tuple[str, str]]
) -> tuple[Path, Path]:
    first = _relative(struct.database[0], source), _relative(struct.queries[0], source)
    for below in candidates:
        roots = folder / below[0], folder / below[1]
        if all(_existing(root / name) for root, name in zip(roots, first, strict=True)):
            return roots
    tried = [", ".join(dict.fromkeys(f"{pair[side]}/" for pair in candidates)) for side in (0, 1)]
    raise UserError(
        f"no images of {source.name} below {folder}: looked for database image {first[0]} in {tried[0]} and for query "
        f"image {first[1]} in {tried[1]}; check {flag_of(folder)}"
    )


def _image_paths(root: Path, names: list[str], source: Path) -> list[Path]:
    suffixes: dict[str, str] = {}
    missing: list[str] = []
    paths: list[Path] = []
    for name in names:
        path = root / _relative(name, source)
        part = name.removeprefix("./").partition("/")[0] if "/" in name.removeprefix("./") else ""
        if part not in suffixes:
            file = _existing(path)
            if file is None:
                missing.append(name)
            suffixes[part] = (file or path).suffix
        paths.append(path if path.suffix == suffixes[part] else path.with_suffix(suffixes[part]))
    if missing:
        raise UserError(
            f"{len(missing)} of {len(suffixes)} image folders below {root} lack the first image that {source.name} "
            f"lists of them, such as {missing[0]}: is a part of the download missing?"
        )
    return paths
