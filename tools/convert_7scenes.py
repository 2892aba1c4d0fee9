"""Lists of a 7-Scenes scene in PoseNet's format, as SCKD reads them: ``python -m tools.convert_7scenes ...``.

Writes dataset_train.txt and dataset_test.txt into a folder of their own; paths in them count from the scene's folder.
"""

import argparse
import sys
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.common.home import program
from distilplace.datasets.readers.poses.data import PARTS
from distilplace.datasets.readers.poses.lists import write_pose_list
from distilplace.datasets.readers.poses.seven_scenes import SevenScenesData
from distilplace.engine.program import exit_code


def convert(scene: Path, out: Path) -> list[Path]:
    """The two lists written; :class:`UserError` when ``out`` lies in the scene or has one of them already."""
    data = SevenScenesData(scene)
    if out.resolve().is_relative_to(data.folder.resolve()):
        raise UserError(f"--out {out} lies in the scene {scene}, where nothing is written: choose another")
    targets = {part: out / f"dataset_{part}.txt" for part in PARTS}
    if present := [path for path in targets.values() if path.exists()]:
        raise UserError(f"{present[0]} exists: choose another --out, or remove it")
    lists = {part: data.poses(part) for part in PARTS}
    for part, path in targets.items():
        write_pose_list(path, lists[part].names, lists[part].poses)
        print(f"{path}: {len(lists[part].names)} images")
    for note in data.notes:
        print(f"note: {note}")
    return list(targets.values())


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit code 2 with one line on bad input."""
    parser = argparse.ArgumentParser(prog=program("tools.convert_7scenes"), description=__doc__, allow_abbrev=False)
    parser.add_argument("--dataset_folder", type=Path, required=True, help="the scene: chess, fire ...")
    parser.add_argument("--out", type=Path, required=True, help="where the lists go; not into the scene")
    chosen = parser.parse_args(arguments)
    return exit_code(lambda: convert(chosen.dataset_folder, chosen.out))


if __name__ == "__main__":
    sys.exit(main())
