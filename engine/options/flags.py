"""The flags of ``train.py`` and ``evaluate.py``, in the groups that ``--help`` shows, made of the option classes."""

import argparse
from typing import Any, NoReturn, get_origin

from distilplace.common.errors import UserError
from distilplace.engine.options import (
    RETIRED,
    DataOptions,
    LossOptions,
    MethodOptions,
    ModelOptions,
    OptionGroup,
    ReductionOptions,
    RunOptions,
    TrainingOptions,
)
from distilplace.engine.options.aliases import ALIASES

COMMON = (
    *("train_mode", "dataset", "dataset_folder", "image_path", "image_size"),
    *("model", "teacher_weights_path", "student_model", "student_output_dim"),
    *("distil_method", "kd", "loss", "epochs", "train_batch_size", "pretrained"),
    *("exp_name", "logdir", "resume", "seed", "accelerator"),
)
"""What most commands say, beside evaluate.py's own options."""
GROUPS: dict[str, type[OptionGroup]] = {
    "data": DataOptions,
    "model": ModelOptions,
    "loss": LossOptions,
    "method": MethodOptions,
    "training": TrainingOptions,
    "whitening": ReductionOptions,
    "run": RunOptions,
}
REPEATABLE = {"kd"}  # flags that add up when given several times


class FlagParser(argparse.ArgumentParser):
    """A parser whose mistakes are a :class:`UserError`; ``overruled``: lines on options given twice."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.overruled: list[str] = []

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UserError(message)


class _Last(argparse.Action):
    """Stores a value; of several the last counts, as everywhere, and those before are noted."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        value = self.const if self.nargs == 0 else values
        before = getattr(namespace, self.dest, value)
        if before != value:
            one, two = (" ".join(each) if isinstance(each, list) else each for each in (before, value))
            parser.overruled.append(f"--{self.dest} is given twice, as {one} and as {two}: the last counts")
        setattr(namespace, self.dest, value)


def grouped_options(kind: type[OptionGroup]) -> dict[str, list[str]]:
    """Every option of ``kind`` in one group of ``--help``, common ones first."""
    groups = {title: group for title, group in GROUPS.items() if issubclass(kind, group)}
    home = {name: title for title, group in groups.items() for name in group.model_fields}
    own = [name for name in kind.model_fields if name not in home]
    found = {"common": [*own, *(name for name in COMMON if name in kind.model_fields and name not in own)]}
    for title in groups:
        found[title] = [name for name in kind.model_fields if home.get(name) == title and name not in found["common"]]
    return found


def flag_parser(kind: type[OptionGroup]) -> FlagParser:
    """The parser for the options of ``kind``; their values stay text, options that are not given are absent."""
    parser = FlagParser(
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
        usage="%(prog)s [--option value ...]",
        description=kind.__doc__,
    )
    for title, names in grouped_options(kind).items():
        group = parser.add_argument_group(f"{title} options")
        if title == "common":
            group.add_argument("-h", "--help", action="help", help="show this list")
            group.add_argument("--config", action=_Last, metavar="FILE", help="recipe with defaults (recipes/*.yaml)")
        for name in names:
            _add_option(group, name, kind.model_fields[name])
    for name in RETIRED if "train_mode" in kind.model_fields else ():
        parser.add_argument(f"--{name}", metavar="X", help=argparse.SUPPRESS)
    return parser


def _add_option(group: Any, name: str, field: Any) -> None:
    """One option with its other names, which have no lines of their own."""
    aliases = ALIASES.get(name, ())
    text = field.description or ""
    text += f" (also {', '.join(f'--{alias}' for alias in aliases)})" if aliases else ""
    text += "" if field.is_required() else f" [{field.default}]"
    how: dict[str, Any] = {"metavar": "X", "action": _Last}
    if field.annotation is bool:
        how |= {"nargs": "?", "const": "True", "metavar": "True|False"}
        no = {"dest": name, "action": _Last, "nargs": 0, "const": "False", "help": argparse.SUPPRESS}
        group.add_argument(f"--no_{name}", **no)
    elif get_origin(field.annotation) is list:
        how |= {"nargs": "+", "action": "extend" if name in REPEATABLE else _Last}
    group.add_argument(f"--{name}", help=text.replace("%", "%%"), **how)
    for alias in aliases:
        group.add_argument(f"--{alias}", help=argparse.SUPPRESS, **how)
