"""``evaluate.py --teacher_store`` and ``--teacher_weights_path``: a finished student in the map of its teachers."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.common.files import require_file
from distilplace.datasets.benchmarks import PoseSet
from distilplace.datasets.records import Benchmark
from distilplace.engine.building import build_data, build_network, teacher_settings
from distilplace.engine.caches.fingerprint import Fingerprint, of_frames
from distilplace.engine.caches.store import LABELS, Store, open_store
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.options import EvaluateOptions
from distilplace.engine.scoring import Table
from distilplace.engine.teachers.asymmetric import TrainingFrames, compare_with_teachers
from distilplace.engine.teachers.loading import LoadedTeacher, embeddings_of, numbered, stored_teacher
from distilplace.engine.teachers.sources import LiveTeacher
from distilplace.evaluation.retrieval.asymmetric import AsymmetricResult
from distilplace.evaluation.retrieval.measures import Result


def in_teacher_maps(
    context: Context[EvaluateOptions],
    network: nn.Module,
    own: tuple[Table, Result],
    test: Benchmark,
    project: Callable[[Tensor], Tensor] | None,
) -> list[AsymmetricResult]:
    """A student in the map of the teachers that the options name; nothing where they name none.

    Args:
        context: of the evaluation.
        network: the student.
        own: its outputs for ``test.distinct_records()``, and what they score.
        test: what is retrieved.
        project: what becomes of the student's embeddings.

    Raises:
        UserError: a store of other test frames, teachers without their weights, or poses, which no map holds.

    """
    options = context.options
    if not options.has_teachers:
        return []
    if isinstance(test, PoseSet):
        raise UserError("--teacher_store, --teacher_weights_path: poses are not searched for in a map; omit it")
    if options.teacher_store is None:
        teachers, keys = _live(context, test), None
    else:
        store = open_store(Path(options.teacher_store))
        _require_test_frames(context, store, test)
        teachers, keys = [stored_teacher(store.model, store.training, store.test, test)], store.training.keys
    frames = training_frames(context, keys)
    return compare_with_teachers(network, own, teachers, test, replace(frames, project=project))


def training_frames(context: Context[EvaluateOptions], keys: Collection[str] | None) -> TrainingFrames:
    """The frames of the training part, those ``keys`` where a store has no others; or why there are none."""
    options, records = context.options, []
    try:
        data = context.data if options.test_dataset is None else build_data(options)
        context = replace(context, data=data)
        records = [record for record in data.training_set().records if keys is None or record.key in keys]
        problem = "" if records else f"the store holds no training frame of data set {data.name}"
    except UserError as error:
        problem = str(error)
    return TrainingFrames(context, records, problem=problem)


def _live(context: Context[EvaluateOptions], test: Benchmark) -> list[LoadedTeacher]:
    options = context.options
    if len(options.teacher_weights_path) != len(options.model):
        raise UserError(
            f"--teacher_weights_path names {len(options.teacher_weights_path)} files for {len(options.model)} teachers "
            f"({', '.join(options.model)}): give one each, the networks after --model"
        )
    found = []
    for name, weights in zip(options.model, options.teacher_weights_path, strict=True):
        require_file(weights, "teacher weights file")
        network = build_network(name, teacher_settings(options, name), seed=options.seed, weights=weights)
        network = network.to(context.device).eval()
        tables, result = Embedder(context).embed_and_score(network, test, f"teacher {name}")
        found.append(LoadedTeacher(name, LiveTeacher(network), result, {}, embeddings_of(tables)))
    return numbered(found)


def _require_test_frames(context: Context[EvaluateOptions], store: Store, test: Benchmark) -> None:
    """Refuse a store whose test frames are not those that are evaluated, by key and by the content of their files."""
    kinds = {f"image files ({LABELS['test']})": "images", f"cloud files ({LABELS['test']})": "coords"}
    requires = [key for name, key in kinds.items() if name in store.lists]
    mine = of_frames(LABELS["test"], context.data, test.distinct_records(), requires).lists
    theirs = {name: values for name, values in store.lists.items() if name in mine}
    if different := Fingerprint({}, mine).compare({"facts": {}, "lists": theirs}).different:
        raise UserError(
            f"--teacher_store {store.folder} was filled for other test frames than are evaluated here "
            f"({', '.join(different)}): name the store of this data set, or omit it"
        )
