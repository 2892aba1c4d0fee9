"""Cluster centres for a NetVLAD network before its training: the local descriptors that they are made of, in a file.

    python -m tools.cluster --config recipes/wakd/wakd_pitts30k.yaml --dataset_folder D

``train.py`` does the same by itself on first need. This command is for those who train on another machine: give the
file it names as ``--clusters_file``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.common.home import home
from distilplace.engine.assembly import Parts
from distilplace.engine.building import build_network, build_task_loss, build_test_data, learner, split_validation
from distilplace.engine.caches.clusters import cluster_path, clusters_made_from, find_descriptors
from distilplace.engine.context import Context
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.program import exit_code
from distilplace.engine.runs.folder import LOG


def cluster(options: TrainOptions) -> Path:
    """Find the descriptors of the network that ``--train_mode`` names; path of their file."""
    context = Context.open(options)
    data, (name, settings) = context.data, learner(options)
    network = build_network(name, settings, seed=options.seed).to(context.device)
    if not hasattr(network, "initialise_clusters"):
        raise UserError(f"{name} has no NetVLAD clusters to start: name one of the ...netvlad networks")
    test = build_test_data(options, data).evaluation_set()
    training = split_validation(options, data, data.training_set(), test).training
    parts = Parts(training, network, build_task_loss(options), None, [], context)
    made_from = clusters_made_from(parts)
    path = cluster_path(parts, made_from)
    LOG.info("%d local descriptors: %s", len(find_descriptors(parts, path, made_from)), path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: the options of ``train.py``."""
    flags = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: cluster(parse(TrainOptions, flags, home=home())))


if __name__ == "__main__":
    sys.exit(main())
