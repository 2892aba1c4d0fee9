#!/usr/bin/env python
"""The one trainer: any teacher, any student, any method.

    python train.py --train_mode train_teacher --model minklocmmcat --dataset oxford
    python train.py --model minklocmmcat --teacher_weights_path T.safetensors --rkdgloss_weight 10

Options: ``engine/options/``; published experiments: ``recipes/``. What a run leaves behind:
``docs/concepts/run-folder.md``.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from distilplace.common.errors import UserError
from distilplace.common.home import home
from distilplace.common.shares import asked_for
from distilplace.datasets.records import Benchmark, require_one_input_per_key
from distilplace.engine import processes
from distilplace.engine.assembly import Parts, assemble
from distilplace.engine.building import (
    build_data,
    build_distiller,
    build_fabric,
    build_network,
    build_task_loss,
    build_test_data,
    learner,
    split_validation,
)
from distilplace.engine.caches.clusters import start_clusters
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder, parameter_count
from distilplace.engine.heads.fitted import BEST, HeadFitter, chosen_file
from distilplace.engine.heads.learned import add_learned_head
from distilplace.engine.model_card import Described, describe_network, scores_of
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.program import exit_code
from distilplace.engine.reporting import Outcome, log_start, log_validation, report_outcome, role_name
from distilplace.engine.runs.folder import LOG, RunFolder
from distilplace.engine.runs.predictions import require_ranked
from distilplace.engine.runs.shared_folder import begun_folder
from distilplace.engine.selection import Selection
from distilplace.engine.teachers.asymmetric import TrainingFrames, compare_with_teachers
from distilplace.engine.teachers.loading import LoadedTeacher, TeacherOpener
from distilplace.engine.trainer import Trainer
from distilplace.evaluation.report.parts import ReportEntry
from distilplace.evaluation.retrieval.measures import Result
from distilplace.models import PlaceNetwork
from distilplace.models.checkpoints import add_scores, load_weights, read_card, save_weights


def run(options: TrainOptions) -> Outcome:
    """Train the network that ``--train_mode`` names, keep its best epoch, test that once."""
    fabric = build_fabric(options)
    with begun_folder(options, str(fabric.device)) as folder:
        return train_and_test(options, fabric, folder)


def train_and_test(options: TrainOptions, fabric: Any, folder: RunFolder) -> Outcome:
    """The whole course, with a folder to write to."""
    # ---- Data: places to learn from, held-back ones to choose the epoch by, test places used once at the end
    context = Context(options, build_data(options), fabric)
    data, tested = context.data, build_test_data(options, context.data)
    testing = context.testing(tested)
    everything, test = data.training_set(), tested.evaluation_set()
    test.require_queries()
    require_ranked(options.predictions, test)
    if tested is data:
        require_one_input_per_key([*everything.records, *test.distinct_records()])
    held = split_validation(options, data, everything, test)
    training, validation = held.training, held.validation

    # ---- Networks and losses: the one that learns, and the frozen ones that it learns from
    name, settings = learner(options)
    task_loss = build_task_loss(options)
    distiller = build_distiller(options)
    network = build_network(name, settings, seed=options.seed).to(context.device)
    teachers = TeacherOpener(context, testing, everything.records, test, distiller).open_all()
    sources = [teacher.source for teacher in teachers]
    add_learned_head(options, network, sources)
    fitter = HeadFitter.prepare(context, training, test, sources, distiller, folder.path / "models")
    parts = Parts(training, network, task_loss, distiller, sources if distiller else [], context)

    notes = list(dict.fromkeys([*data.notes, *tested.notes]))
    counted = f"{data.name}: {len(training)} training places; test: {test.summary()}"
    learns = f"learns: {name} ({parameter_count(network)} parameters)"
    log_start(folder, [*notes, held.note, counted, learns], teachers)
    selection = Selection(validation, options.val_min_queries, options.select_by)
    start_clusters(parts, folder)
    trainer, best = assemble(parts, folder), folder.path / "models" / chosen_file(options)
    described = describe_network(context, network, settings, training.records[0], maps=fitter.learned_maps)
    if options.resume == "auto" and trainer.resume():
        LOG.info("resumed at epoch %d, step %d", trainer.progress.epoch + 1, trainer.progress.step)
        if best.is_file():
            read_card(best)  # a damaged one is told now, not at the end

    # ---- Loop
    with trainer.stopping.listening():
        while not trainer.is_done:
            means = train_epoch(trainer)
            result = validate(trainer, selection, means)
            processes.on_first(keep, trainer, described, result)
            trainer.stop_if_asked()

    # ---- Test: once, with the chosen epoch's weights
    if not processes.on_first(best.is_file):
        processes.on_first(keep, trainer, described, None)
    load_weights(network, best)
    frames = TrainingFrames(replace(context, scales=testing.scales), training.records)
    tested_files = {best: test_network(network, role_name(options), testing, teachers, test, frames)}
    for path, words in fitter.fit_and_save(network, settings, best):
        tested_files[path] = test_network(network, f"{role_name(options)}, {words}", testing, teachers, test, frames)
    entries = sorted(tested_files.values(), key=lambda entry: entry is not tested_files.get(best.with_name(BEST)))
    entries += [ReportEntry(f"teacher {t.name}", t.result, t.facts) for t in teachers]
    outcome = Outcome(folder.path, entries, test, notes, str(context.device))
    title = f"{role_name(options)} on {tested.name}"
    settings, listed = options.model_dump(), options.predictions
    seed, write = options.seed, processes.on_first
    write(report_outcome, outcome, title=title, seed=seed, settings=settings, predictions=listed)
    for path, entry in tested_files.items():
        write(add_scores, path, "test", scores_of(entry.result))
    return outcome


def test_network(
    network: PlaceNetwork,
    name: str,
    testing: Context[TrainOptions],
    teachers: Sequence[LoadedTeacher],
    test: Benchmark,
    frames: TrainingFrames,
) -> ReportEntry[Any]:
    """What the network scores on the test set, also in its teachers' maps, called ``name``."""
    tester = Embedder(testing)
    facts = tester.facts(network, test.distinct_records())
    own = tester.embed_and_score(network, test, "test")
    return ReportEntry(name, own[1], facts, asymmetric=compare_with_teachers(network, own, teachers, test, frames))


