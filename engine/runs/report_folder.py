"""Where ``evaluate.py`` writes its report: beside its like, never over a report of something else."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from distilplace.common.files import atomic_path
from distilplace.engine.comparison import run_folder
from distilplace.engine.options import EvaluateOptions

NAME = "evaluated.json"
FOREIGN = Path("logs")


def report_folder(rows: Sequence[EvaluateOptions]) -> Path:
    """``--report``, else a folder of the run that is evaluated, or below ``logs`` for a file that no run made.

    It is marked with what is evaluated. A report of the same is replaced; beside one of something else the folder gets
    ``-2``, ``-3``...
    """
    options = rows[0]
    if options.report is not None:
        return Path(options.report)
    weights, data_set = Path(options.weights), options.test_dataset or options.dataset
    run = run_folder(weights)
    base = FOREIGN / f"evaluation-{weights.stem}-{data_set}" if run is None else run / f"evaluation-{data_set}"
    evaluated, folder, number = _evaluated(rows), base, 2
    while _is_used(folder) and _mark(folder) != evaluated:
        folder, number = base.with_name(f"{base.name}-{number}"), number + 1
    with atomic_path(folder / NAME) as temporary:
        temporary.write_text(json.dumps(evaluated, indent=1))
    return folder


def _is_used(folder: Path) -> bool:
    return any(folder.iterdir()) if folder.is_dir() else folder.exists()


def _evaluated(rows: Sequence[EvaluateOptions]) -> dict[str, object]:
    """What a report is about: the weights, and the folder of the data that are tested."""
    options = rows[0]
    folder = options.dataset_folder if options.test_dataset is None else options.test_folder
    return {
        "weights": [str(Path(row.weights).resolve()) for row in rows],
        "data": None if folder is None else str(Path(folder).resolve()),
    }


def _mark(folder: Path) -> object:
    """What the report in ``folder`` is about; None where nothing says so."""
    with suppress(OSError, ValueError):
        found: object = json.loads((folder / NAME).read_text())
        return found
    return None
