"""How images become tensors: by name, for training and for evaluation.

Everything random is drawn from torch's global generator: call training views inside ``forked_random_state``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from distilplace.common.errors import UserError, unknown_name
from distilplace.datasets.io.images import NORMALISATIONS, evaluation_transform, training_transform, unit_tensor

if TYPE_CHECKING:
    from PIL.Image import Image

VIEWS = ("place", "posenet", "landmarks", "svd")
READS = {
    "place": {"normalisation", "rates"},
    "posenet": {"crop_size"},
    "landmarks": {"crop_size", "normalisation"},
    "svd": {"crop_size", "normalisation"},
}
"""Which settings of :func:`make_view` each kind reads in training; "landmarks" crops in training alone."""
CROPS = {"posenet", "svd"}
"""The kinds that crop in evaluation, too."""
WHITENING_VIEW = {"svd": 2}
"""The recipe (``view``) of images that a whitening is fitted on; 0 where a view has one recipe alone."""
POSE_CROP, LANDMARK_CROP, VIDEO_CROP = 224, 512, 224  # pixels, the views' own
CROP_SHARE = (0.4, 1.0)  # of the image's area, that random resized crops take
BLUR_SIGMA = (0.1, 2.0)  # pixels
Transform = Callable[["Image"], torch.Tensor]


def make_view(
    kind: str,
    *,
    augment: bool,
    crop_size: int | None = None,
    rates: tuple[float, float, float] = (0.2, 0.1, 0.5),
    normalisation: str = "imagenet",
    mean_image: np.ndarray | None = None,
    view: int = 0,
) -> Transform:
    """Image -> float32 [3, H, W], as ``kind`` (one of :data:`VIEWS`) has it; ``augment``: for training.

    "place": the whole image; in training with the colour jitter and erasing of ``rates`` (brightness, contrast and
    saturation; hue; erasing).
    "posenet" (SCKD, :class:`PoseNetView`): less ``mean_image``, a crop of 224 pixels.
    "landmarks" (Whiten_MTD on GLDv2): in training a random part resized to 512 pixels and flipped by chance; else the
    whole image.
    "svd" (Whiten_MTD on SVD, :func:`video_view`): crops of 224 pixels; training has the two recipes ``view`` 0 and 1.

    ``crop_size``, the side of the crop in pixels, replaces the 224 or 512; ``normalisation`` is a name of
    ``distilplace.datasets.io.images.NORMALISATIONS``, which "posenet" does without.

    Raises:
        UserError: the kind is unknown, or "posenet" has no mean image. When applied: the image does not fit the mean
            image or the crop ("posenet").

    """
    if kind not in VIEWS:
        raise unknown_name("--views", kind, VIEWS)
    if kind == "posenet":
        if mean_image is None:
            raise UserError(
                'the view "posenet" subtracts a mean image, and this data set has none: use a pose data set'
            )
        return PoseNetView(mean_image, crop_size or POSE_CROP, augment)
    if kind == "landmarks" and augment:
        return _landmark_view(crop_size or LANDMARK_CROP, normalisation)
    if kind == "svd":
        return video_view(augment, crop_size or VIDEO_CROP, normalisation, view)
    return training_transform(*rates, normalisation) if augment else evaluation_transform(normalisation)


@dataclass(frozen=True, eq=False)
class PoseNetView:
    """RGB image less ``mean_image`` (float32 [h, w, 3], 0..255), cropped to ``crop_size``: float32 [3, crop, crop].

    The crop lies anywhere in training (``augment``), else in the middle; no division by a deviation or by 255 (Kendall
    et al., PoseNet, ICCV 2015; SCKD's loader). The image must have the mean image's size, and hold the crop.
    """

    mean_image: np.ndarray
    crop_size: int
    augment: bool

    def __call__(self, image: "Image") -> torch.Tensor:
        """The tensor of one image."""
        height, width = self.mean_image.shape[:2]
        if image.size != (width, height):
            raise UserError(
                f"an image of {image.width}x{image.height} pixels does not fit the mean image of {width}x{height}: "
                f"set --image_size {height}x{width}"
            )
        side = self.crop_size
        if min(height, width) < side:
            raise UserError(
                f"images of {width}x{height} pixels are smaller than the crop of {side}x{side}: give a larger "
                "--image_size, or a smaller --crop_size"
            )
        top, left = self._offset(height - side), self._offset(width - side)
        part = np.s_[top : top + side, left : left + side]
        less = np.asarray(image, dtype=np.float32)[part] - self.mean_image[part].astype(np.float32)
        return torch.from_numpy(less).permute(2, 0, 1).contiguous()

    def _offset(self, room: int) -> int:
        """0 to ``room``, both included; in evaluation the middle, rounded as torchvision's centre crop does."""
        return int(torch.randint(room + 1, ())) if self.augment else round(room / 2)


@lru_cache(maxsize=4)
def _landmark_view(crop_size: int, normalisation: str) -> Transform:
    """Random resized crop and flip (Whiten_MTD's gld_distill)."""
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(crop_size, scale=CROP_SHARE)
    return v2.Compose([crop, v2.RandomHorizontalFlip(0.5), *_normalised(normalisation)])


@lru_cache(maxsize=8)
def video_view(augment: bool, crop_size: int, normalisation: str, view: int) -> Transform:
    """Frames of videos (Whiten_MTD's svd_distill, whose augmentation is Barlow Twins').

    Training: random resized crop, flip, colour jitter (0.4, 0.4, 0.2, 0.1) with probability 0.8, grey with 0.2; then
    the first view (0) is always blurred, the second (1) blurred with 0.1 and solarised with 0.2; images that a
    whitening is fitted on (2) are blurred with 0.5 and solarised with 0.2. Evaluation: the shorter side resized to 8/7
    of ``crop_size`` (256 for 224), centre crop.
    """
    from torchvision.transforms import v2

    if not augment:
        resize = v2.Resize(video_resize(crop_size))
        return v2.Compose([resize, v2.CenterCrop(crop_size), *_normalised(normalisation)])
    if view not in (0, 1, 2):
        raise ValueError(f"an image has the views 0, 1 and 2, not {view}")
    blur, solarise = ((1.0, 0.0), (0.1, 0.2), (0.5, 0.2))[view]
    return v2.Compose(
        [
            v2.RandomResizedCrop(crop_size, scale=CROP_SHARE),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([_blurred], p=blur),
            v2.RandomSolarize(128, p=solarise),
            *_normalised(normalisation),
        ]
    )


def video_resize(crop_size: int) -> int:
    """The shorter side, pixels, of what evaluation crops: 8/7 of the crop."""
    return round(crop_size * 256 / 224)


def middle(image: np.ndarray, side: int) -> np.ndarray:
    """The square in the middle of [h, w, 3], rounded as torchvision's centre crop does."""
    top, left = (round((length - side) / 2) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _blurred(image: "Image") -> "Image":
    """Gaussian blur of a random deviation. Pillow's, which is far faster than torchvision's 23 x 23 kernel."""
    from PIL.ImageFilter import GaussianBlur

    return image.filter(GaussianBlur(float(torch.empty(()).uniform_(*BLUR_SIGMA))))


def _normalised(normalisation: str) -> list[Callable[..., torch.Tensor]]:
    from torchvision.transforms import v2

    return [unit_tensor, v2.Normalize(*NORMALISATIONS[normalisation])]
