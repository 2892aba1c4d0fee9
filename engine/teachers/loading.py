"""Opens the teachers of a student run: finds, checks or fills their stores, or sets the networks up live."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from distilplace.common.errors import UserError
from distilplace.common.files import sha256
from distilplace.common.outputs import ALIGNED
from distilplace.datasets.benchmarks import PoseSet
from distilplace.datasets.records import Benchmark, PlaceRecord
from distilplace.engine import processes
from distilplace.engine.building import build_network, distilled_live, rates_of, teacher_settings
from distilplace.engine.caches.fingerprint import Augmented, Fingerprint, of_frames, of_network
from distilplace.engine.caches.published_whitening import one_for_each, published_whitening
from distilplace.engine.caches.store import LABELS, compare_store, compare_stores, has_store, read_store, write_store
from distilplace.engine.caches.whitening import WhitenedTeacher, fitted_whitening
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.options import TrainOptions
from distilplace.engine.scoring import Table, score_table
from distilplace.engine.teachers.aligned import aligned, live_training_outputs
from distilplace.engine.teachers.sources import LiveTeacher, StoredTeacher, TeacherSource
from distilplace.evaluation.retrieval.measures import Result
from distilplace.losses.distiller import Distiller
from distilplace.models import PlaceNetwork, model_requires

LOG = logging.getLogger("distilplace")
EMBEDDINGS = ("embedding", "cloud_embedding", "image_embedding")
"""Outputs of teachers that a student's embedding may be compared with."""
RELATIONS_ALONE = (
    "only relations are distilled, which leave the student's embeddings in a space of their own: expect chance where "
    "it queries the teacher's map (student -> teacher); --kd align:1 pulls them into the teacher's"
)


@dataclass
class LoadedTeacher:
    """A teacher ready for the loop, and what it scores on the test set.

    ``tested``: its embeddings ``{name: [n, D]}`` of the test set's distinct records, as they are distilled: whitened
    where the source whitens them, while ``result`` is the network's own.
    """

    name: str
    source: TeacherSource
    result: Result
    facts: dict[str, str]
    tested: Table
    whitened: bool = False


