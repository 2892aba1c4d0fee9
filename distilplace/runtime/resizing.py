"""The steps that bring an image to its size: resized, or cut out of the middle. Pillow's arithmetic throughout."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distilplace.common.errors import UserError
from distilplace.runtime.values import REMEDY, integers, require_keys

if TYPE_CHECKING:
    from PIL.Image import Image

FILTERS = ("bicubic", "bilinear")
LARGEST_SIDE = 99_999
MOST_STEPS = 8
_SIDES = {"resize": 2, "shorter": 1, "shorter_cut": 1, "longer_at_most": 1, "crop": 2}


@dataclass(frozen=True)
class Step:
    """One change of an image's size.

    ``kind``, with the sides in pixels that it takes:
    "resize" (height, width): to both;
    "shorter" (side): the shorter side, the aspect kept, the longer side rounded; "shorter_cut" cuts its fraction off
    instead (torchvision's ``Resize``);
    "longer_at_most" (side): shrunk until the longer side fits, never enlarged (Pillow's ``thumbnail``);
    "crop" (height, width): the middle, offsets rounded as torchvision's ``CenterCrop`` does.
    """

    kind: str
    sides: tuple[int, ...]
    filter: str = "bicubic"

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width behind this step, where every image has them."""
        return (self.sides[0], self.sides[1]) if len(self.sides) == 2 else None

    def apply(self, image: "Image") -> "Image":
        """The image behind this step; UserError where it is smaller than the crop."""
        if self.kind == "crop":
            return self._cropped(image)
        if self.kind == "longer_at_most":
            if max(image.size) > self.sides[0]:
                image = image.copy()
                image.thumbnail((self.sides[0], self.sides[0]))
            return image
        from PIL.Image import Resampling

        size = self._target(image)
        method = Resampling.BICUBIC if self.filter == "bicubic" else Resampling.BILINEAR
        return image if image.size == size else image.resize(size, method)

    def _target(self, image: "Image") -> tuple[int, int]:
        """Width and height."""
        if self.kind == "resize":
            return self.sides[1], self.sides[0]
        if self.kind == "shorter":
            factor = self.sides[0] / min(image.size)
            return max(1, round(image.width * factor)), max(1, round(image.height * factor))
        longer = int(self.sides[0] * max(image.size) / min(image.size))
        return (self.sides[0], longer) if image.width <= image.height else (longer, self.sides[0])

    def _cropped(self, image: "Image") -> "Image":
        height, width = self.sides
        if image.height < height or image.width < width:
            raise UserError(
                f"an image of {image.width}x{image.height} pixels is smaller than the crop of {width}x{height} that "
                "this network takes: give larger images"
            )
        top, left = round((image.height - height) / 2), round((image.width - width) / 2)
        return image.crop((left, top, left + width, top + height))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"kind": self.kind, "sides": list(self.sides), "filter": self.filter}


def read_steps(values: object, where: str) -> tuple[Step, ...]:
    """Steps as :meth:`Step.to_dict` wrote them; UserError, naming the place ``where``, for anything else."""
    if not isinstance(values, list) or len(values) > MOST_STEPS:
        raise UserError(f"{where}: steps are no list of at most {MOST_STEPS}; {REMEDY}")
    return tuple(_read_step(value, f"{where}: step {number}") for number, value in enumerate(values, start=1))


def _read_step(value: object, where: str) -> Step:
    found = require_keys(value, ("kind", "sides", "filter"), where)
    kind, name = found["kind"], found["filter"]
    if not isinstance(kind, str) or kind not in _SIDES or name not in FILTERS:
        raise UserError(f"{where} ({kind!r}, {name!r}) is none that is known here; {REMEDY}")
    return Step(kind, integers(found["sides"], _SIDES[kind], (1, LARGEST_SIDE), f"{where}: sides"), name)
