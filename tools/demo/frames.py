"""A contact sheet of random frames of the demo world, to judge it by eye: ``python -m tools.demo.frames``.

The world is generated when it is not there yet (about a minute). The same seed shows the same frames.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path
from distilplace.common.home import program
from distilplace.common.randomness import generator
from distilplace.datasets.readers.demo.data import DemoData
from distilplace.engine.program import exit_code

COLUMNS = 4


def pick_frames(data: DemoData, count: int, seed: int) -> list[Path]:
    """``count`` different images of the world, every traversal as often as the others (to within one)."""
    runs = sorted(folder for folder in data.dataset_folder.joinpath("images").iterdir() if folder.is_dir())
    random = generator("demo frames", seed)
    order = [runs[i] for i in random.permutation(len(runs))]
    shuffled = {run: random.permutation(np.array(sorted(run.glob("*.png")), dtype=object)) for run in order}
    if count > sum(len(files) for files in shuffled.values()):
        raise UserError(f"--count {count}: the world has only {sum(map(len, shuffled.values()))} frames")
    chosen: list[Path] = []
    turn = 0
    while len(chosen) < count:
        run = order[turn % len(order)]
        if turn // len(order) < len(shuffled[run]):
            chosen.append(shuffled[run][turn // len(order)])
        turn += 1
    return sorted(chosen)


def contact_sheet(frames: list[Path], target: Path) -> None:
    """The frames side by side, four a row, as a PNG of 256 colours (true colour is three times as big)."""
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in frames]
    width, height = pictures[0].size
    columns = min(COLUMNS, len(pictures))
    sheet = Image.new("RGB", (width * columns, height * -(-len(pictures) // columns)))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    with atomic_path(target) as path:
        sheet.quantize(256, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit code 2 with one line on bad input."""
    parser = argparse.ArgumentParser(prog=program("tools.demo.frames"), description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("docs/demo_frames.png"), help="picture to write")
    parser.add_argument("--count", type=int, default=12, help="number of frames")
    parser.add_argument("--seed", type=int, default=1, help="which frames")
    parser.add_argument("--demo_seed", type=int, default=1, help="which world")
    parser.add_argument("--dataset_folder", type=Path, default=None, help="where worlds are kept (default data/demo)")
    chosen = parser.parse_args(arguments)

    def work() -> None:
        if chosen.count < 1:
            raise UserError(f"--count {chosen.count}: must be at least 1")
        data = DemoData(chosen.dataset_folder, chosen.demo_seed)
        frames = pick_frames(data, chosen.count, chosen.seed)
        contact_sheet(frames, chosen.output)
        for frame in frames:
            print(frame.relative_to(data.dataset_folder))
        print(f"contact sheet: {chosen.output} ({chosen.output.stat().st_size // 1024} KiB)")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
