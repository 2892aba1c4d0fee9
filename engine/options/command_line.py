"""From flags, recipe, environment and ``paths.yaml`` to checked options; every mistake is one line.

Later beats earlier: defaults, ``paths.yaml``, environment (``DISTILPLACE_EPOCHS=2``), recipe (``--config``), flags.
All values travel as text until pydantic converts them, so ``40_80`` means the same on the command line and in YAML.
"""

import argparse
import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_origin

from pydantic import ValidationError

from distilplace.common.errors import UserError
from distilplace.common.home import named_recipe
from distilplace.datasets import list_datasets
from distilplace.engine.options import RETIRED, OptionGroup, TrainOptions
from distilplace.engine.options.aliases import ALIASES, SINGLE_DASH, refuse_ambiguous, resolve
from distilplace.engine.options.relevance import refuse_unread, unread_note
from distilplace.engine.options.yaml_files import read_yaml

LOG = logging.getLogger("distilplace")
Parsed = TypeVar("Parsed", bound=OptionGroup)
FOLDERS = ("dataset_folder", "image_path")
PREFIX = "DISTILPLACE_"
REPEATABLE = {"kd"}  # flags that add up when given several times
ELSEWHERE = (*FOLDERS, "test_dataset", "test_folder", "query_image_size")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse(
    kind: type[Parsed],
    argv: Sequence[str],
    *,
    home: Path,
    saved: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    all_read: bool = True,
) -> Parsed:
    """Checked options of class ``kind``.

    ``home`` is the folder of ``train.py`` (``paths.yaml`` lies there); ``saved`` are the options of a run that is
    evaluated, ranking between environment and recipe. With ``all_read`` a flag that this run does not read is refused
    and such an option from elsewhere told (``distilplace.engine.options.relevance``); several runs that share their
    flags ask that
    together. Raises :class:`UserError` with one line on any mistake.
    """
    environment = os.environ if environment is None else environment
    flags = _read_flags(kind, argv)
    _tell_retired(argv)
    recipe: dict[str, Any] = {}
    if (config := flags.pop("config", None)) is not None:
        recipe = read_yaml(named_recipe(config))
        _refuse_unknown(recipe, {*TrainOptions.model_fields, *kind.model_fields}, where=f"recipe {config}")
    saved = dict(saved or {})
    chosen = flags.get("dataset", recipe.get("dataset"))
    if chosen is not None and chosen != saved.get("dataset"):
        saved = {name: value for name, value in saved.items() if name not in ELSEWHERE}
    personal = _personal_defaults(home, environment, chosen=chosen or saved.get("dataset"))
    optional = {name for name, field in kind.model_fields.items() if not field.is_required()}
    quiet = {name: value for name, value in {**personal, **saved, **recipe}.items() if name in optional}
    options = check(kind, {name: _plain(kind, name, value) for name, value in {**quiet, **flags}.items()})
    refuse_ambiguous(options, argv)
    if all_read:
        refuse_unread([options], list(flags))
        own = {name for name in personal if name in optional} - {*flags, *recipe, *saved}
        spoken = {name for name in own if PREFIX + name.upper() in environment}
        sources = {f"recipe {config}": [name for name in recipe if name in optional and name not in flags]}
        sources |= {"environment": sorted(spoken), "paths.yaml": sorted(own - spoken)}
        if note := unread_note(options, sources):
            LOG.info("%s", note)
    return options


def given(kind: type[OptionGroup], argv: Sequence[str]) -> list[str]:
    """Names of the options that a command line gives."""
    return [name for name in _read_flags(kind, argv) if name != "config"]


