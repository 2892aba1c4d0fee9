"""The picture at the top of the README, from the generated world: ``python -m tools.demo.teaser``.

Left what the teacher sees (a LiDAR cloud and an image), right what the student sees (the image alone).
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path
from distilplace.common.home import program
from distilplace.datasets.readers.demo.data import DemoData
from distilplace.datasets.records import PlaceRecord
from distilplace.engine.program import exit_code

INK, TEACHER, STUDENT = "#26323f", "#b5531c", "#1c6ab5"


def draw(cloud: np.ndarray, image: Any, target: Path) -> None:
    """The figure as a PNG of 256 colours. ``cloud``: float [N, 3]; ``image``: a PIL image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(9.6, 3.0), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    _cloud(figure.add_axes((0.01, 0.16, 0.22, 0.68)), cloud)
    for left in (0.24, 0.76):
        _image(figure.add_axes((left, 0.16, 0.22, 0.68)), image)
    for x, text, colour in ((0.235, "teacher: LiDAR + image", TEACHER), (0.87, "student: image alone", STUDENT)):
        figure.text(x, 0.91, text, ha="center", va="center", color=colour, fontsize=13, weight="bold")
    between = figure.add_axes((0.47, 0.16, 0.28, 0.68))
    between.axis("off")
    arrow = {"arrowstyle": "-|>", "lw": 3, "color": INK, "mutation_scale": 24}
    between.annotate("", (0.98, 0.5), (0.02, 0.5), xycoords="axes fraction", arrowprops=arrow)
    between.text(0.5, 0.66, "distil", ha="center", color=INK, fontsize=14, transform=between.transAxes)
    for x, text in ((0.235, "LiDAR cloud and camera image"), (0.61, "train once"), (0.87, "what the robot carries")):
        figure.text(x, 0.07, text, ha="center", va="center", color=INK, fontsize=10)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    with atomic_path(target) as path:
        picture.quantize(256, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)


def _cloud(axes: Any, cloud: np.ndarray) -> None:
    """The cloud seen from behind and above, coloured by height."""
    x, y, z = cloud[np.argsort(cloud[:, 2])].T  # forward, left, up
    axes.scatter(-y, 0.7 * x + z, c=z, s=2.5, cmap="turbo", linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[], facecolor="#10161d")


def _image(axes: Any, image: Any) -> None:
    axes.imshow(image, interpolation="lanczos")
    axes.axis("off")


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit code 2 with one line on bad input."""
    parser = argparse.ArgumentParser(prog=program("tools.demo.teaser"), description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("docs/teaser.png"), help="picture to write")
    parser.add_argument("--frame", type=int, default=20, help="which training frame")
    parser.add_argument("--dataset_folder", type=Path, default=None, help="where worlds are kept (default data/demo)")
    chosen = parser.parse_args(arguments)

    def work() -> None:
        data = DemoData(chosen.dataset_folder)
        cloud, image = seen(data, data.training_set().records, chosen.frame)
        draw(cloud, image, chosen.output)
        print(f"teaser: {chosen.output} ({chosen.output.stat().st_size // 1024} KiB)")

    return exit_code(work)


def seen(data: DemoData, records: Any, frame: int) -> tuple[np.ndarray, Any]:
    """Cloud and image of one training frame."""
    if not 0 <= frame < len(records):
        raise UserError(f"--frame {frame}: the world has training frames 0 to {len(records) - 1}")
    record: PlaceRecord = records[frame]
    assert record.cloud is not None
    return data.read_cloud(record.cloud), data.image(record.images[0])


if __name__ == "__main__":
    sys.exit(main())
