#!/usr/bin/env python
"""Checkpoint x data set -> metrics and report.

    python evaluate.py --weights logs/<run>/models/best.safetensors
    python evaluate.py --weights published.pth --role teacher --model minklocmmcat --dataset oxford

Data set and architecture come from the ``config.yaml`` of the run beside the weights, or from the weights file itself
where it lies elsewhere (folders then from flags or ``paths.yaml``). Flags override them; the run's loss and training
options are ignored. ``--compare`` adds further checkpoints to the table and the report: each takes the images,
normalisation, views and voxels of its own run, on the same test records. ``--teacher_store`` also measures students in
the map of their teacher.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distilplace.common.errors import UserError
from distilplace.common.files import require_file
from distilplace.common.home import home
from distilplace.datasets.records import Benchmark, EvaluationSet
from distilplace.engine import processes
from distilplace.engine.building import build_fabric, build_network, build_test_data, student_settings, teacher_settings
from distilplace.engine.caches.published_whitening import one_for_each, published_whitening, whitened
from distilplace.engine.caches.reduction import whitening
from distilplace.engine.comparison import preprocessing, require_same_test, row_names, run_folder
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.model_card import trained_options, unlike_trained
from distilplace.engine.options import DataOptions, EvaluateOptions, ModelOptions
from distilplace.engine.options.command_line import given, parse, without_options
from distilplace.engine.options.relevance import refuse_unread
from distilplace.engine.program import exit_code
from distilplace.engine.progress import stage
from distilplace.engine.reporting import Outcome, report_outcome
from distilplace.engine.runs.environment import training_facts
from distilplace.engine.runs.predictions import require_ranked
from distilplace.engine.runs.report_folder import report_folder
from distilplace.engine.teachers.evaluated import in_teacher_maps
from distilplace.evaluation.report.parts import ReportEntry
from distilplace.evaluation.retrieval.results import RetrievalResult
from distilplace.evaluation.retrieval.sequences import sequence_text, with_sequences
from distilplace.models import model_requires

LOG = logging.getLogger("distilplace")


def run(argv: Sequence[str]) -> Path:
    """Evaluate ``--weights`` (and ``--compare``), print the table, write the report; path of ``index.html``."""
    rows = read_rows(argv)
    names, fabric = row_names(rows), build_fabric(rows[0])
    with processes.together():
        return evaluate_rows(rows, names, fabric)


def evaluate_rows(rows: Sequence[EvaluateOptions], names: Sequence[str], fabric: Any) -> Path:
    """The checkpoints in the order of the rows of the table, called ``names``."""
    LOG.info("%d checkpoint(s): %s", len(rows), "; ".join(names))
    entries: list[ReportEntry[Any]] = []
    for options, name in zip(rows, names, strict=True):
        with stage(f"{name}: opening data set {options.test_dataset or options.dataset}"):
            data = build_test_data(options)
            own = data.evaluation_set()
            own.require_queries()
            require_ranked(options.predictions, own)
        if not entries:
            test, notes, tested = own, data.notes, data.name
        require_same_test(test, own, (names[0], name))
        entries.append(evaluate(Context(options, data, fabric).testing(data), test, name))
    for note in notes:
        LOG.info("%s", note)
    folder = processes.on_first(report_folder, rows)
    outcome = Outcome(folder, entries, test, notes, str(fabric.device))
    with stage("report"):
        title, listed = f"{names[0]} on {tested}", rows[0].predictions
        return processes.on_first(report_outcome, outcome, title=title, seed=rows[0].seed, predictions=listed)


def read_rows(argv: Sequence[str]) -> list[EvaluateOptions]:
    """Options of every checkpoint: its own run's, and the command line's, which hold for all.

    Raises:
        UserError: a flag that none of the checkpoints reads, or a file whose network is not named.

    """

    def row(argv: Sequence[str], saved: dict[str, Any], all_read: bool = False) -> EvaluateOptions:
        return parse(EvaluateOptions, argv, home=home(), saved=saved, all_read=all_read)

    saved = saved_options(weights_flag(argv))
    rows = [row(argv, saved)]
    others = without_options(argv, ("weights",))
    rows += [row([*others, "--weights", weights], saved_options(weights)) for weights in rows[0].compare]
    files = one_for_each(rows[0].whitening, len(rows), "checkpoints")
    rows = [row.model_copy(update={"whitening": [file] if file else []}) for row, file in zip(rows, files, strict=True)]
    for options in rows:
        require_file(options.weights, "weights file")
        role_of(options)
    if len(rows) == 1:
        row(argv, saved, all_read=True)
        return rows
    refuse_unread(rows, given(EvaluateOptions, argv))
    return rows


def evaluate(context: Context[EvaluateOptions], test: Benchmark, title: str) -> ReportEntry[Any]:
    """One checkpoint's row, called ``title``."""
    options, project = context.options, None
    role = role_of(options)
    name = options.model[0] if role == "teacher" else options.student_model
    settings = (teacher_settings if role == "teacher" else student_settings)(options, name)
    network = build_network(name, settings, seed=options.seed, weights=options.weights).to(context.device)
    LOG.info("%s: %s", title, preprocessing(options, context.data, model_requires(name)))
    if told := unlike_trained(options.weights, settings, context.data):
        LOG.warning("%s: not as it was trained: %s", title, told)
    if options.pca is not None:
        trained = trained_options(options.weights, tell=False)
        with stage(f"{title}: PCA to {options.pca} numbers"):
            project = whitening(context, trained, network, name, settings)
    for file in options.whitening:
        LOG.info("%s: embeddings are whitened by %s", title, file)
        project = whitened(published_whitening(file, network, name))
    embedder = Embedder(context, project)
    with stage(f"{title}: describing and ranking {test.summary()}"):
        own = embedder.embed_and_score(network, test, title)
    result, asymmetric = own[1], []
    if role == "student" and options.has_teachers:
        with stage(f"{title}: in the map of its teacher"):
            asymmetric = in_teacher_maps(context, network, own, test, project)
    if options.sequence:
        with stage(f"{title}: sequences"):
            result = sequences_too(result, test, options.sequence)
        LOG.info("%s: %s", title, sequence_text(result))
    with stage(f"{title}: timing single places"):
        facts = embedder.facts(network, test.distinct_records())
    facts |= {"weights": options.weights, **training_facts(run_folder(Path(options.weights)))}
    return ReportEntry(title, result, facts, asymmetric=asymmetric)