def train_epoch(trainer: Trainer) -> dict[str, float]:
    """Train one epoch, or the rest of one that was interrupted; means of its logged numbers."""
    for batch in trainer.batches():
        forward = trainer.forward(batch)
        student, teachers = forward.outputs, trainer.teacher_outputs(batch)
        loss = trainer.weighted_task_loss(student, batch) + trainer.distillation_loss(student, teachers, batch)
        forward.backward(loss)
        trainer.step(forward, loss)
    return trainer.end_epoch()


def validate(trainer: Trainer, selection: Selection, means: dict[str, float]) -> Result | None:
    """Log the epoch; judge it by held-back training places. Without enough of them, the last epoch counts as best."""
    progress, result = trainer.progress, None
    line = f"epoch {progress.epoch:3d}: loss {means.get('loss', 0.0):.4f}"
    value = float(progress.epoch)
    if selection.validation is not None:
        if progress.epoch % trainer.options.eval_every and progress.epoch != trainer.epochs:
            LOG.info(line)
            return None
        result = Embedder(trainer.context).score(trainer.network, selection.validation, "validation")
        log_validation(trainer.folder, progress.step, result, selection.validation)
        line += f", validation {selection.told(result)}"
        value = selection.value(result) if selection.chooses else value
    tied = progress.judge(value)
    LOG.info(line if tied is None else f"{line}, as good as epoch {tied}: the later one is kept")
    return result


def keep(trainer: Trainer, described: Described, result: Result | None) -> None:
    """Save the last weights, the best ones where this epoch is the best so far, and the state to go on from."""
    models = trainer.folder.path / "models"
    progress, every = trainer.progress, trainer.options.save_epoch_freq
    scores: dict[str, dict[str, Any]] = {"training": {"epoch": progress.epoch}, "validation": scores_of(result)}
    card = replace(described.card, scores=scores)
    with trainer.stopping.saving():
        if progress.best_epoch in (progress.epoch, -1):
            save_weights(trainer.network, models / chosen_file(trainer.options), card, described.mean_image)
        if every and progress.epoch % every == 0:
            save_weights(trainer.network, models / f"epoch_{progress.epoch}.safetensors", card, described.mean_image)
        save_weights(trainer.network, models / "last.safetensors", card, described.mean_image)
        trainer.save()


def rehearse(options: TrainOptions) -> None:
    """``--dry_run``: the whole course with one step and a live teacher, in a folder that is thrown away."""
    if asked_for() > 1:
        raise UserError("--dry_run tries the course in one process: start it with python, without torchrun")
    RunFolder.open(options).refuse_other_options(options)
    with tempfile.TemporaryDirectory() as folder:
        run(options.model_copy(update={"logdir": folder, "epochs": 1, "teacher_outputs": "live", "resume": "none"}))
    LOG.info("dry run: everything fits together; nothing was kept")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 on a user's mistake, 130 when stopped (go on with ``--resume auto``)."""

    def work() -> None:
        options = parse(TrainOptions, sys.argv[1:] if argv is None else argv, home=home())
        (rehearse if options.dry_run else run)(options)

    return exit_code(work, divides=True)


if __name__ == "__main__":
    sys.exit(main())
