"""Several checkpoints in one table: each with its own preprocessing, all on the very same test records."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.base import PlaceData
from distilplace.datasets.records import Benchmark, PlaceRecord
from distilplace.datasets.transforms.views import CROPS
from distilplace.engine.options import EvaluateOptions
from distilplace.engine.runs.saved import saved_config

NO_TRUTH = {"name", "training_poses"}
"""Fields of a benchmark that say nothing of what is asked or right."""


def row_names(rows: Sequence[EvaluateOptions]) -> list[str]:
    """What each checkpoint is called: its run's or its file's name, its role where that is known, its network."""
    names = []
    for options in rows:
        weights = Path(options.weights)
        run = run_folder(weights)
        known = f"{options.role} " if options.role != "auto" else ""
        network = options.model[0] if options.network_role() == "teacher" else options.student_model
        names.append(f"{weights.name if run is None else run.name} ({known}{network})")
    count = Counter(names)
    names = [
        name if count[name] == 1 else f"{options.weights} {name[name.rindex('(') :]}"
        for name, options in zip(names, rows, strict=True)
    ]
    before = [names[:position].count(name) for position, name in enumerate(names)]
    return [f"{name} #{again + 1}" if again else name for name, again in zip(names, before, strict=True)]


def run_folder(weights: Path) -> Path | None:
    """The folder of the run that weights belong to; None for a file that no run made."""
    config = saved_config(weights)
    return None if config is None else config.parent


def preprocessing(options: EvaluateOptions, data: PlaceData, requires: Collection[str]) -> str:
    """How the inputs of a network are prepared, in a few words for the log."""
    parts = []
    if "images" in requires:
        crop = f" of {data.crop_size}" if data.crop_size and data.views in CROPS else ""
        size, scales = options.image_size or "in their own size", " ".join(f"{scale:g}" for scale in options.scales)
        if options.query_image_size not in (None, options.image_size):
            size += f" (queries {options.query_image_size})"
        parts.append(f"images {size}, {data.normalisation}, views {data.views}{crop}, scales {scales}")
    if "coords" in requires:
        parts.append(f"voxels of {data.cloud.quantization_size:g}")
    return ", ".join(parts)


def require_same_test(first: Benchmark, other: Benchmark, names: tuple[str, str]) -> None:
    """Refuse two checkpoints whose test sets differ in a record or in what is right.

    Raises:
        UserError: naming both and the first difference.

    """
    if difference := _difference(first, other):
        raise UserError(
            f"--compare: {names[1]} is tested on another set than {names[0]} ({difference}); give --dataset and "
            "--dataset_folder, which then hold for all"
        )


def _difference(first: Benchmark, other: Benchmark) -> str | None:
    if type(first) is not type(other):
        return f"{type(first).__name__} and {type(other).__name__}"
    mine, theirs = ({_identity(record) for record in each.distinct_records()} for each in (first, other))
    if mine != theirs:
        odd = sorted(mine ^ theirs, key=str)
        return f"{len(odd)} records are in one of them alone or lie elsewhere, such as {odd[0][0]}"
    for field in fields(first):  # type: ignore[arg-type]
        if field.name not in NO_TRUTH and _plain(getattr(first, field.name)) != _plain(getattr(other, field.name)):
            return f"the same records, another {field.name.replace('_', ' ')}"
    return None


def _identity(record: PlaceRecord) -> tuple[Any, ...]:
    return record.key, round(record.northing, 3), round(record.easting, 3), record.crop


def _plain(value: Any) -> Any:
    """A benchmark's field as nested lists and dicts that can be compared; records by their keys."""
    if isinstance(value, PlaceRecord):
        return value.key
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return value
