"""The images that an export is calibrated and compared on, as uint8 [b, H, W, 3] of the size that the network takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from distilplace.common.errors import UserError
from distilplace.common.inputs.image_files import find_images
from distilplace.common.randomness import generator
from distilplace.datasets.base import PlaceData
from distilplace.datasets.records import PlaceRecord
from distilplace.runtime.preprocessing import Preprocessing

GENERATED = 16


@dataclass(frozen=True)
class Images:
    """Images of one origin, opened when they are needed."""

    title: str
    sources: Sequence[Any]
    """Paths, records of ``data``, or arrays."""
    preprocessing: Preprocessing
    data: PlaceData | None = None

    def __len__(self) -> int:
        return len(self.sources)

    def __str__(self) -> str:
        return f"{self.title} ({len(self)} images)"

    def batches(self, size: int, title: str) -> Iterator[np.ndarray]:
        """The images in order, at most ``size`` at once and only those of one height and width together."""
        batch: list[np.ndarray] = []
        for source in tqdm(self.sources, desc=title, leave=False, delay=1, disable=None):
            pixels = self._pixels(source)
            if batch and (len(batch) == size or batch[0].shape != pixels.shape):
                yield np.stack(batch)
                batch = []
            batch.append(pixels)
        if batch:
            yield np.stack(batch)

    def spread(self, most: int) -> "Images":
        """At most ``most`` of them, evenly spread over their order."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(int))
        return Images(self.title, [self.sources[row] for row in chosen], self.preprocessing, self.data)

    def _pixels(self, source: Any) -> np.ndarray:
        if isinstance(source, PlaceRecord):
            assert self.data is not None
            if not source.images:
                raise UserError(f"place {source.key} has no image: set --image_path")
            image = self.data.image(source.images[0], source.crop, as_query=source.as_query)
            return self.preprocessing.apply(image, as_query=source.as_query)
        return self.preprocessing.apply(source)


def images_in(folder: Path, preprocessing: Preprocessing) -> Images:
    """The images below a folder, by name; :class:`UserError` without any."""
    if not folder.is_dir():
        raise UserError(f"--calibrate {folder} is no folder: give one with images as the robot sees them")
    found = find_images(folder.resolve()).files
    if not found:
        raise UserError(f"--calibrate {folder} holds no image: give a folder with images as the robot sees them")
    return Images(f"the images in {folder}", found, preprocessing)


def generated_images(size: tuple[int, int], preprocessing: Preprocessing) -> Images:
    """Pictures of random blotches, where there are no others: enough to see that two programs compute the same."""
    from PIL import Image

    draw = generator("export", "images")
    small = draw.integers(0, 256, (GENERATED, 8, 8, 3), dtype=np.uint8)
    pictures = [
        np.asarray(Image.fromarray(each).resize((size[1], size[0]), Image.Resampling.BICUBIC)) for each in small
    ]
    return Images("generated pictures", pictures, preprocessing)
