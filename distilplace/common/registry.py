"""Things by name: tables of where each is defined, which load nothing before it is asked for."""

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from distilplace.common.errors import unknown_name

Entry = str | tuple[str, Mapping[str, Any]]
"""Where something is defined, "module:attribute"; with it the arguments that the name itself decides."""


class Registry(dict[str, Entry]):
    """Names and their entries; ``kind`` is what error messages call them ("data set", "model").

    ``registry[name]`` of a name that it lacks raises :class:`UserError`, with the nearest one that it has.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        super().__init__(entries)
        self.kind = kind

    def __missing__(self, name: str) -> Entry:
        raise unknown_name(self.kind, name, self)

    def load(self, name: str) -> Any:
        """The class or function behind a name."""
        return imported(self._target(name)[0])

    def settings(self, name: str) -> tuple[str, ...]:
        """The parameters of its constructor that are left to decide."""
        target, fixed = self._target(name)
        return tuple(key for key in parameters(imported(target)) if key not in fixed)

    def create(self, name: str, /, **settings: Any) -> Any:
        """A new one.

        Raises:
            UserError: an unknown name or setting (the nearest is offered), or what the constructor refuses.

        """
        check_settings(f"{self.kind} {name}", settings, self.settings(name))
        target, fixed = self._target(name)
        return imported(target)(**fixed, **settings)

    def _target(self, name: str) -> tuple[str, Mapping[str, Any]]:
        entry = self[name]
        return (entry, {}) if isinstance(entry, str) else entry


def imported(target: str) -> Any:
    """What "module:attribute" names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def parameters(found: Any) -> dict[str, inspect.Parameter]:
    """The named parameters of a function or a class; where its constructor passes ``**settings`` on, its parents' too.

    Of a class they come in the order of its constructor, behind those of the parents that it does not name itself.
    """
    if not isinstance(found, type):
        return dict(inspect.signature(found).parameters)
    named: dict[str, inspect.Parameter] = {}
    for base in found.__mro__:
        if "__init__" in vars(base):
            own = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            named = {
                each.name: each for each in own if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
            } | named
            if all(each.kind is not each.VAR_KEYWORD for each in own):
                break
    return named


def check_settings(what: str, given: Iterable[str], accepted: Iterable[str]) -> None:
    """Refuse settings of ``what`` that are not ``accepted`` (:class:`UserError`, the nearest offered)."""
    known = tuple(accepted)
    for key in given:
        if key not in known:
            raise unknown_name(f"setting of {what}", key, known)
