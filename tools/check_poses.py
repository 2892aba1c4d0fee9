"""Look through a scene of posed images before training on it: ``python -m tools.check_poses --dataset cambridge ...``.

Prints what is wrong or worth knowing. Exit code 1 when anything is an error, 2 on a user's mistake.
"""

import argparse
import sys
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.common.home import program
from distilplace.datasets import create_dataset
from distilplace.datasets.readers.poses.checks import Finding, check_scene
from distilplace.datasets.readers.poses.data import PoseData
from distilplace.engine.program import exit_code


def check(dataset: str, folder: Path) -> list[Finding]:
    """Findings for the scene in ``folder``, printed after what its reader noted."""
    data = create_dataset(dataset, dataset_folder=folder)
    if not isinstance(data, PoseData):
        raise UserError(f"--dataset {dataset} has no camera poses: name cambridge or 7scenes")
    findings = check_scene(data)
    found = {finding.text for finding in findings}
    for finding in [*(Finding("note", text) for text in data.notes if text not in found), *findings]:
        print(f"{finding.level}: {finding.text}")
    errors = sum(finding.level == "error" for finding in findings)
    print(f"{data.folder}: {errors} errors, {sum(finding.level == 'warning' for finding in findings)} warnings")
    return findings


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit code 0, 1 (an error was found) or 2 (one line on bad input)."""
    parser = argparse.ArgumentParser(prog=program("tools.check_poses"), description=__doc__, allow_abbrev=False)
    parser.add_argument("--dataset", required=True, help="cambridge or 7scenes")
    parser.add_argument("--dataset_folder", type=Path, required=True, help="the scene's folder")
    chosen = parser.parse_args(arguments)
    findings: list[Finding] = []
    code = exit_code(lambda: findings.extend(check(chosen.dataset, chosen.dataset_folder)))
    return code or int(any(finding.level == "error" for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
