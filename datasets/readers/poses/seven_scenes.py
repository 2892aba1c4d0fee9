"""``7scenes``: one scene of 7-Scenes (Shotton et al., CVPR 2013): a 4x4 matrix beside every image.

Positions are metres; quaternions turn from the camera into the world, as the matrices do.
"""

import math
import re
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.common.inputs.text_files import read_lines
from distilplace.common.numbers import number_hint, parse_number
from distilplace.datasets.readers.poses.data import Part, PoseData, Scene
from distilplace.datasets.readers.poses.lists import PoseList, read_scene_list
from distilplace.datasets.readers.poses.quaternions import pose_from_matrix

SPLITS: dict[Part, str] = {"train": "TrainSplit.txt", "test": "TestSplit.txt"}
WINDOWS_NAN = re.compile(r"[+-]?[0-9]+\.#[A-Z0-9+-]+", re.IGNORECASE)  # 1.#QNAN, -1.#IND, 1.#INF00
COLOUR, POSE = ".color.png", ".pose.txt"
_CHESS_FIRST = (-0.1232336, -1.1206967, -0.9887058, 0.9951854, -0.0964216, 0.0164350, 0.0062336)
SCENES = {
    "chess": Scene(4000, 2000, {"seq-01/frame-000000.color.png": _CHESS_FIRST}),
    "fire": Scene(2000, 2000),
    "heads": Scene(1000, 1000),
    "office": Scene(6000, 4000),
    "pumpkin": Scene(4000, 2000),
    "redkitchen": Scene(7000, 5000),
    "stairs": Scene(2000, 1000),
}


class SevenScenesData(PoseData):
    """``dataset_folder``: chess, fire ... with {Train,Test}Split.txt and seq-XX/frame-XXXXXX.{color.png,pose.txt}.

    Where a split file is absent, SCKD's own list is read: dataset_train.txt or dataset_test.txt, or a table
    *_train.csv, *_test.csv (transposenet's columns). The mean image as in
    :class:`distilplace.datasets.readers.poses.data.PoseData`.
    """

    name = "7scenes"
    world_to_camera = False
    scenes = SCENES

    def read_list(self, part: Part) -> PoseList:
        """The part's sequences in the order of its split, or its list; :class:`UserError` with file and line."""
        split, listed = self.folder / SPLITS[part], f"dataset_{part}.txt"
        if not split.is_file():
            if not (self.folder / listed).is_file() and not list(self.folder.glob(f"*_{part}.csv")):
                raise UserError(f"{self.folder} has neither {split.name} nor {listed}: check {flag_of(split)}")
            return read_scene_list(self.folder, part)
        names: list[str] = []
        poses: list[np.ndarray] = []
        left_out = 0
        for sequence in read_split(split):
            for stem in frame_stems(self.folder / sequence):
                path = self.folder / sequence / f"{stem}{POSE}"
                matrix = read_pose_matrix(path)
                if not np.isfinite(matrix).all():
                    left_out += 1
                    continue
                names.append(f"{sequence}/{stem}{COLOUR}")
                poses.append(pose_from_matrix(matrix, path))
        if left_out:
            self.notes.append(f"{part} part: {left_out} frames left out, their poses are not finite")
        if not names:
            raise UserError(f"{split}: its sequences have no frame with a pose: unpack seq-*.zip")
        return PoseList(names, np.array(poses), np.ones(len(poses)))


def read_split(path: Path) -> list[str]:
    """Sequence folders of a split file, in its order: ``sequence1`` -> ``seq-01``.

    Raises:
        UserError: a line without a number at its end, a sequence named twice, or no line at all.

    """
    sequences: list[str] = []
    for number, line in read_lines(path):
        found = re.fullmatch(r"(?:sequence|seq-?)?\s*([0-9]{1,18})", line, flags=re.IGNORECASE)
        if found is None:
            raise UserError(f"{path} line {number}: '{line}' names no sequence: sequence1 is expected")
        sequences.append(f"seq-{int(found[1]):02d}")
        if sequences.count(sequences[-1]) > 1:
            raise UserError(f"{path} line {number}: {sequences[-1]} stands there twice")
    return sequences


def frame_stems(folder: Path) -> list[str]:
    """Sorted ``frame-XXXXXX`` of a sequence's poses; :class:`UserError` where one has no colour image."""
    if not folder.is_dir():
        packed = folder.with_suffix(".zip")
        raise UserError(f"{folder} does not exist: {f'unpack {packed}' if packed.is_file() else 'complete the scene'}")
    present = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    stems = sorted(name.removesuffix(POSE) for name in present if name.endswith(POSE))
    for stem in stems:
        if f"{stem}{COLOUR}" not in present:
            raise UserError(f"{folder} has {stem}{POSE}, but no {stem}{COLOUR}: unpack the sequence again")
    return stems


def read_pose_matrix(path: Path) -> np.ndarray:
    """Float64 [4, 4] of sixteen numbers between any blanks, as ``9.9e-001`` too; NaN and Inf are kept.

    Windows' spellings of these (``1.#QNAN``, ``-1.#IND``, ``1.#INF``) read as NaN.
    """
    try:
        words = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if len(words) != 16:
        raise UserError(f"{path} holds {len(words)} numbers, expected a 4x4 matrix: unpack it again")
    numbers = [math.nan if WINDOWS_NAN.fullmatch(word) else parse_number(word) for word in words]
    if None in numbers:
        word = words[numbers.index(None)]
        raise UserError(f"{path}: '{word[:40]}' is no number{number_hint(word)}: expected a 4x4 matrix")
    return np.array(numbers, dtype=np.float64).reshape(4, 4)
