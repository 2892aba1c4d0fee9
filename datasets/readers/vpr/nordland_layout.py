"""Where the files of the Nordland variants lie."""

from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.datasets.io.npy_lists import read_name_array
from distilplace.datasets.readers.frames.image_folder import FOLDERS, Listed


def season_folder(folder: Path, season: str) -> Path:
    """``folder``/``season``, in any case of letters; :class:`UserError` listing the folders there are."""
    children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    for child in children:
        if child.name.lower() == season.lower():
            return child
    there = ", ".join(child.name for child in children) or "none"
    raise UserError(f"no season folder {season} in {folder} (folders: {there}): set --nordland_database or _query")


def found_file(folder: Path, places: tuple[str, ...]) -> Path:
    """The first of ``places`` that is a file; :class:`UserError` naming them all."""
    for place in places:
        if (folder / place).is_file():
            return folder / place
    raise UserError(f"{folder} holds no {' and no '.join(places)}: copy Patch-NetVLAD's list there")


def reseasoned(name: str, usual: str, season: str) -> str:
    """An image name of a list with the folder of the ``usual`` season replaced by that of ``season``."""
    parts = name.split("/")
    return "/".join([*(season if part == usual else part for part in parts[:-1]), parts[-1]])


def pictures(folder: Path, name: str) -> Path:
    """The folder that the names of a list start from: ``folder``, or the one above it when the file lies there."""
    for home in (folder, folder.parent):
        if (home / name).is_file():
            return home
    return folder


def vprbench_lists(folder: Path) -> tuple[Listed, Path]:
    """Images in the truth's order, and the truth file.

    By GSV-Cities' lists (Nordland_dbImages.npy, Nordland_qImages.npy, Nordland_gt.npy) where they lie in ``folder``,
    else by the names in ref/ and query/ (or database/ and queries/), with ground_truth_new.npy.
    """
    lists = folder / "Nordland_dbImages.npy", folder / "Nordland_qImages.npy"
    if all(path.is_file() for path in lists):
        names = [read_name_array(path) for path in lists]
        return Listed((folder, folder), names[0], names[1], None), folder / "Nordland_gt.npy"
    layout = ("ref", "query") if (folder / "ref").is_dir() else FOLDERS
    return Listed.read(folder, layout), folder / "ground_truth_new.npy"
