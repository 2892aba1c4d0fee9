"""``config.yaml`` of a run: all its options, so that one that is missing or unknown tells of damage.

Runs of earlier versions lack the options that are new since (:data:`LATER`): their weights are evaluated with the
defaults, which do what those versions did.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from distilplace.common.errors import UserError
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.yaml_files import read_typed_yaml, read_yaml

NAME = "config.yaml"
LATER = {
    *("SCKL_reduction", "lr_min", "scheduler_step", "query_image_size", "bin_columns", "whiten_samples", "whitening"),
    *("save_epoch_freq", "val_min_queries", "select_by", "loss_settings", "miner", "miner_settings", "predictions"),
    *("embedding_head", "embedding_head_dim", "align_dim", "align_space", "align_head", "centre"),
    *("aml_form", "aml_margin", "aml_negatives", "aml_self"),
    *("csd_bank_neighbours", "csd_bank_student_temperature", "csd_bank_teacher_temperature"),
}
"""Options that runs of earlier versions do not have. A new option is added here too."""
_ELSEWHERE = "put it back as it was, or copy the weights out of the run folder and name network and data set by flags"


def saved_config(weights: str | Path | None) -> Path | None:
    """``config.yaml`` of the run that weights belong to; None for a file that no run made."""
    places = [] if weights is None else [Path(weights).absolute(), Path(weights).resolve()]
    configs = [place.parent.parent / NAME for place in places]
    return next((config for config in configs if config.is_file()), None)


def config_of(weights: str | Path | None) -> dict[str, Any]:
    """The options, as text, of the run that weights belong to; empty for a file that no run made.

    Those that an earlier version did not have are at their defaults.

    Raises:
        UserError: the file is damaged or of a later version.

    """
    path = saved_config(weights)
    if path is None:
        return {}
    found, fields = read_yaml(path, _ELSEWHERE), TrainOptions.model_fields
    refuse_other_names(path, found, fields.keys() - _lacking(found), _ELSEWHERE)
    return {**found, **{name: fields[name].get_default(call_default_factory=True) for name in _lacking(found)}}


def earlier_version(weights: str | Path | None) -> str:
    """One line about the options that the run of the weights is too old for; empty where there are none."""
    path = saved_config(weights)
    lacking = [] if path is None else _lacking(read_yaml(path, _ELSEWHERE))
    return f"{path} is of an earlier version; at their defaults: {', '.join(lacking)}" if lacking else ""


def _lacking(found: Collection[str]) -> list[str]:
    return [name for name in TrainOptions.model_fields if name in LATER and name not in found]


def typed_config(path: Path, known: Collection[str], remedy: str) -> dict[str, Any]:
    """The options in a ``config.yaml``, as they were; :class:`UserError` unless they are exactly the ``known`` ones."""
    found = read_typed_yaml(path, remedy)
    lacking = sorted(set(known) - set(found))
    if lacking and LATER.issuperset(lacking):
        raise UserError(
            f"{path} is of an earlier version (without {', '.join(lacking)}), which trains no further: choose another "
            "--exp_name to start over; evaluate.py reads its weights"
        )
    refuse_other_names(path, found, known, remedy)
    return found


def refuse_other_names(path: Path, found: Collection[str], known: Collection[str], remedy: str) -> None:
    """:class:`UserError` naming the first option that is missing or unknown."""
    if different := sorted(set(found) ^ set(known)):
        what = "holds an unknown" if different[0] in found else "lacks the"
        raise UserError(f"{path} is damaged or of another version (it {what} option {different[0]}): {remedy}")
