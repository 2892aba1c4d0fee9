"""Flags of other programs that have another name here: SCKD's, some of them ASHT-KD's and Whiten_MTD's too."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from distilplace import models
from distilplace.common.errors import UserError
from distilplace.engine.options import OptionGroup, TrainOptions

ALIASES: dict[str, tuple[str, ...]] = {
    "model": ("T_model",),
    "teacher_weights_path": ("T_path",),
    "epochs": ("niter",),
    "train_batch_size": ("batchSize",),
    "cuda": ("gpu",),
    "SCKL": ("KLSC",),
    "image_lr": ("lr",),
    "dataset_folder": ("dataroot", "data_dir"),
    "exp_name": ("name",),
}
SINGLE_DASH = ("-SCmodule", "-hintmodule")
POSE_TEACHERS = ("resnet18", "resnet34", "resnet50", "resnet101")
"""What SCKD calls its pose networks."""


def resolve(values: Mapping[str, Any], told: Callable[[str], str] = "--{}".format) -> dict[str, Any]:
    """Options under their names here; ``told`` is how a message writes a name.

    Raises:
        UserError: an option given under two names with two values: neither may be dropped silently.

    """
    found = {name: value for name, value in values.items() if name not in _names_elsewhere()}
    for name, aliases in ALIASES.items():
        for alias in aliases:
            if alias not in values:
                continue
            value = _pose_networks(values[alias]) if alias == "T_model" else values[alias]
            if found.setdefault(name, value) != value:
                raise UserError(_contradiction(name, values.get(name, found[name]), alias, values[alias], told))
    return found


def refuse_ambiguous(options: OptionGroup, argv: Sequence[str], written: Collection[str] = ()) -> None:
    """Refuse ``lr`` for a network with a cloud branch: one rate is not two (:class:`UserError`).

    ``written``: names from elsewhere than the command line ``argv``, which may overrule them by both rates.
    """
    words = {word.split("=")[0].removeprefix("--") for word in argv if word.startswith("--")}
    if not isinstance(options, TrainOptions) or not {"lr"} & {*words, *written}:
        return
    learner = options.model[0] if options.train_mode == "train_teacher" else options.student_model
    if "coords" in models.model_requires(learner) and not {"cloud_lr", "image_lr"} <= words:
        where = "--lr" if "lr" in words else "lr"
        raise UserError(
            f"{where}: {learner} has rates of its own for clouds and images: give --cloud_lr and --image_lr"
        )


def _names_elsewhere() -> Iterator[str]:
    return (alias for aliases in ALIASES.values() for alias in aliases)


def _pose_networks(names: str | list[str]) -> str | list[str]:
    """SCKD's names of pose networks as they are called here."""
    if isinstance(names, str):
        return f"{names}pose" if names in POSE_TEACHERS else names
    return [f"{name}pose" if name in POSE_TEACHERS else name for name in names]


def _contradiction(name: str, value: Any, alias: str, other: Any, told: Callable[[str], str]) -> str:
    one, two = (" ".join(each) if isinstance(each, list) else each for each in (value, other))
    if alias == "T_model":
        return (
            f"{told(name)} {one} and {told(alias)} {two} both name the teacher here; SCKD's KD_train.py calls its "
            f"student --model: give {told('student_model')} {_pose_networks(one)} {told(alias)} {two}"
        )
    return f"{told(name)} {one} and {told(alias)} {two} are one option with two values: give one of them"
