"""``distilplace centre``: a finished network with the mean of its training embeddings subtracted.

    distilplace centre logs/<run>/models/best.safetensors -o centred.safetensors

What ``train.py --centre`` does at the end of a run, for weights that were trained without it: in a run's folder by the
frames that the run has learned from, of other files by all training frames of the data set. Further flags are those of
``evaluate.py`` on data sets, such as ``--dataset_folder``. The weights are not changed; ``distilplace.load``,
``evaluate.py --weights`` and ``distilplace export`` take the new file as any other.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.common.files import require_file
from distilplace.common.home import home, program
from distilplace.datasets.base import PlaceData
from distilplace.datasets.records import PlaceRecord
from distilplace.engine.building import (
    build_data,
    build_fabric,
    build_network,
    build_test_data,
    split_share,
    student_settings,
    teacher_settings,
)
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.heads.fitted import fit_centre
from distilplace.engine.model_card import trained_options
from distilplace.engine.options import EvaluateOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.program import exit_code
from distilplace.engine.runs.folder import LOG
from distilplace.engine.runs.saved import config_of
from distilplace.models import model_class
from distilplace.models.checkpoints import read_weights, save_weights
from distilplace.models.head import SETTING


def centre(weights: Path, output: Path, flags: Sequence[str]) -> Path:
    """Write the centred network of ``weights`` to ``output``; its path.

    Raises:
        UserError: weights that do not describe themselves or compare no embeddings, or no data set to embed.

    """
    if output.suffix != ".safetensors" or output.resolve() == weights.resolve():
        raise UserError(f"-o {output}: give another file, called .safetensors")
    found = read_weights(require_file(weights, "weights file"))
    card = found.card
    if card is None:
        raise UserError(f"weights file {weights} does not say what it holds: train it again with this version")
    if not model_class(card.model).compares_embeddings:
        raise UserError(f"weights file {weights} holds {card.model}, which compares no embeddings: nothing to centre")
    known = {name: value for name, value in trained_options(weights).items() if name in EvaluateOptions.model_fields}
    options = parse(EvaluateOptions, [*flags, "--weights", str(weights)], home=home(), saved=known, all_read=False)
    context = Context(options, build_data(options), build_fabric(options))
    settings = (teacher_settings if card.role == "teacher" else student_settings)(options, card.model)
    network = build_network(card.model, settings, seed=options.seed, weights=str(weights)).to(context.device)
    records = learned_from(weights, options, context.data)
    table = Embedder(context).embed(network, records, "training places, to centre by")[1]
    fit_centre(network, table["embedding"])
    assert network.embedding_head is not None
    card = replace(
        card,
        settings={**card.settings, SETTING: list(network.embedding_head.names)},
        embedding={**card.embedding, "unit": True},
        scores={},
    )
    save_weights(network, output, card, found.mean_image)
    LOG.info("%s: centred by the mean of %d training frames of %s", output, len(records), context.data.name)
    return output


def learned_from(weights: Path, options: EvaluateOptions, data: PlaceData) -> Sequence[PlaceRecord]:
    """The training frames of ``data`` without those that the run of ``weights`` has held back to validate on."""
    everything, run = data.training_set(), config_of(weights)
    if run.get("dataset") != options.dataset:
        return everything.records
    test = build_test_data(options, data).evaluation_set()
    return split_share(options, data, everything, test, float(run["val_fraction"])).training.records


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 on a user's mistake."""
    parser = argparse.ArgumentParser(
        prog=program("tools.centre"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="weights file of a run (best.safetensors)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the new file (.safetensors)")
    chosen, flags = parser.parse_known_args(arguments)
    return exit_code(lambda: centre(chosen.weights, chosen.output, flags))


if __name__ == "__main__":
    sys.exit(main())
