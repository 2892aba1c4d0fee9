"""A run small enough for milliseconds: 24 places of 8 x 8 pixels, a network of three layers, the trainer itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from PIL import Image
from torch import nn
from torch.nn import functional

from distilplace import train
from distilplace.common.console import start_console_log
from distilplace.common.outputs import with_maps
from distilplace.datasets.base import PlaceData
from distilplace.datasets.records import CloudSettings, EvaluationSet, PlaceRecord, TrainingSet
from distilplace.datasets.relations import training_relations, true_neighbours
from distilplace.engine import processes
from distilplace.engine.assembly import Parts, assemble
from distilplace.engine.building import build_distiller, build_task_loss
from distilplace.engine.context import Context
from distilplace.engine.model_card import describe_network
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.runs.folder import RunFolder
from distilplace.engine.runs.shared_folder import begun_folder
from distilplace.engine.selection import Selection
from distilplace.engine.step import Forward
from distilplace.engine.teachers.sources import LiveTeacher
from distilplace.engine.trainer import Trainer
from distilplace.models import PlaceNetwork

PLACES = 12


class Killed(BaseException):
    """What stands for kill -9: nothing is saved any more."""


def noting_sizes(sizes: list[int]) -> Callable[[Trainer], None]:
    """What makes a trainer write the number of places of every batch into ``sizes``."""

    def note(trainer: Trainer) -> None:
        take = trainer.forward

        def step(batch):
            sizes.append(len(batch["keys"]))
            return take(batch)

        trainer.forward = step

    return note


class ToyData(PlaceData):
    """Two drives along the same street, a place every 10 m."""

    name = "toy"
    cloud = CloudSettings(1.0, 8, "boreas")
    notes: list[str] = []  # noqa: RUF012 (nothing is ever added)

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        folder.mkdir(parents=True, exist_ok=True)
        self.records = []
        for run in ("a", "b"):
            for place in range(PLACES):
                path = folder / f"{run}{place}.png"
                pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                if not path.is_file():  # another process of the same run may be reading it
                    Image.fromarray(pixels).save(path)
                self.records.append(PlaceRecord(f"{run}/{place}", run, None, (path,), 10.0 * place, 0.0))

    def training_set(self) -> TrainingSet:
        places = np.array([(record.northing, record.easting) for record in self.records])
        turned = np.random.default_rng(1).normal(size=(len(places), 5))
        return TrainingSet(self.records, *training_relations(places, 5.0, 25.0), poses=np.hstack([places, turned]))

    def evaluation_set(self) -> EvaluationSet:
        runs = [self.records[:PLACES], self.records[PLACES:]]
        return EvaluationSet("toy", ["a", "b"], runs, runs, true_neighbours(runs, runs, 5.0), 5.0)

    def read_cloud(self, path: Path) -> np.ndarray:
        raise AssertionError("no clouds here")


class ToyNet(PlaceNetwork):
    """Two convolutions, batch norm, dropout, a linear layer: all that has a state or draws numbers."""

    requires = ("images",)
    output_dim = 8
    level_maps = ("layer1", "layer2")

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer1, self.layer2 = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 6, 3, padding=1)
            self.norm, self.dropout, self.fc = nn.BatchNorm2d(6), nn.Dropout(0.2), nn.Linear(6, 8)

    def branch_parameters(self) -> dict[str, list[nn.Parameter]]:
        return {
            "image": [*self.layer1.parameters(), *self.layer2.parameters(), *self.norm.parameters()],
            "cloud": list(self.fc.parameters()),
        }

    def forward(self, batch: dict[str, Any], feature_maps: tuple[str, ...] = ()) -> dict[str, Any]:
        first = functional.relu(self.layer1(batch["images"]))
        second = functional.relu(self.norm(self.layer2(first)))
        output = {"embedding": self.fc(self.dropout(second.mean(dim=(2, 3))))}
        columns = second.mean(dim=2)
        parts = (columns, *columns.chunk(2, dim=2))
        regions = torch.stack([self.fc(part.mean(dim=2)) for part in parts], dim=1)
        maps = {"layer1": first, "layer2": second, "regions": regions}
        return {**output, **with_maps({name: maps[name] for name in feature_maps})} if feature_maps else output


def options_of(folder: Path, *flags: str) -> TrainOptions:
    """Options for a toy run in ``folder/logs/toy``; through a recipe, which may hold what the run does not read."""
    small = ["--train_batch_size", "8", "--epochs", "3", "--distil_method", "nokd", "--val_fraction", "0"]
    values: dict[str, list[str]] = {}
    name = ""
    for word in (*small, "--logdir", str(folder / "logs"), "--exp_name", "toy", *flags):
        if word.startswith("--"):
            name = word.removeprefix("--")
            values[name] = values.get(name, []) if name == "kd" else []
        else:
            values[name].append(word)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {name: words if len(words) > 1 else (words or ["True"])[0] for name, words in values.items()}
    (folder / "toy.yaml").write_text(yaml.safe_dump(recipe))
    return parse(TrainOptions, ["--config", str(folder / "toy.yaml")], home=folder, environment={})


def build(options: TrainOptions, run: RunFolder, folder: Path, teacher_seed: int = 5) -> Trainer:
    """The trainer as ``train.py`` puts it together, with a live teacher where the method wants one."""
    data = ToyData(folder / "data")
    context = Context(options, data, Fabric(accelerator="cpu", devices=1))
    distiller = build_distiller(options)
    maps = () if distiller is None else distiller.teacher_maps(ToyNet.level_maps)
    teachers = [] if distiller is None else [LiveTeacher(ToyNet(seed=teacher_seed), maps)]
    parts = Parts(data.training_set(), ToyNet(), build_task_loss(options), distiller, teachers, context)
    return assemble(parts, run)


def run_toy(
    options: TrainOptions,
    folder: Path,
    watch: Callable[[Trainer], None] = lambda trainer: None,
    teacher_seed: int = 5,
) -> Trainer:
    """A whole training as ``train.py`` does it, validated on the data set itself where ``val_fraction`` is above 0."""
    start_console_log()
    with begun_folder(options, "cpu") as run:
        trainer = build(options, run, folder, teacher_seed)
        validation = ToyData(folder / "data").evaluation_set() if options.val_fraction else None
        selection = Selection(validation, options.val_min_queries, options.select_by)
        described = describe_network(trainer.context, trainer.network, {}, trainer.context.data.records[0])
        if options.resume == "auto":
            trainer.resume()
        watch(trainer)
        while not trainer.is_done:
            means = train.train_epoch(trainer)
            result = train.validate(trainer, selection, means)
            processes.on_first(train.keep, trainer, described, result)
            trainer.stop_if_asked()
        return trainer


def before_step(step: int, act: Callable[[Trainer], None]) -> Callable[[Trainer], None]:
    """For ``watch``: do ``act`` just before the step of that number (from 1) is taken."""

    def watch(trainer: Trainer) -> None:
        take = trainer.forward

        def step_or_act(batch: dict[str, Any]) -> Forward:
            if trainer.progress.step + 1 == step:
                act(trainer)
            return take(batch)

        trainer.forward = step_or_act  # type: ignore[method-assign]

    return watch


def kill(trainer: Trainer) -> None:
    """End the run as kill -9 would."""
    raise Killed


def ask_to_stop(trainer: Trainer) -> None:
    """What the first Ctrl-C does."""
    trainer.stopping.requested = True