def check(kind: type[Parsed], values: Mapping[str, Any]) -> Parsed:
    """Validated options; the first mistake becomes one line that names the flag."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = f"--{first['loc'][0]}: " if first["loc"] else ""
        got = f" (got {first['input']!r})" if first["loc"] and first["type"] != "missing" else ""
        raise UserError(f"{name}{first['msg'].removeprefix('Value error, ')}{got}") from None


def _read_flags(kind: type[OptionGroup], argv: Sequence[str]) -> dict[str, Any]:
    parser = _Parser(allow_abbrev=False, argument_default=argparse.SUPPRESS, description=kind.__doc__)
    parser.add_argument("--config", metavar="FILE", help="recipe with defaults (recipes/*.yaml)")
    for name, field in kind.model_fields.items():
        text = (field.description or "").replace("%", "%%")
        text += "" if field.is_required() else f" [{field.default}]".replace("%", "%%")
        kind_of_value: dict[str, Any] = {"metavar": "X"}
        if field.annotation is bool:
            kind_of_value = {"nargs": "?", "const": "True", "metavar": "True|False"}
            parser.add_argument(f"--no_{name}", dest=name, action="store_const", const="False", help=argparse.SUPPRESS)
        elif get_origin(field.annotation) is list:
            kind_of_value |= {"nargs": "+", "action": "extend" if name in REPEATABLE else "store"}
        parser.add_argument(f"--{name}", help=text, **kind_of_value)
        for alias in ALIASES.get(name, ()):
            parser.add_argument(f"--{alias}", help=f"other name of --{name}", **kind_of_value)
    retired = [name for name in RETIRED if "train_mode" in kind.model_fields]
    for name in retired:
        parser.add_argument(f"--{name}", metavar="X", help=argparse.SUPPRESS)
    values, unknown = parser.parse_known_args([f"-{word}" if word in SINGLE_DASH else word for word in argv])
    if unknown:
        flag = unknown[0].split("=")[0]
        if not flag.startswith("--"):
            raise UserError(f"unexpected argument '{unknown[0]}'; options are written --name value (see --help)")
        known = {"config", *(each for name in kind.model_fields for each in (name, *ALIASES.get(name, ())))}
        _refuse_unknown({flag.removeprefix("--"): None}, known, where="the command line")
    return _without_retired(resolve(vars(values)), retired)


def _tell_retired(argv: Sequence[str]) -> None:
    """A line for each flag of the published code that is accepted and has nothing to set here."""
    given = {word.split("=")[0].removeprefix("--") for word in argv if word.startswith("--")}
    for name, (inert, reason) in RETIRED.items():
        if name in given and inert is None:
            LOG.info("--%s has no effect here: %s", name, reason)


def _without_retired(values: dict[str, Any], retired: list[str]) -> dict[str, Any]:
    for name in [name for name in retired if name in values]:
        inert, reason = RETIRED[name]
        given = values.pop(name)
        if inert is not None and given not in (inert, f"{inert}.0"):
            raise UserError(f"--{name} {given} has no effect here: {reason}; leave the flag away")
    return values


def _refuse_unknown(values: Mapping[str, Any], known: set[str], *, where: str) -> None:
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
            raise UserError(f"unknown option '{name}' in {where}; did you mean '{near[0]}'?")


def _personal_defaults(home: Path, environment: Mapping[str, str], chosen: str | None) -> dict[str, Any]:
    """Options set once on this machine. Folders given for one data set are not applied to another."""
    names = set(TrainOptions.model_fields)
    path = Path(environment.get(f"{PREFIX}PATHS", home / "paths.yaml"))
    written = read_yaml(path) if path.is_file() or f"{PREFIX}PATHS" in environment else {}
    sections = {name: written.pop(name) for name in list_datasets() if isinstance(written.get(name), dict)}
    _refuse_unknown(written, names, where=str(path))
    for name, section in sections.items():
        _refuse_unknown(section, names, where=f"section {name} of {path}")
    spoken = {name: environment[PREFIX + name.upper()] for name in names if PREFIX + name.upper() in environment}
    values: dict[str, Any] = {}
    for source in (written, spoken):
        meant = source.get("dataset", values.get("dataset"))
        foreign = chosen is not None and meant is not None and chosen != meant
        values |= {name: value for name, value in source.items() if not (foreign and name in FOLDERS)}
    data_set = chosen or values.get("dataset") or TrainOptions.model_fields["dataset"].default
    section = {name: value for name, value in sections.get(data_set, {}).items() if name not in spoken}
    return {**values, **section}


def _plain(kind: type[OptionGroup], name: str, value: Any) -> Any:
    """``None``/``null`` text to None, and one name to a list of one where a list is expected; there None is no name."""
    if get_origin(kind.model_fields[name].annotation) is list and value in (["None"], "None", ""):
        return []
    if isinstance(value, str) and value in ("None", "null", "~", "") and name != "scheduler":
        return None
    if get_origin(kind.model_fields[name].annotation) is list and isinstance(value, str):
        return [value]
    return value
