"""Whitenings of a run's teachers ahead of its training (Whiten-MTD): fitted, kept where ``train.py`` looks for them.

    python -m tools.whiten --config recipes/whiten_mtd/whiten_mtd_gldv2.yaml --dataset_folder D --model resnet101_gem \
        --teacher_weights_path W --whiten_dim 512

The options are those of ``train.py``, which does the same by itself on first need. This command tells how much of each
teacher's variance the chosen width keeps before a long run is started with it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.common.home import home
from distilplace.engine.building import build_network, teacher_settings
from distilplace.engine.caches.whitening import fitted_whitening
from distilplace.engine.context import Context
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.program import exit_code
from distilplace.engine.runs.folder import LOG
from distilplace.models.whitening import Whitening


def whiten(options: TrainOptions) -> list[Whitening]:
    """One whitening per ``--model``, of the weights in ``--teacher_weights_path``, to ``--whiten_dim`` numbers.

    Raises:
        UserError: no width, not one weights file for each teacher, or a teacher that cannot be whitened to this width.

    """
    names, paths = options.model, options.teacher_weights_path
    if options.whitening:
        raise UserError("--whitening names whitenings that are fitted already: train.py takes them, here omit it")
    if options.whiten_dim is None:
        raise UserError("no width to whiten to: give --whiten_dim (published: 512)")
    if len(names) != len(paths):
        raise UserError(f"--teacher_weights_path names {len(paths)} files for {len(names)} teachers; give one each")
    context = Context.open(options)
    records = context.data.training_set().records
    found = []
    for name, path in zip(names, paths, strict=True):
        network = build_network(name, teacher_settings(options, name), seed=options.seed, weights=path)
        fitted = fitted_whitening(context, network.to(context.device), name, Path(path), records)
        share, images = 100 * fitted.kept, fitted.samples
        LOG.info("%s: %d of %d numbers keep %.2f %% (%d images)", name, fitted.dim2, fitted.dim1, share, images)
        found.append(fitted)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: the options of ``train.py``."""
    flags = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: whiten(parse(TrainOptions, flags, home=home())))


if __name__ == "__main__":
    sys.exit(main())
