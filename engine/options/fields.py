"""Types that options are made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from datasets.images import parse_image_size

NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


def _numbers(separated: str, number: type) -> str:
    try:
        values = [number(part) for part in separated.split("_")]
    except ValueError:
        raise ValueError(f"'{separated}' is not a list of numbers joined by '_', such as 1_0.5") from None
    if any(not value >= 0 for value in values):
        raise ValueError(f"'{separated}' holds a negative or undefined number")
    return separated


FloatList = Annotated[str, AfterValidator(lambda value: _numbers(value, float))]
IntList = Annotated[str, AfterValidator(lambda value: _numbers(value, int))]


def _image_size(text: str) -> str:
    parse_image_size(text)
    return text


ImageSize = Annotated[str, AfterValidator(_image_size)]


class OptionGroup(BaseModel):
    """A group of options: unknown names and undefined numbers are refused."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)
