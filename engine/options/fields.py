"""Types that options are made of."""

from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from distilplace.common.numbers import parse_number
from distilplace.datasets.io.images import parse_image_size

NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
LARGEST = 2**63 - 1
"""Whole number that every library takes."""


def _numbers(separated: str, number: type) -> str:
    if not separated.isascii():
        raise ValueError(f"'{separated}' holds other characters than the digits 0 to 9, points and '_'")
    try:
        values = [number(part) for part in separated.split("_")]
    except ValueError:
        raise ValueError(f"'{separated}' is not a list of numbers joined by '_', such as 1_0.5") from None
    if any(not value >= 0 for value in values):
        raise ValueError(f"'{separated}' holds a negative or undefined number")
    return separated


FloatList = Annotated[str, AfterValidator(lambda value: _numbers(value, float))]
IntList = Annotated[str, AfterValidator(lambda value: _numbers(value, int))]
Milestones = Annotated[IntList, AfterValidator(lambda value: _rising(value))]


def _rising(separated: str) -> str:
    """Refuses a list that a schedule could mean in two ways: an epoch twice, or a later one before an earlier."""
    values = [int(part) for part in separated.split("_")]
    if len({*values}) < len(values):
        raise ValueError(f"'{separated}' names an epoch twice: name each once")
    if values != sorted(values):
        raise ValueError(f"'{separated}' is not in rising order: write {'_'.join(map(str, sorted(values)))}")
    return separated


def _image_size(text: str) -> str:
    parse_image_size(text)
    return text


ImageSize = Annotated[str, AfterValidator(_image_size)]


def _named(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        pairs = [word.partition("=") for word in value.split()]
        if any(not (key and equals and text) for key, equals, text in pairs):
            raise ValueError("write settings as name=value, with a space between two, such as 'alpha=2 beta=50'")
        if len({key for key, _, _ in pairs}) < len(pairs):
            raise ValueError("a setting is given twice: keep one of them")
        return {key: text for key, _, text in pairs}
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("give settings as name=value, or in a recipe as a mapping 'name: value'")
    return value


NamedSettings = Annotated[dict[str, str], BeforeValidator(_named)]
"""``alpha=2 beta=50``, in a recipe a mapping too; the values stay text until their owner reads them."""


class OptionGroup(BaseModel):
    """A group of options: unknown names and undefined numbers are refused, and numbers written in unusual ways."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plainly_written(cls, value: Any, info: ValidationInfo) -> Any:
        """``1_000`` is one number to Python and two to a list such as ``40_80``: neither guess is made."""
        if info.field_name is not None and _is_number(cls.model_fields[info.field_name].annotation):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and parse_number(text) is None and _reads_as_number(text):
                    raise ValueError("write numbers with the digits 0 to 9 alone, such as 1000 or 0.5")
        return value

    @field_validator("*")
    @classmethod
    def _not_too_large(cls, value: Any) -> Any:
        if type(value) is int and value > LARGEST:
            raise ValueError(f"the largest is {LARGEST}")
        return value


def _is_number(annotation: Any) -> bool:
    """Is a type int or float, one of them or None, or a list of them?"""
    if get_origin(annotation) is Annotated:
        return _is_number(get_args(annotation)[0])
    return annotation in (int, float) or any(_is_number(part) for part in get_args(annotation))


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
