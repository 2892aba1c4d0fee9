"""Opens the teachers of a student run: finds, checks or fills their stores, or sets the networks up live."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from common.errors import UserError
from datasets.records import Benchmark, PlaceRecord
from engine.building import build_network, teacher_settings
from engine.embedding import Embedder
from engine.options import TrainOptions
from engine.scoring import score_store
from engine.store import StoreIdentity, has_store, identify, read_store, write_store
from engine.teachers import LiveTeacher, TeacherSource
from engine.whitening import WhitenedTeacher, fitted_whitening
from evaluation.measures import Result
from losses.distiller import Distiller

LOG = logging.getLogger("distilplace")
STAGES = ("layer1", "layer2", "layer3")  # what an image network has, for asking a method whether it wants maps at all


@dataclass
class Taught:
    """A teacher ready for the loop, and what it scores on the test set."""

    name: str
    source: TeacherSource
    result: Result
    facts: dict[str, str]


@dataclass(frozen=True)
class TeacherOpener:
    """What opening a teacher needs to know: the options, all training places, the test set, how to embed either."""

    options: TrainOptions
    training: list[PlaceRecord]
    test: Benchmark
    embedder: Embedder
    tester: Embedder
    distiller: Distiller | None

    def open_all(self) -> list[Taught]:
        """One :class:`Taught` per ``--model``; none without distillation. Mismatches raise :class:`UserError`."""
        options = self.options
        if self.distiller is None:
            return []
        names, paths = options.model, options.teacher_weights_path
        if len(paths) != len(names):
            raise UserError(f"--teacher_weights_path names {len(paths)} files for {len(names)} teachers; give one each")
        if self._is_live():
            if options.shuffle_teacher or options.cache_aug:
                raise UserError(
                    "--shuffle_teacher and --cache_aug are about stored outputs: they need --teacher_outputs store and "
                    "a method that distils embeddings alone"
                )
            return _numbered([self._live(name, Path(path)) for name, path in zip(names, paths, strict=True)])
        if options.whiten_dim is not None:
            raise UserError("--whiten_dim is about teachers that run in every step: give --teacher_outputs live")
        if options.teacher_store is not None and len(names) > 1:
            raise UserError("--teacher_store holds one teacher: leave it away to use one store per teacher")
        return _numbered([self._stored(name, Path(path)) for name, path in zip(names, paths, strict=True)])

    def _is_live(self) -> bool:
        """Are the teachers run in every step? They must be where their feature maps are distilled."""
        assert self.distiller is not None
        wants_maps = bool(self.distiller.teacher_maps(STAGES))
        if (wants_maps or self.distiller.same_inputs) and self.options.teacher_outputs == "store":
            what = "feature maps" if wants_maps else "outputs for the student's own crops"
            raise UserError(f"this method distils {what}, which no teacher store holds: leave --teacher_outputs away")
        return wants_maps or self.distiller.same_inputs or self.options.teacher_outputs == "live"

    def _live(self, name: str, weights: Path) -> Taught:
        network = self._load(name, weights)
        assert self.distiller is not None
        levels: tuple[str, ...] = getattr(network, "level_maps", ())
        maps = self.distiller.teacher_maps(levels)
        result = self.tester.score(network, self.test, "teacher on test places")
        facts = self.tester.facts(network, self.test.distinct_records())
        source = LiveTeacher(network, maps)
        if self.options.whiten_dim is None:
            return Taught(name, source, result, facts)
        fitted = fitted_whitening(self.options, self.embedder, network, name, weights, self.training)
        return Taught(name, WhitenedTeacher(source, fitted), result, facts)

    def _stored(self, name: str, weights: Path) -> Taught:
        identity = self._identity(name, weights)
        folder = self._folder(identity, weights)
        if self.options.rebuild_store or not has_store(folder):
            self._fill(folder, identity, self._load(name, weights))
        else:
            LOG.info("teacher %s: outputs from %s", name, folder)
        training, test = read_store(folder, identity)
        source: TeacherSource = training.shuffled(self.options.seed) if self.options.shuffle_teacher else training
        return Taught(name, source, score_store(test, self.test), test.facts)

    def _identity(self, name: str, weights: Path) -> StoreIdentity:
        options, data = self.options, self.embedder.data
        preprocessing = {
            "quantization_size": data.cloud.quantization_size,
            "points": data.cloud.n_points,
            "augmented": [options.seed, options.bcs_aug_rate, options.hue_aug_rate] if options.cache_aug else False,
            "image_size": options.image_size,
            "normalisation": options.normalisation,
        }
        return identify(
            name,
            teacher_settings(options, name),
            weights,
            data.name,
            self.training,
            self.test.distinct_records(),
            preprocessing=preprocessing,
        )

    def _folder(self, identity: StoreIdentity, weights: Path) -> Path:
        if self.options.teacher_store is not None:
            return Path(self.options.teacher_store)
        if identity.weights is None:
            raise _missing(weights)
        return Path(self.options.logdir) / "teacher_stores" / identity.folder_name()

    def _load(self, name: str, weights: Path) -> nn.Module:
        if not weights.is_file():
            raise _missing(weights)
        settings = teacher_settings(self.options, name)
        network = build_network(name, settings, seed=self.options.seed, weights=str(weights))
        return network.to(self.embedder.fabric.device).eval()

    def _fill(self, folder: Path, identity: StoreIdentity, network: nn.Module) -> None:
        tests = self.test.distinct_records()
        LOG.info("teacher %s: outputs of %d + %d places -> %s", identity.model, len(self.training), len(tests), folder)
        augment = self.options.seed if self.options.cache_aug else None
        training_part = self.embedder.embed(network, self.training, "teacher on training places", augment)
        test_part = self.tester.embed(network, tests, "teacher on test places")
        write_store(folder, identity, training_part, test_part, self.tester.facts(network, tests))


def _numbered(taught: list[Taught]) -> list[Taught]:
    """The same teachers with names that tell them apart: a second apformer becomes "apformer 2"."""
    seen: Counter[str] = Counter()
    for teacher in taught:
        seen[teacher.name] += 1
        if seen[teacher.name] > 1:
            teacher.name = f"{teacher.name} {seen[teacher.name]}"
    return taught


def _missing(weights: Path) -> UserError:
    return UserError(
        f"teacher weights {weights} are missing: train a teacher with --train_mode train_teacher, "
        "or give --teacher_weights_path (or --teacher_store with its outputs)"
    )
