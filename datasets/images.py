"""Images: decoding with Pillow, and the transforms of training and evaluation (torchvision, loaded on first use)."""

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from common.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# "caffe": pixels of 0..255 less their mean, as OpenIBL's VGG16 checkpoints want them; for images scaled to 0..1.
NORMALISATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
}


class ImageSize(NamedTuple):
    """What images are resized to: both sides, or the shorter one alone (pixels)."""

    height: int
    width: int | None = None

    def apply(self, image: "Image") -> "Image":
        """The image in this size, bicubic with antialiasing."""
        from PIL.Image import Resampling

        if self.width is not None:
            size = (self.width, self.height)
        else:
            factor = self.height / min(image.size)
            size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return image if image.size == size else image.resize(size, Resampling.BICUBIC)


def parse_image_size(text: str) -> ImageSize:
    """Read "224" (square), "480x640" (height x width) or "short640" (shorter side); ValueError for anything else."""
    found = re.fullmatch(r"(short)?([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if found is None or (found[1] and found[3]):
        raise ValueError(f"'{text}' is no image size: give 224, 480x640 (height x width) or short640")
    height = int(found[2])
    return ImageSize(height, None if found[1] else int(found[3] or height))


def read_image(path: Path) -> "Image":
    """The decoded RGB image; :class:`UserError` naming the file when it is missing or cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"image {path} does not exist: check --image_path and the image index") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} cannot be decoded: {error}") from error


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
