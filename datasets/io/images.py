"""Images: decoding with Pillow, and the transforms of training and evaluation (torchvision, loaded on first use)."""

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from distilplace.common.decoding import decode_rgb
from distilplace.runtime.resizing import Step

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# For images scaled to 0..1. "caffe": pixels of 0..255 less their mean, as OpenIBL's VGG16 checkpoints want them; "raw":
# 0..1 as they are, as Whiten_MTD evaluates videos.
NORMALISATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
    "raw": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class ImageSize(NamedTuple):
    """What images are resized to, in pixels: both sides, or the shorter one alone, ``height`` then.

    With ``at_most`` the longer side alone: images whose longer side exceeds ``height`` are shrunk to it, keeping their
    aspect; none is enlarged.
    """

    height: int
    width: int | None = None
    at_most: bool = False

    @property
    def step(self) -> Step:
        """The step that brings an image to this size, bicubic with antialiasing."""
        if self.at_most:
            return Step("longer_at_most", (self.height,))
        return Step("shorter", (self.height,)) if self.width is None else Step("resize", (self.height, self.width))

    def apply(self, image: "Image") -> "Image":
        """The image in this size."""
        return self.step.apply(image)


def parse_image_size(text: str) -> ImageSize:
    """Read "224" (square), "480x640" (height x width), "short640" (shorter side) or "max1024" (longer side at most).

    ValueError for anything else.
    """
    found = re.fullmatch(r"(short|max)?([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if found is None or (found[1] and found[3]):
        raise ValueError(f"'{text}' is no image size: give 224, 480x640 (height x width), short640 or max1024")
    height = int(found[2])
    if found[1]:
        return ImageSize(height, at_most=found[1] == "max")
    return ImageSize(height, int(found[3] or height))


def read_image(path: Path, upright: bool = False) -> "Image":
    """The decoded RGB image, turned as its EXIF orientation says if ``upright``; raises as :func:`decode_rgb`."""
    return decode_rgb(path, upright=upright)


@lru_cache(maxsize=2)
def evaluation_transform(normalisation: str = "imagenet") -> Callable[["Image"], torch.Tensor]:
    """Image -> float32 ``[3, H, W]``: scaled to 0..1, then normalised (:data:`NORMALISATIONS`)."""
    from torchvision.transforms import v2

    return v2.Compose([unit_tensor, v2.Normalize(*NORMALISATIONS[normalisation])])


@lru_cache(maxsize=8)
def training_transform(
    bcs_aug_rate: float = 0.2,
    hue_aug_rate: float = 0.1,
    erasing_aug_rate: float = 0.5,
    normalisation: str = "imagenet",
) -> Callable[["Image"], torch.Tensor]:
    """Colour jitter (brightness, contrast, saturation: ``bcs_aug_rate``; hue: ``hue_aug_rate``), erasing, normalising.

    Erasing: with probability ``erasing_aug_rate`` a rectangle of 0.1-0.4 of the area, aspect 0.3-3.3, is set to 0
    before normalisation.
    Draws from torch's global generator: call it inside ``forked_random_state``.
    """
    from torchvision.transforms import v2

    colour = v2.ColorJitter(bcs_aug_rate, bcs_aug_rate, bcs_aug_rate, hue_aug_rate)
    erasing = v2.RandomErasing(p=erasing_aug_rate, scale=(0.1, 0.4), ratio=(0.3, 3.3), value=0)
    return v2.Compose([colour, unit_tensor, erasing, v2.Normalize(*NORMALISATIONS[normalisation])])


def unit_tensor(image: "Image") -> torch.Tensor:
    """RGB image -> float32 ``[3, H, W]`` in 0..1. Divides by 255 as upstream does; v2.ToDtype multiplies by 1/255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
