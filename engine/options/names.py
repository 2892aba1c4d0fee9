"""Under which names options are written: on the command line, in recipes and paths.yaml, in the environment.

One option has one name and sometimes others (``distilplace.engine.options.aliases``); what the published trainer had
and has no use here is retired; every other name is refused, with the one that was meant.
"""

import difflib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from distilplace.common.errors import UserError
from distilplace.engine.options import RETIRED, EvaluateOptions, OptionGroup, TrainOptions
from distilplace.engine.options.aliases import ALIASES, resolve

LOG = logging.getLogger("distilplace")
PREFIX = "DISTILPLACE_"
NO_OPTIONS = ("PATHS", "CACHE", "SHARED")
"""What the environment says of the machine: the file paths.yaml, the folder of hashes, the folder of test material."""
PROGRAMS: dict[str, type[OptionGroup]] = {"train.py": TrainOptions, "evaluate.py": EvaluateOptions}


@dataclass(frozen=True)
class Place:
    """Where options are written, and how a name looks there."""

    words: str
    prefix: str = ""

    def told(self, name: str) -> str:
        """A name in a message: ``--epochs``, ``DISTILPLACE_EPOCHS``, ``epochs (recipe r.yaml)``."""
        if self.prefix == PREFIX:
            return PREFIX + name.upper()
        return f"--{name}" if self.prefix else f"{name} ({self.words})"


COMMAND_LINE = Place("the command line", "--")
ENVIRONMENT = Place("the environment", PREFIX)


def known_names(*kinds: type[OptionGroup]) -> set[str]:
    """The names of the options of these classes, with the other names that they have."""
    own = {name for kind in kinds for name in kind.model_fields}
    return own | {alias for name in own for alias in ALIASES.get(name, ())}


def refuse_unknown(names: Iterable[str], known: set[str], place: Place, kind: type[OptionGroup]) -> None:
    """Refuse a name that is none of ``known``: :class:`UserError` with the program that has it, or the nearest name."""
    for name in names:
        if name in known:
            continue
        for program, other in PROGRAMS.items():
            if not issubclass(kind, other) and name in known_names(other):
                raise UserError(f"{place.told(name)} is an option of {program}; omit it here")
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
        raise UserError(f"unknown option '{name}' in {place.words}; did you mean '{near[0]}'?")


def without_retired(values: Mapping[str, Any], place: Place, *, tell: bool = True) -> dict[str, Any]:
    """The values without retired options, which are told; :class:`UserError` for one with a value that meant much."""
    kept = dict(values)
    for name in [name for name in values if name in RETIRED]:
        inert, reason = RETIRED[name]
        given = kept.pop(name)
        if inert is None and tell:
            LOG.info("%s has no effect here: %s", place.told(name), reason)
        if inert is not None and str(given) not in (inert, f"{inert}.0"):
            raise UserError(f"{place.told(name)} {given} has no effect here: {reason}; omit it")
    return kept


def written_options(
    values: Mapping[str, Any], place: Place, kind: type[OptionGroup], known: set[str]
) -> dict[str, Any]:
    """The options of a file, under their own names.

    Raises:
        UserError: an unknown name, or one option under two names with two values.

    """
    kept = without_retired(values, place)
    refuse_unknown(kept, known, place, kind)
    return resolve(kept, place.told)


def spoken_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """The options of the environment, such as ``DISTILPLACE_EPOCHS=3``, under their own names.

    Raises:
        UserError: an unknown variable of that prefix, or one option under two names with two values.

    """
    known = known_names(*PROGRAMS.values())
    named = {name.upper(): name for name in (*RETIRED, *known)}
    values = {}
    for variable in sorted(name for name in environment if name.startswith(PREFIX)):
        bare = variable.removeprefix(PREFIX)
        if bare in named:
            values[named[bare]] = environment[variable]
        elif bare not in NO_OPTIONS:
            near = difflib.get_close_matches(bare.upper(), sorted((*named, *NO_OPTIONS)), n=1, cutoff=0.0)
            remedy = "name it with --config" if bare.upper() == "CONFIG" else f"did you mean {PREFIX}{near[0]}?"
            raise UserError(f"unknown variable {variable} in the environment; {remedy}")
    return resolve(without_retired(values, ENVIRONMENT), ENVIRONMENT.told)
