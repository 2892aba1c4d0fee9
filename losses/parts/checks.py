"""Settings that say in their own annotation what a legal value is: ``kd_temperature: Positive = 4.0``.

A term's keyword-only parameters are its settings; their names are command-line flags. Checking happens once, when a
method is built, so that a term itself may trust what it is given.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, get_type_hints

from distilplace.losses import settings


@dataclass(frozen=True)
class OneOf:
    """The check of a setting that is one of a few words."""

    words: tuple[str, ...]

    def __call__(self, name: str, value: object) -> str:
        """``value`` if it is one of the words."""
        return settings.choice(name, value, self.words)


Positive = Annotated[float, settings.positive]
PositiveOrNone = Annotated[float | None, settings.positive_or_none]
Weight = Annotated[float, settings.weight]
Share = Annotated[float, settings.share]
Switch = Annotated[bool, settings.switch]
Count = Annotated[int, settings.whole]
CountOrZero = Annotated[int, partial(settings.whole, least=0)]


def setting_defaults(target: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults of the settings of a function or class: its keyword-only parameters."""
    parameters = inspect.signature(target).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}


def checked(target: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of ``target``, those given in place of the defaults, each found legal by its annotation.

    Raises:
        UserError: a value that its annotation refuses.

    """
    annotated: Any = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    hints = get_type_hints(annotated, include_extras=True)
    values = {name: given.get(name, default) for name, default in setting_defaults(target).items()}
    return {name: hints[name].__metadata__[0](name, value) for name, value in values.items()}
