"""The pictures of reports: a folder of files named by their content, and records as pictures.

Only image files are opened, never clouds.
"""

import hashlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from distilplace.common.decoding import decode_rgb, image_size
from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path

if TYPE_CHECKING:
    from PIL import Image

    from distilplace.datasets.records import PlaceRecord

_Source = tuple[Path, tuple[float, float, float, float] | None, int]
_CROP = "#ffd400"


class PictureFolder:
    """Writes pictures under names made of their content; equal pictures are one file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: set[str] = set()
        self._links: dict[_Source, str | None] = {}

    def add(self, content: bytes, suffix: str) -> str:
        """The link (relative to the page) of a picture, written unless it is there already."""
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"
        if name not in self.written:
            with atomic_path(self.folder / name) as path:
                path.write_bytes(content)
            self.written.add(name)
        return f"{self.folder.name}/{name}"

    def add_image(self, image: "Image.Image") -> str:
        """The link of an image, written as JPEG."""
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=85)
        return self.add(buffer.getvalue(), "jpg")

    def add_record(self, record: "PlaceRecord", width: int = 360) -> str | None:
        """The link of a record's picture, its crop framed; None where it has none that can be read."""
        if not record.images:
            return None
        source = (record.images[0], record.crop, width)
        if source not in self._links:
            image = picture(record, width)
            if image is not None and record.crop is not None:
                image = _framed(image, record.images[0], record.crop)
            self._links[source] = None if image is None else self.add_image(image)
        return self._links[source]

    def remove_others(self) -> None:
        """Delete the pictures of earlier reports (only files named as this class names them)."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if re.fullmatch(r"[0-9a-f]{16}\.(png|jpg)", path.name) and path.name not in self.written:
                    path.unlink()


def _framed(image: "Image.Image", source: Path, crop: tuple[float, float, float, float]) -> "Image.Image":
    """``image``, a reduced copy of the file ``source``, with a frame around ``crop`` (pixels of the file)."""
    from PIL import ImageDraw

    scale = image.width / image_size(source)[0]
    box = [side * scale for side in crop]
    corners = (box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1))
    ImageDraw.Draw(image).rectangle(corners, outline=_CROP, width=max(2, image.width // 90))
    return image


def picture(record: "PlaceRecord", width: int) -> "Image.Image | None":
    """The record's nearest image, ``width`` pixels wide at most; None where there is no readable image."""
    from PIL import Image

    if not record.images:
        return None
    try:
        image = decode_rgb(record.images[0], upright=record.upright)
    except UserError:
        return None
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    return image
