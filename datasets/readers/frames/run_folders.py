"""Which folders are runs of ``frames``, and which look like it and are left out: that decides what is tested."""

import os
from collections.abc import Sequence
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.common.inputs.image_files import entries_of, require_text_path, shown

POSES = "poses.csv"
CLOUD = "cloud"


def find_runs(folder: Path, notes: list[str]) -> list[Path]:
    """The folders below ``folder`` with a poses.csv, sorted by name, or ``folder`` alone when it has one itself.

    Lines on folders that look like runs and have none are added to ``notes``. Links stay.

    Raises:
        UserError: no run, a poses.csv that is a link to nothing, two links to one folder.

    """
    folder = Path(os.path.abspath(folder))  # "." has no name
    if _has_poses(folder):
        return [folder]
    runs: list[Path] = []
    left_out: list[str] = []
    children = [entry for entry in entries_of(folder) if not entry.name.startswith(".")]
    for entry in children:
        if entry.is_symlink() and not os.path.exists(entry.path):
            left_out.append(f"{shown(entry.name)} is left out: it is a link that leads nowhere")
        elif entry.is_dir() and _has_poses(Path(entry.path)):
            runs.append(Path(entry.path))
        elif entry.is_dir():
            left_out += _resemblance(Path(entry.path))
    if not runs:
        hints = _resemblance(folder) or left_out
        raise UserError(
            f"no run in {folder}: neither it nor one of its {sum(entry.is_dir() for entry in children)} folders has a "
            f"{POSES}: set {flag_of(folder)} to a run's folder or to the folder of the runs"
            f"{'; ' + hints[0] if hints else ''}"
        )
    _refuse_repeats(runs)
    notes += left_out
    return runs


def camera_folders(folder: Path) -> list[str]:
    """Names of a run's folders image_<camera>, sorted."""
    found = [entry for entry in entries_of(folder) if _is_camera(entry.name) and entry.is_dir()]
    for entry in found:
        require_text_path(entry.path, "camera folder")
    return [entry.name for entry in found]


def _has_poses(folder: Path) -> bool:
    """Is there a poses.csv of whatever kind? One that is no file is refused where it is read."""
    path = folder / POSES
    if not os.path.lexists(path):
        return False
    require_text_path(str(folder), "run folder")
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to {os.readlink(path)}, which does not exist: mend or remove it")
    return True


def _resemblance(folder: Path) -> list[str]:
    """A line on a folder without poses.csv that holds what runs hold; none on any other."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return [f"{shown(folder.name)} is left out: it cannot be read ({error.strerror})"]
    inside = [name for name in names if (_is_camera(name) or name == CLOUD) and (folder / name).is_dir()]
    tables = [name for name in names if name.lower().startswith("poses")]
    if not inside and not tables:
        return []
    misnamed = f" ({tables[0]} is not read: rename it)" if tables else ""
    return [shown(f"{folder.name} is left out: it holds {', '.join(inside or tables)}, but no {POSES}{misnamed}")]


def _is_camera(name: str) -> bool:
    return name.startswith("image_") and len(name) > len("image_")


def _refuse_repeats(runs: Sequence[Path]) -> None:
    """:class:`UserError` when two runs are one folder: each would find its own pictures in the other."""
    seen: dict[Path, Path] = {}
    for run in runs:
        first = seen.setdefault(run.resolve(), run)
        if first is not run:
            raise UserError(f"runs {first} and {run} are one folder, {run.resolve()}: remove a link")
