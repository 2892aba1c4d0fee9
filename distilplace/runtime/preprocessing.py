"""From an image file to what a network was trained on, with NumPy and Pillow alone: a weights file carries this.

``apply`` gives uint8 RGB [H, W, 3] (orientation, size, crop), ``normalise`` the float32 [B, 3, H, W] of it. Pixels
equal those of ``distilplace.datasets`` (its evaluation views), which use the same calls of Pillow.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distilplace.common.decoding import as_rgb, decode_rgb
from distilplace.common.errors import UserError
from distilplace.runtime.resizing import Step, read_steps
from distilplace.runtime.values import integers, numbers, require_keys

if TYPE_CHECKING:
    from PIL.Image import Image

KEYS = ("upright", "steps", "query_steps", "trained_size", "normalisation")
LARGEST_SIDE = 20_000
_ZEROS, _ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """How an image file becomes the input of a network."""

    upright: bool = False
    """Is the image turned as its EXIF orientation says?"""
    steps: tuple[Step, ...] = ()
    """What happens to its pixels, in order."""
    query_steps: tuple[Step, ...] | None = None
    """The same of queries, where they have a size of their own."""
    trained_size: tuple[int, int] | None = None
    """Height and width of the training images behind ``steps``; None: unknown."""
    mean: tuple[float, ...] = _ZEROS
    """Per channel, of pixels in 0..1; subtracted."""
    std: tuple[float, ...] = _ONES
    """Per channel; divided by."""
    mean_image: np.ndarray | None = None
    """Float32 [H, W, 3] in 0..255 (PoseNet): subtracted from pixels in 0..255 instead of ``mean`` and ``std``."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that every image ends with; None where they depend on the image."""
        return self.steps[-1].size if self.steps else None

    def apply(self, image: "Path | str | Image | np.ndarray", *, as_query: bool = False) -> np.ndarray:
        """Uint8 RGB [H, W, 3].

        Args:
            image: a file, an opened image of any mode, or uint8 RGB [h, w, 3] (a camera's; OpenCV's are BGR).
            as_query: with the steps of queries.

        Raises:
            UserError: no image, one that is damaged, another array, or too small for the crop.

        """
        opened = self._opened(image)
        for step in (self.query_steps if as_query else None) or self.steps:
            opened = step.apply(opened)
        return np.array(opened)

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 [B, 3, H, W] of uint8 [B, H, W, 3]."""
        values = pixels.astype(np.float32)
        if self.mean_image is not None:
            values = values - self.mean_image
        else:
            mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
            values = (values / np.float32(255) - mean) / std
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Of a mean image its shape and hash: the pixels lie beside the weights, as a tensor."""
        normalisation: dict[str, Any] = {"mean": list(self.mean), "std": list(self.std)}
        if self.mean_image is not None:
            shape, digest = list(self.mean_image.shape), _hash_of(self.mean_image)
            normalisation = {"mean_image": {"shape": shape, "sha256": digest}}
        queries = None if self.query_steps is None else [step.to_dict() for step in self.query_steps]
        return {
            "upright": self.upright,
            "steps": [step.to_dict() for step in self.steps],
            "query_steps": queries,
            "trained_size": None if self.trained_size is None else list(self.trained_size),
            "normalisation": normalisation,
        }

    @classmethod
    def from_dict(cls, values: object, source: str, mean_image: np.ndarray | None = None) -> "Preprocessing":
        """Read :meth:`to_dict`; ``source`` names the file in messages, ``mean_image`` is the tensor it holds.

        Raises:
            UserError: unknown or missing entries, values out of range, a mean image that is absent or another.

        """
        where = f"{source}: preprocessing"
        found = require_keys(values, KEYS, where)
        if not isinstance(found["upright"], bool):
            raise UserError(f"{where}: upright is {found['upright']!r}, neither true nor false")
        queries, size = found["query_steps"], found["trained_size"]
        normalisation = found["normalisation"]
        subtracts = isinstance(normalisation, Mapping) and "mean_image" in normalisation
        mean, std = (_ZEROS, _ONES) if subtracts else _mean_and_std(normalisation, where)
        return cls(
            upright=found["upright"],
            steps=read_steps(found["steps"], where),
            query_steps=None if queries is None else read_steps(queries, where),
            trained_size=None
            if size is None
            else _pair(integers(size, 2, (1, LARGEST_SIDE), f"{where}: trained_size")),
            mean=mean,
            std=std,
            mean_image=_checked_mean(normalisation["mean_image"], mean_image, where) if subtracts else None,
        )

    def _opened(self, image: "Path | str | Image | np.ndarray") -> "Image":
        from PIL import Image

        if isinstance(image, str | Path):
            return decode_rgb(Path(image), upright=self.upright)
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise UserError(
                    f"an array {image.dtype} {list(image.shape)} is no image: give uint8 RGB [height, width, 3]"
                )
            return Image.fromarray(np.ascontiguousarray(image))
        if isinstance(image, Image.Image):
            name = getattr(image, "filename", "") or "that was given"
            try:
                return as_rgb(image, name, upright=self.upright)
            except (OSError, SyntaxError, ValueError) as error:
                raise UserError(f"image {name} cannot be decoded ({error}): open it again") from error
        raise UserError(
            f"a {type(image).__name__} is no image: give a path, a PIL image, or uint8 RGB [height, width, 3]"
        )


def _mean_and_std(values: object, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    found = require_keys(values, ("mean", "std"), f"{where}: normalisation")
    mean = numbers(found["mean"], 3, (-1e6, 1e6), f"{where}: mean")
    return mean, numbers(found["std"], 3, (1e-6, 1e6), f"{where}: std")


def _checked_mean(values: object, mean_image: np.ndarray | None, where: str) -> np.ndarray:
    found = require_keys(values, ("shape", "sha256"), f"{where}: mean_image")
    if mean_image is None:
        raise UserError(f"{where}: the mean image that is subtracted is absent: make the file again")
    if list(mean_image.shape) != found["shape"] or _hash_of(mean_image) != found["sha256"]:
        raise UserError(f"{where}: the mean image is another than the file states: fetch or make it again")
    return mean_image


def _hash_of(mean_image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(mean_image, dtype="<f4").tobytes()).hexdigest()


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]