def sequences_too(result: Any, test: Benchmark, lengths: Sequence[int]) -> RetrievalResult:
    """The result with R@1 of sequences; :class:`UserError` where no places are retrieved."""
    if not (isinstance(test, EvaluationSet) and isinstance(result, RetrievalResult)):
        raise UserError("--sequence: this data set retrieves no places along runs; omit it")
    return with_sequences(result, test, lengths)


def role_of(options: EvaluateOptions) -> str:
    """Which network the weights are of: what was said, the run's own, or the one that a flag names."""
    role = options.network_role()
    if role == "teacher" and len(options.model) > 1:
        raise UserError(f"--weights {options.weights} hold one network, --model names {len(options.model)}: give one")
    if role is None:
        raise UserError(
            f"{options.weights} does not say which network it holds, and no config.yaml of a run lies beside it: name "
            "the network with --model or --student_model"
        )
    return role


def saved_options(weights: str | None) -> dict[str, Any]:
    """Data set, architecture and role of the run that the weights belong to; empty when there is none."""
    kept = {*DataOptions.model_fields, *ModelOptions.model_fields, "role"}
    return {name: value for name, value in trained_options(weights).items() if name in kept}


def weights_flag(argv: Sequence[str]) -> str | None:
    """The value of ``--weights`` before options are checked."""
    for position, word in enumerate(argv):
        if word == "--weights" and position + 1 < len(argv):
            return argv[position + 1]
        if word.startswith("--weights="):
            return word.removeprefix("--weights=")
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 on a user's mistake."""
    return exit_code(lambda: run(sys.argv[1:] if argv is None else list(argv)), divides=True)


if __name__ == "__main__":
    sys.exit(main())