@dataclass(frozen=True)
class TeacherOpener:
    """What opening a teacher needs to know: all training places, the test set, and the context of either."""

    context: Context[TrainOptions]
    testing: Context[TrainOptions]
    training: Sequence[PlaceRecord]
    test: Benchmark
    distiller: Distiller | None

    @property
    def options(self) -> TrainOptions:
        """The run's."""
        return self.context.options

    def _measured(self, network: nn.Module) -> tuple[Table, Result, dict[str, str]]:
        """A teacher's embeddings of the test set, what they score, and its size and speed."""
        embedder = Embedder(self.testing)
        tables, result = embedder.embed_and_score(network, self.test, "teacher on test places")
        return embeddings_of(tables), result, embedder.facts(network, self.test.distinct_records())

    def open_all(self) -> list[LoadedTeacher]:
        """One per ``--model``; none where no method and no head reads one. Mismatches raise :class:`UserError`."""
        options = self.options
        if self.distiller is None and not options.align_head:
            return []
        absolute = options.align_head or (self.distiller is not None and self.distiller.absolute)
        if not absolute and not isinstance(self.test, PoseSet):
            LOG.warning(RELATIONS_ALONE)
        names, paths = options.model, options.teacher_weights_path
        if len(paths) != len(names):
            raise UserError(f"--teacher_weights_path names {len(paths)} files for {len(names)} teachers; give one each")
        if self._is_live():
            if options.shuffle_teacher or options.cache_aug:
                raise UserError(
                    "--shuffle_teacher and --cache_aug are about stored outputs: they need --teacher_outputs store and "
                    "a method that distils embeddings alone"
                )
            files = one_for_each(options.whitening, len(names), "teachers")
            each = zip(names, paths, files, strict=True)
            return numbered([self._live(name, Path(path), whitening) for name, path, whitening in each])
        if options.whiten_dim is not None or options.whitening:
            flag = "--whitening" if options.whitening else "--whiten_dim"
            raise UserError(f"{flag} is about teachers that run in every step: give --teacher_outputs live")
        if options.teacher_store is not None and len(names) > 1:
            raise UserError("--teacher_store holds one teacher: omit it to use one store per teacher")
        return numbered([self._stored(name, Path(path)) for name, path in zip(names, paths, strict=True)])

    def _is_live(self) -> bool:
        """Are the teachers run in every step? They must be where their feature maps are distilled."""
        what = distilled_live(self.distiller)
        if what is not None and self.options.teacher_outputs == "store":
            raise UserError(f"this method distils {what}, which no teacher store holds: omit --teacher_outputs")
        return what is not None or self.options.teacher_outputs == "live"

    def _is_aligned(self) -> bool:
        """Does the method, or the fitted head, compare the student's embeddings with the teacher's one by one?"""
        compares = self.distiller is not None and ALIGNED in self.distiller.teacher_requires
        return compares or self.options.align_head

    def _live(self, name: str, weights: Path, file: str | None) -> LoadedTeacher:
        network = self._load(name, weights)
        options = self.options
        published = published_whitening(file, network, name, options.whiten_dim) if file else None
        maps = () if self.distiller is None else self.distiller.teacher_maps(network.level_maps)
        tested, result, facts = self._measured(network)
        live = LiveTeacher(network, maps)
        source: TeacherSource = live
        if published is not None:
            LOG.info("whitening of %s: %d -> %d numbers, %s", name, published.dim1, published.dim2, file)
        elif options.whiten_dim is not None and not options.whitening:
            published = fitted_whitening(self.context, network, name, weights, self.training)
        if published is not None:
            source = whitened = WhitenedTeacher(live, published)
            tested = {**tested, "embedding": whitened.whitened(tested["embedding"])}
        if self._is_aligned():
            known = live_training_outputs(self.context, source, name, network, weights, self.training)
            source = aligned(options, name, source, known, self.training)
        return LoadedTeacher(name, source, result, facts, tested, whitened=published is not None)

    def _stored(self, name: str, weights: Path) -> LoadedTeacher:
        made_from = processes.on_first(self._made_from, name, weights)
        folder = processes.on_first(self._folder, name, made_from, weights)
        if processes.on_first(lambda: self.options.rebuild_store or not has_store(folder)):
            self._fill(name, folder, made_from, self._load(name, weights))
        else:
            LOG.info("teacher %s: outputs read from %s", name, folder)
        training, test = read_store(folder, made_from)
        if unknown := compare_store(folder, made_from).unknown:
            LOG.info("teacher %s: not on this machine, so not compared with the store: %s", name, ", ".join(unknown))
        known = training.shuffled(self.options.seed) if self.options.shuffle_teacher else training
        source = aligned(self.options, name, known, known, self.training) if self._is_aligned() else known
        return stored_teacher(name, source, test, self.test)

    def _made_from(self, name: str, weights: Path) -> Fingerprint:
        """What the store that this run needs is made from."""
        options, requires = self.options, model_requires(name)
        known = sha256(weights) if weights.is_file() else None
        tests = self.test.distinct_records()
        return (
            of_network(name, teacher_settings(options, name), known, options.precision)
            | of_frames(LABELS["train"], self.context.data, self.training, requires, augmented=self._augmented())
            | of_frames(LABELS["test"], self.testing.data, tests, requires, scales=self.testing.scales)
        )

    def _folder(self, name: str, made_from: Fingerprint, weights: Path) -> Path:
        """Where the store is, or will be: as named, else beside the runs, under a hash of what it is made from."""
        if self.options.teacher_store is not None:
            return Path(self.options.teacher_store)
        stores = Path(self.options.logdir) / "teacher_stores"
        label = f"{self.context.data.name}-{name.replace(':', '_').replace('/', '_')}"
        folder = stores / f"{label}-{made_from.digest()[:10]}"
        if has_store(folder):
            return folder
        if not weights.is_file():
            raise _missing(weights)
        if self.options.rebuild_store:
            return folder
        compared = compare_stores(stores, label, made_from)
        for path, found in compared:  # a file that is absent here has another hash, but does not differ
            if not found.different:
                return path
        if compared:
            path, nearest = min(compared, key=lambda each: len(each[1].different))
            LOG.info("teacher %s: %s is of other %s: not used", name, path, ", ".join(nearest.different))
        return folder

    def _load(self, name: str, weights: Path) -> PlaceNetwork:
        if not weights.is_file():
            raise _missing(weights)
        settings = teacher_settings(self.options, name)
        network = build_network(name, settings, seed=self.options.seed, weights=str(weights))
        return network.to(self.context.device).eval()

    def _fill(self, name: str, folder: Path, made_from: Fingerprint, network: nn.Module) -> None:
        tests = self.test.distinct_records()
        LOG.info("teacher %s: outputs of %d + %d places -> %s", name, len(self.training), len(tests), folder)
        title, tester = "teacher on training places", Embedder(self.testing)
        training_part = Embedder(self.context).embed(network, self.training, title, self._augmented())
        test_part = tester.embed(network, tests, "teacher on test places")
        facts = tester.facts(network, tests)
        processes.on_first(write_store, folder, made_from, training_part, test_part, facts)

    def _augmented(self) -> Augmented | None:
        """How a store's training inputs are augmented: not at all without ``--cache_aug``."""
        return Augmented(self.options.seed, rates_of(self.options)) if self.options.cache_aug else None


def stored_teacher(name: str, source: TeacherSource, tested: StoredTeacher, test: Benchmark) -> LoadedTeacher:
    """A teacher from the test part of a store, with what it scores."""
    keys = [record.key for record in test.distinct_records()]
    tables = tested.outputs({"keys": keys})
    return LoadedTeacher(name, source, score_table(keys, tables, test), tested.facts, embeddings_of(tables))


def embeddings_of(tables: Table) -> Table:
    """Of a network's outputs those that a student's embedding may be compared with."""
    return {name: tables[name] for name in EMBEDDINGS if name in tables}


def numbered(teachers: list[LoadedTeacher]) -> list[LoadedTeacher]:
    """The same teachers with names that tell them apart: a second apformer becomes "apformer 2"."""
    seen: Counter[str] = Counter()
    for teacher in teachers:
        seen[teacher.name] += 1
        if seen[teacher.name] > 1:
            teacher.name = f"{teacher.name} {seen[teacher.name]}"
    return teachers


def _missing(weights: Path) -> UserError:
    return UserError(
        f"teacher weights {weights} are missing: train a teacher with --train_mode train_teacher, "
        "or give --teacher_weights_path (or --teacher_store with its outputs)"
    )
