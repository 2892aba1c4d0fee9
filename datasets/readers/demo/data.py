"""``demo``: a generated town in Oxford's layout, made on first use, the same on every machine for the same seed.

Five training traversals and four test traversals of one route, in different weather, light and season, with
some parked cars moved. What is in the town: ``distilplace/demoworld``. On disk it is an Oxford data set like any other.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.datasets.readers.oxford.data import OxfordData
from distilplace.datasets.readers.oxford.layout import (
    IMAGES,
    TEST_FOLDER,
    TRAINING_FOLDER,
    WrittenRun,
    write_lists,
    write_place,
)
from distilplace.datasets.records import EvaluationSet

# Raise it whenever the generator's output changes: worlds of other versions are left alone and a new one is made.
VERSION = 2
ORIGIN = (5735712.0, 620084.0)  # northing, easting of the town's origin, metres
MANIFEST = "demo.json"
T = TypeVar("T")


class DemoData(OxfordData):
    """The generated world ``demo_seed``; ``places`` a traversal, ``train_runs`` and ``test_runs`` shrink it for tests.

    ``dataset_folder`` is where worlds are kept (default ``data/demo``); each has a folder of its own there.
    """

    name = "demo"

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        demo_seed: int = 1,
        image_lidar_k: int | None = 1,
        quantization_size: float | None = None,
        places: int = 60,
        train_runs: int = 5,
        test_runs: int = 4,
    ) -> None:
        folder = Path(dataset_folder or "data/demo")
        if (folder / MANIFEST).is_file():
            above = Path(os.path.abspath(folder)).parent
            raise UserError(
                f"{flag_of(folder)} {folder} is a demo world itself: give the folder that it lies in, {above}"
            )
        world = folder / f"v{VERSION}-seed{demo_seed}-{places}x{train_runs}+{test_runs}"
        notes = [f"demo world {world}"]
        if not (world / MANIFEST).is_file():
            generate(world, demo_seed, places, train_runs, test_runs)
            notes = [f"demo world generated: {world}"]
        super().__init__(world, world / IMAGES, image_lidar_k, quantization_size)
        self.notes = notes

    def evaluation_set(self) -> EvaluationSet:
        """The test runs, with the condition of each."""
        from distilplace.demoworld.conditions import TEST

        test, named = super().evaluation_set(), {run: condition.name for run, condition in TEST}
        return replace(test, conditions=[named[run] for run in test.runs])


def generate(world: Path, seed: int, places: int = 60, train_runs: int = 5, test_runs: int = 4) -> None:
    """Make the world's folder, whole or not at all. About a minute on 2 busy cores at full size."""
    from tqdm import tqdm

    from distilplace.common.open3d_loader import import_open3d
    from distilplace.demoworld.conditions import TEST, TRAINING
    from distilplace.demoworld.town import make_town
    from distilplace.demoworld.traversal import Traversal

    if places < 2 or not (0 < train_runs <= len(TRAINING) and 1 < test_runs <= len(TEST)):
        raise UserError(f"a demo world has 1-{len(TRAINING)} training runs, 2-{len(TEST)} test runs, 2 places or more")
    if world.exists():
        raise UserError(f"{world} is no finished demo world (no {MANIFEST}): remove it or set {flag_of(world)}")
    import_open3d()  # a missing system library is said before anything is written
    world.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=world.parent, prefix=f".{world.name}."))
    try:
        town = make_town(seed)
        chosen = [(*entry, TRAINING_FOLDER) for entry in TRAINING[:train_runs]]
        chosen += [(*entry, TEST_FOLDER) for entry in TEST[:test_runs]]
        written = []
        with tqdm(total=places * len(chosen), desc="generating the demo world", disable=None) as bar:
            for name, condition, folder in chosen:
                traversal = Traversal(town, name, condition, places, images=1)
                run = WrittenRun(name, folder)
                for view in _in_order(traversal.place, places):
                    position = (ORIGIN[0] + view.north, ORIGIN[1] + view.east)
                    write_place(building, run, view.stamp, position, view.cloud, view.images)
                    bar.update()
                written.append(run)
        write_lists(building, written[:train_runs], written[train_runs:])
        with atomic_path(building / MANIFEST) as path:
            path.write_text(json.dumps({"version": VERSION, "seed": seed, "places": places}))
        building.chmod(0o755)
        try:
            building.rename(world)
        except OSError:
            if not (world / MANIFEST).is_file():  # otherwise another process was faster, with the same world
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _in_order(work: Callable[[int], T], count: int) -> Iterator[T]:
    """``work(0)``, ``work(1)``, ... on all cores: places do not depend on each other, so neither does the result."""
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))
    try:
        yield from pool.map(work, range(count))
    finally:
        pool.shutdown(cancel_futures=True)
