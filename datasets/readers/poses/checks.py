"""What can be wrong with a scene of posed images, found without opening an image."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.readers.poses.data import PARTS, Part, PoseData, Scene, count_mismatch
from distilplace.datasets.readers.poses.lists import HEADER, PoseList
from distilplace.datasets.readers.poses.quaternions import angles_between, matrices_from_quaternions
from distilplace.datasets.records import PlaceRecord

NORM_TOLERANCE = 1e-3
UPRIGHT = 0.85
"""Length of the mean of the cameras' down axes. Real scenes: 0.88 and more; quaternions read the wrong way: 0.04-0.79,
though in scenes whose axes lie along the view up to 0.99."""
ROW_METRES, ROW_DEGREES = 0.01, 0.1

Level = Literal["error", "warning", "note"]


class Finding(NamedTuple):
    """One line about a scene. Errors: training or testing on it would fail, or mean nothing."""

    level: Level
    text: str


def check_scene(data: PoseData) -> list[Finding]:
    """All checks of both parts; an unreadable list is an error like the others."""
    findings: list[Finding] = []
    records: dict[Part, list[PlaceRecord]] = {}
    for part in PARTS:
        try:
            listed, records[part] = data.poses(part), data.records(part)
        except UserError as error:
            findings.append(Finding("error", str(error)))
            continue
        findings += check_header(listed, part)
        findings += check_norms(listed, part)
        findings += check_counts(listed, part, data.scene)
        findings += check_files(records[part], part)
        findings += check_gravity(listed, part, data.world_to_camera)
        findings += check_rows(records[part], listed.poses, data.scene)
    if len(records) == len(PARTS):
        findings += check_overlap(records["train"], records["test"])
    return findings


def check_header(listed: PoseList, part: Part) -> list[Finding]:
    """The three lines that PoseNet's lists begin with."""
    if listed.header == HEADER:
        return []
    return [Finding("warning", f"{part} list: its header is {list(listed.header)}, not PoseNet's {list(HEADER)}")]


def check_norms(listed: PoseList, part: Part) -> list[Finding]:
    """Quaternions as written should be unit ones; they are normalised on reading."""
    off = np.abs(listed.norms - 1)
    if not (off > NORM_TOLERANCE).any():
        return []
    worst = int(off.argmax())
    text = f"{part} list: {(off > NORM_TOLERANCE).sum()} quaternions are not unit ones, and are normalised; worst: "
    return [Finding("warning", f"{text}{listed.norms[worst]:.4f} of {listed.names[worst]}")]


def check_counts(listed: PoseList, part: Part, scene: Scene | None) -> list[Finding]:
    """Number of images, against the published one where the scene is known; images listed twice."""
    count, twice = len(listed.names), len(listed.names) - len(set(listed.names))
    if mismatch := count_mismatch(count, part, scene):
        findings = [Finding("warning", mismatch)]
    else:
        known = "no published count for a folder of this name" if scene is None else "as published"
        findings = [Finding("note", f"{part} list: {count} images; {known}")]
    if twice:
        findings.append(Finding("warning", f"{part} list: {twice} rows name an image that stood there before"))
    return findings


def check_files(records: Sequence[PlaceRecord], part: Part) -> list[Finding]:
    """Is every image there?"""
    absent = [entry.images[0] for entry in records if not entry.images[0].is_file()]
    if not absent:
        return []
    return [Finding("error", f"{part} list: {len(absent)} of {len(records)} images do not exist, such as {absent[0]}")]


def check_gravity(listed: PoseList, part: Part, world_to_camera: bool) -> list[Finding]:
    """Cameras are held upright: their down axes in the world, taken by the set's convention, nearly agree."""
    matrices = matrices_from_quaternions(listed.poses[:, 3:])
    axes = {"world to camera": matrices[:, 1, :], "camera to world": matrices[:, :, 1]}
    lengths = {name: float(np.linalg.norm(rows.mean(axis=0))) for name, rows in axes.items()}
    mine = "world to camera" if world_to_camera else "camera to world"
    if lengths[mine] >= UPRIGHT:
        return []
    text = (
        f"{part} list: the cameras' down axes, quaternions read as {mine}, agree by {lengths[mine]:.2f} only (1: all)"
    )
    other = next(name for name in lengths if name != mine)
    if lengths[other] >= UPRIGHT:
        text += f"; read as {other} by {lengths[other]:.2f}: are they inverted?"
    return [Finding("warning", text)]


def check_rows(records: Sequence[PlaceRecord], poses: np.ndarray, scene: Scene | None) -> list[Finding]:
    """Known rows of the published files: re-issued lists may have moved positions."""
    findings = []
    for name, expected in ((scene and scene.rows) or {}).items():
        for entry, pose in zip(records, poses, strict=True):
            if entry.key != name:
                continue
            metres = float(np.linalg.norm(pose[:3] - expected[:3]))
            degrees = float(angles_between(pose[3:], np.array(expected[3:])))
            if metres > ROW_METRES or degrees > ROW_DEGREES:
                text = f"{name} lies {metres:.2f} m and {degrees:.1f} deg from the published pose"
                findings.append(Finding("warning", f"{text}: a re-issued list, whose errors compare with no other's"))
    return findings


def check_overlap(train: Sequence[PlaceRecord], test: Sequence[PlaceRecord]) -> list[Finding]:
    """No image and no sequence may be both trained and tested: neighbouring frames look alike."""
    findings = []
    if images := {entry.key for entry in train} & {entry.key for entry in test}:
        findings.append(Finding("error", f"{len(images)} images are in both lists, such as {min(images)}"))
    if runs := {entry.run for entry in train} & {entry.run for entry in test}:
        findings.append(Finding("error", f"sequences in both lists: {', '.join(sorted(runs))}"))
    return findings
