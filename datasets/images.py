"""Images: decoding with Pillow, and the transforms of training and evaluation (torchvision, loaded on first use)."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from common.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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


@lru_cache(maxsize=1)
def evaluation_transform() -> Callable[["Image"], torch.Tensor]:
    """Image -> float32 ``[3, H, W]``: scaled to 0..1, then ImageNet-normalised."""
    from torchvision.transforms import v2

    return v2.Compose([unit_tensor, v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


@lru_cache(maxsize=8)
def training_transform(bcs_aug_rate: float = 0.2, hue_aug_rate: float = 0.1) -> Callable[["Image"], torch.Tensor]:
    """Colour jitter (brightness, contrast, saturation: ``bcs_aug_rate``; hue: ``hue_aug_rate``), erasing, normalising.

    Erasing: with probability 0.5 a rectangle of 0.1-0.4 of the area, aspect 0.3-3.3, is set to 0 before normalisation.
    Draws from torch's global generator: call it inside ``forked_random_state``.
    """
    from torchvision.transforms import v2

    colour = v2.ColorJitter(bcs_aug_rate, bcs_aug_rate, bcs_aug_rate, hue_aug_rate)
    erasing = v2.RandomErasing(p=0.5, scale=(0.1, 0.4), ratio=(0.3, 3.3), value=0)
    return v2.Compose([colour, unit_tensor, erasing, v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


def unit_tensor(image: "Image") -> torch.Tensor:
    """RGB image -> float32 ``[3, H, W]`` in 0..1. Divides by 255 as upstream does; v2.ToDtype multiplies by 1/255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
