#!/usr/bin/env python
"""Checkpoint x data set -> metrics and report.

    python evaluate.py --weights logs/<run>/models/best.safetensors
    python evaluate.py --weights published.pth --role teacher --model minklocmmcat --dataset oxford

Beside a run's weights lies its ``config.yaml``: data set and architecture come from there, flags override them, the
run's loss and training options are ignored. ``--compare`` adds further checkpoints to the table and the report.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from engine.building import build_fabric, build_network, build_test_data, student_settings, teacher_settings
from engine.command_line import parse, read_yaml
from engine.embedding import Embedder
from engine.options import DataOptions, EvaluateOptions, ModelOptions
from engine.program import exit_code
from engine.reduction import whitening
from engine.reporting import Outcome, report_outcome
from evaluation.report import ReportEntry

LOG = logging.getLogger("distilplace")
HOME = Path(__file__).resolve().parent


def run(argv: Sequence[str]) -> Path:
    """Evaluate ``--weights`` (and ``--compare``), print the table, write the report; path of ``index.html``."""
    options = parse(EvaluateOptions, argv, home=HOME, saved=saved_options(weights_flag(argv)))
    data = build_test_data(options)
    test = data.evaluation_set()
    test.require_questions()
    embedder = Embedder(data, build_fabric(options), options.val_batch_size, options.num_workers, options)
    embedder = replace(embedder, scales=tuple(options.scales))
    entries = [evaluate(options, embedder, test)]
    for weights in options.compare:
        other = parse(EvaluateOptions, [*argv, "--weights", weights], home=HOME, saved=saved_options(weights))
        entries.append(evaluate(other, embedder, test))
    for note in data.notes:
        LOG.info("%s", note)
    folder = Path(options.report or Path(options.weights).parent.parent / f"evaluation-{options.dataset}")
    title = f"{entries[0].name} on {data.name}"
    return report_outcome(Outcome(folder, entries, test, data.notes), title=title, seed=options.seed)


def evaluate(options: EvaluateOptions, embedder: Embedder, test: Any) -> ReportEntry:
    """One checkpoint's row."""
    role = role_of(options)
    name = options.model[0] if role == "teacher" else options.student_model
    settings = (teacher_settings if role == "teacher" else student_settings)(options, name)
    network = build_network(name, settings, seed=options.seed, weights=options.weights).to(embedder.fabric.device)
    if options.pca is not None:
        trained = read_config(options.weights)
        embedder = replace(embedder, project=whitening(options, trained, embedder, network, name, settings))
    result = embedder.score(network, test, f"{role} {name}")
    facts = embedder.facts(network, test.distinct_records())
    return ReportEntry(f"{role} {name} ({Path(options.weights).parent.parent.name or options.weights})", result, facts)


def role_of(options: EvaluateOptions) -> str:
    """Which network the weights are of: what was said, the run's own, or the one that a flag names."""
    role = options.network_role()
    if role is None:
        raise UserError(
            f"no config.yaml of a run beside {options.weights}: name the network with --model or --student_model"
        )
    return role


def saved_options(weights: str | None) -> dict[str, Any]:
    """Data set, architecture and role of the run that the weights belong to; empty when there is none."""
    kept = {*DataOptions.model_fields, *ModelOptions.model_fields}
    config = read_config(weights)
    role = {"role": config["train_mode"].removeprefix("train_")} if "train_mode" in config else {}
    return {name: value for name, value in config.items() if name in kept} | role


def read_config(weights: str | None) -> dict[str, Any]:
    """``config.yaml`` of the run that the weights belong to; empty when there is none."""
    config = Path(weights).parent.parent / "config.yaml" if weights else None
    return read_yaml(config) if config is not None and config.is_file() else {}


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
    return exit_code(lambda: run(sys.argv[1:] if argv is None else list(argv)))


if __name__ == "__main__":
    sys.exit(main())
