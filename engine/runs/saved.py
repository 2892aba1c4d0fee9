"""``config.yaml`` of a run: all its options, so that one that is missing or unknown tells of damage."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from distilplace.common.errors import UserError
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.yaml_files import read_typed_yaml, read_yaml

NAME = "config.yaml"
_ELSEWHERE = "put it back as it was, or copy the weights out of the run folder and name network and data set by flags"


def saved_config(weights: str | Path | None) -> Path | None:
    """``config.yaml`` of the run that weights belong to; None for a file that no run made."""
    places = [] if weights is None else [Path(weights).absolute(), Path(weights).resolve()]
    configs = [place.parent.parent / NAME for place in places]
    return next((config for config in configs if config.is_file()), None)


def config_of(weights: str | Path | None) -> dict[str, Any]:
    """The options, as text, of the run that weights belong to; empty for a file that no run made.

    Raises:
        UserError: the file is damaged or of another version.

    """
    path = saved_config(weights)
    if path is None:
        return {}
    found = read_yaml(path, _ELSEWHERE)
    refuse_other_names(path, found, TrainOptions.model_fields, _ELSEWHERE)
    return found


def typed_config(path: Path, known: Collection[str], remedy: str) -> dict[str, Any]:
    """The options in a ``config.yaml``, as they were; :class:`UserError` unless they are exactly the ``known`` ones."""
    found = read_typed_yaml(path, remedy)
    refuse_other_names(path, found, known, remedy)
    return found


def refuse_other_names(path: Path, found: Collection[str], known: Collection[str], remedy: str) -> None:
    """:class:`UserError` naming the first option that is missing or unknown."""
    if different := sorted(set(found) ^ set(known)):
        what = "holds an unknown" if different[0] in found else "lacks the"
        raise UserError(f"{path} is damaged or of another version (it {what} option {different[0]}): {remedy}")
