"""Reading the ``frames`` layout: per run a folder with poses.csv, image_<camera>/ and cloud/ (docs, "Your own robot").

poses.csv: header ``frame,timestamp,easting,northing`` and optionally ``altitude,roll,pitch,yaw``; metres, seconds,
radians. ``image_<camera>/<frame>.jpg|png`` or whatever Pillow reads, ``cloud/<frame>.bin|npy|pcd|ply``. Files are
listed here, not read.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distilplace.common.decoding import USUAL, image_suffixes
from distilplace.common.errors import UserError
from distilplace.common.inputs.image_files import Tally, depth_notes, files_by_stem
from distilplace.common.inputs.poses import Pose, read_poses
from distilplace.common.inputs.position_checks import jumps, refuse_outliers
from distilplace.datasets.io.clouds import CLOUD_SUFFIXES
from distilplace.datasets.readers.frames.run_folders import CLOUD, POSES, camera_folders, find_runs


@dataclass(frozen=True)
class FrameRun:
    """One run in the order of its timestamps.

    ``positions`` is float64 [n,2] = (northing, easting) in metres; ``images[i]`` holds one path per camera (cameras in
    alphabetical order); ``clouds[i]`` is None for every i when the run has no cloud folder.
    """

    name: str
    frames: tuple[str, ...]
    positions: np.ndarray
    cameras: tuple[str, ...]
    images: tuple[tuple[Path, ...], ...]
    clouds: tuple[Path | None, ...]
    unlisted: int
    notes: tuple[str, ...] = ()
    """What lies in its folders and is no image or cloud."""
    doubts: tuple[str, ...] = ()
    """What is odd about its positions."""

    def __len__(self) -> int:
        return len(self.frames)


def read_runs(folder: Path, notes: list[str]) -> list[FrameRun]:
    """The runs under ``folder`` as :func:`find_runs` finds them, which adds to ``notes`` what it left out.

    A run is called as its folder or the link to it is.
    """
    return [_read_run(run) for run in find_runs(folder, notes)]


def _read_run(folder: Path) -> FrameRun:
    rows = read_poses(folder / POSES)
    frames = tuple(row.frame for row in rows)
    places = np.array([(row.northing, row.easting) for row in rows], dtype=np.float64)
    where = [f"{folder / POSES} line {row.line}: frame {row.frame}" for row in rows]
    refuse_outliers(where, places)
    cameras = tuple(camera_folders(folder))
    has_clouds = (folder / CLOUD).is_dir()
    if not cameras and not has_clouds:
        raise UserError(f"{folder} has neither an image_<camera> nor a cloud folder: see docs/tutorials/own-robot.md")
    tallies = {kind: Tally() for kind in (*cameras, CLOUD)}
    pictures = [files_by_stem(folder / camera, image_suffixes(), tallies[camera]) for camera in cameras]
    clouds = files_by_stem(folder / CLOUD, CLOUD_SUFFIXES, tallies[CLOUD], "cloud file") if has_clouds else {}
    for kind, files, suffixes in [
        *((camera, files, USUAL) for camera, files in zip(cameras, pictures, strict=True)),
        *([(CLOUD, clouds, ", ".join(CLOUD_SUFFIXES))] if has_clouds else []),
    ]:
        _check_complete(folder, kind, rows, files, suffixes, tallies[kind])
    known = set(frames)
    unlisted = sum(len(files.keys() - known) for files in (*pictures, clouds))
    return FrameRun(
        name=folder.name,
        frames=frames,
        positions=places,
        cameras=cameras,
        images=tuple(tuple(files[frame] for files in pictures) for frame in frames),
        clouds=tuple(clouds.get(frame) for frame in frames),
        unlisted=unlisted,
        notes=(
            *(note for kind, tally in tallies.items() for note in tally.notes(f"{folder.name}/{kind}")),
            *(
                note
                for camera, files in zip(cameras, pictures, strict=True)
                for note in depth_notes(f"{folder.name}/{camera}", files[frames[0]])
            ),
        ),
        doubts=tuple(jumps(where, places)),
    )


def _check_complete(
    folder: Path,
    kind: str,
    rows: list[Pose],
    files: Collection[str],
    suffixes: str,
    tally: Tally,
) -> None:
    absent = [row for row in rows if row.frame not in files]
    if not absent:
        return
    frame, line = absent[0].frame, absent[0].line
    more = f" (and {len(absent) - 1} more rows)" if len(absent) > 1 else ""
    others = f"; {kind} also holds {tally.described()}{tally.remedy()}" if tally.left_out else ""
    raise UserError(
        f"{folder / POSES} line {line}: frame {frame} has no file {kind}/{frame}({suffixes}){more}: "
        f"add the file or remove the row{others}"
    )
