"""From flags, recipe, environment and ``paths.yaml`` to checked options; every mistake is one line.

Later beats earlier: defaults, ``paths.yaml``, environment (``DISTILPLACE_EPOCHS=2``), recipe (``--config``), flags.
All values travel as text until pydantic converts them, so ``40_80`` means the same on the command line and in YAML.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import ValidationError

from distilplace.common.errors import UserError
from distilplace.common.home import named_recipe
from distilplace.datasets import list_datasets
from distilplace.engine.options import OptionGroup, TrainOptions
from distilplace.engine.options.aliases import ALIASES, SINGLE_DASH, refuse_ambiguous, resolve
from distilplace.engine.options.flags import REPEATABLE, flag_parser
from distilplace.engine.options.names import (
    COMMAND_LINE,
    PREFIX,
    PROGRAMS,
    Place,
    known_names,
    refuse_unknown,
    spoken_options,
    without_retired,
    written_options,
)
from distilplace.engine.options.relevance import refuse_unread, unread_note
from distilplace.engine.options.yaml_files import read_yaml

LOG = logging.getLogger("distilplace")
Parsed = TypeVar("Parsed", bound=OptionGroup)
FOLDERS = ("dataset_folder", "image_path")
ELSEWHERE = (*FOLDERS, "test_dataset", "test_folder", "query_image_size")


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
    flags ask that together. Raises :class:`UserError` with one line on any mistake.
    """
    environment = os.environ if environment is None else environment
    flags = _read_flags(kind, argv)
    recipe: dict[str, Any] = {}
    written = {"lr"} if f"{PREFIX}LR" in environment else set()
    if (config := flags.pop("config", None)) is not None:
        lines, place = read_yaml(named_recipe(config)), Place(f"recipe {config}")
        recipe = written_options(lines, place, kind, known_names(TrainOptions, kind))
        written |= {*lines}
    saved = dict(saved or {})
    chosen = flags.get("dataset", recipe.get("dataset"))
    if chosen is not None and chosen != saved.get("dataset"):
        saved = {name: value for name, value in saved.items() if name not in ELSEWHERE}
    spoken = spoken_options(environment)
    personal = _personal_defaults(home, environment, spoken, chosen=chosen or saved.get("dataset"))
    optional = {name for name, field in kind.model_fields.items() if not field.is_required()}
    quiet = {name: value for name, value in {**personal, **saved, **recipe}.items() if name in optional}
    options = check(kind, {name: _plain(kind, name, value) for name, value in {**quiet, **flags}.items()})
    refuse_ambiguous(options, argv, written)
    if all_read:
        refuse_unread([options], list(flags))
        own = {name for name in personal if name in optional} - {*flags, *recipe, *saved}
        sources = {f"recipe {config}": [name for name in recipe if name in optional and name not in flags]}
        sources |= {"environment": sorted(own & {*spoken}), "paths.yaml": sorted(own - {*spoken})}
        if note := unread_note(options, sources):
            LOG.info("%s", note)
    return options


def given(kind: type[OptionGroup], argv: Sequence[str]) -> list[str]:
    """Names of the options that a command line gives."""
    return [name for name in _read_flags(kind, argv, tell=False) if name != "config"]


def check(kind: type[Parsed], values: Mapping[str, Any]) -> Parsed:
    """Validated options; the first mistake becomes one line that names the flag."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = f"--{first['loc'][0]}: " if first["loc"] else ""
        got = f" (got {first['input']!r})" if first["loc"] and first["type"] != "missing" else ""
        raise UserError(f"{name}{first['msg'].removeprefix('Value error, ')}{got}") from None


def without_options(argv: Sequence[str], names: Collection[str]) -> list[str]:
    """A command line without the options ``names``, under whichever name and as often as they are given."""
    return [word for name, words in _pieces(argv) for word in words if name not in names]


def last_of_each(argv: Sequence[str]) -> list[str]:
    """A command line that a program put together, in which later options overrule: each option once, as said last."""
    pieces = _pieces(argv)
    last = {name: index for index, (name, _) in enumerate(pieces)}
    kept = [words for index, (name, words) in enumerate(pieces) if name in REPEATABLE or last[name] == index]
    return [word for words in kept for word in words]


def _pieces(argv: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The words of every option, with its own name."""
    own = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
    own |= {f"no_{name}": name for kind in PROGRAMS.values() for name in kind.model_fields}
    found: list[tuple[str, list[str]]] = []
    for word in argv:
        if word.startswith("--") or word in SINGLE_DASH or not found:
            name = word.lstrip("-").split("=")[0]
            found.append((own.get(name, name), []))
        found[-1][1].append(word)
    return found


def _read_flags(kind: type[OptionGroup], argv: Sequence[str], *, tell: bool = True) -> dict[str, Any]:
    words = [f"-{word}" if word in SINGLE_DASH else word for word in argv]
    parser = flag_parser(kind)
    values, unknown = parser.parse_known_args(words)
    for line in parser.overruled if tell else ():
        LOG.info("%s", line)
    if unknown:
        flag = unknown[0].split("=")[0]
        if not flag.startswith("--"):
            raise UserError(f"unexpected argument '{unknown[0]}'; options are written --name value (see --help)")
        refuse_unknown([flag.removeprefix("--")], {"config", *known_names(kind)}, COMMAND_LINE, kind)
    return resolve(without_retired(vars(values), COMMAND_LINE, tell=tell))


def _personal_defaults(
    home: Path, environment: Mapping[str, str], spoken: Mapping[str, Any], chosen: str | None
) -> dict[str, Any]:
    """Options set once on this machine. Folders given for one data set are not applied to another."""
    path = Path(environment.get(f"{PREFIX}PATHS", home / "paths.yaml"))
    written = read_yaml(path) if path.is_file() or f"{PREFIX}PATHS" in environment else {}
    sections = {name: written.pop(name) for name in list_datasets() if isinstance(written.get(name), dict)}
    known = known_names(TrainOptions)
    written = written_options(written, Place(str(path)), TrainOptions, known)
    for name, section in sections.items():
        sections[name] = written_options(section, Place(f"section {name} of {path}"), TrainOptions, known)
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
