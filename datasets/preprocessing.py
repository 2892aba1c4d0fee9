"""How a data set's evaluation images are made, in the plain values that a weights file carries."""

from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.base import PlaceData
from distilplace.datasets.io.images import NORMALISATIONS, ImageSize
from distilplace.datasets.transforms.views import CROPS, POSE_CROP, VIDEO_CROP, middle, video_resize
from distilplace.runtime.preprocessing import Preprocessing
from distilplace.runtime.resizing import Step


def preprocessing_of(data: PlaceData, example: Path | None = None) -> Preprocessing:
    """What turns an image file into the pixels that ``data`` evaluates with, and normalises them.

    Args:
        data: the data set.
        example: one of its training images, for the size that they have; None: it stays unknown.

    Raises:
        UserError: images of a view that steps cannot say; an ``example`` that cannot be read.

    """
    if data.views not in ("place", "landmarks", *CROPS):
        raise UserError(f"--views {data.views} cannot be written into a weights file: choose another view")
    mean_image = data.mean_image if data.views == "posenet" else None
    mean, std = NORMALISATIONS[data.normalisation]
    found = Preprocessing(
        upright=data.upright,
        steps=_steps(data, data.resize, mean_image),
        query_steps=None if data.query_resize is None else _steps(data, data.query_resize, mean_image),
        mean=mean,
        std=std,
        mean_image=None if mean_image is None else middle(mean_image, data.crop_size or POSE_CROP).astype(np.float32),
    )
    if example is None:
        return found
    height, width = found.apply(example).shape[:2]
    return Preprocessing(**{**vars(found), "trained_size": (height, width)})


def _steps(data: PlaceData, resize: ImageSize | None, mean_image: np.ndarray | None) -> tuple[Step, ...]:
    """Those of the data set, then those of its view."""
    steps = [size.step for size in (data.common_size(), resize) if size is not None]
    if mean_image is not None:  # a mean image fits images of one size alone
        steps.append(Step("resize", (mean_image.shape[0], mean_image.shape[1])))
        steps.append(Step("crop", (data.crop_size or POSE_CROP,) * 2))
    elif data.views == "svd":
        side = data.crop_size or VIDEO_CROP
        steps += [Step("shorter_cut", (video_resize(side),), "bilinear"), Step("crop", (side, side))]
    return tuple(steps)
