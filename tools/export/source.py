"""The weights file that is exported, and the images that its data set and the command line give."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from distilplace.common.errors import UserError
from distilplace.common.home import home
from distilplace.datasets.records import Benchmark
from distilplace.engine.building import build_data, build_test_data
from distilplace.engine.model_card import trained_options
from distilplace.engine.options import EvaluateOptions
from distilplace.engine.options.command_line import given, parse
from distilplace.models import PlaceNetwork, create_model
from distilplace.models.checkpoints import load_weights, read_weights
from distilplace.runtime.model_card import ModelCard
from distilplace.runtime.preprocessing import Preprocessing
from distilplace.tools.export.images import Images, images_in

LOG = logging.getLogger("distilplace")


class Source(NamedTuple):
    """A network in evaluation mode, what its file says of it, and how its images are made."""

    network: PlaceNetwork
    card: ModelCard
    preprocessing: Preprocessing

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of its images; None: any."""
        if self.preprocessing.query_steps is not None:
            return None
        return self.preprocessing.size or self.preprocessing.trained_size


@dataclass(frozen=True)
class Data:
    """Images: to calibrate on, to compare on, and what is right there."""

    calibration: Images | None = None
    tested: Images | None = None
    test: Benchmark | None = None


def open_source(path: Path) -> Source:
    """The network in a weights file.

    Raises:
        UserError: no weights file of ours that describes itself, or a network that reads clouds.

    """
    found = read_weights(path)
    if found.card is None:
        raise UserError(
            f"weights file {path} does not say what it holds, as those of other programs and of older versions: train "
            "it again, or save it with its description (docs/guide/export.md)"
        )
    card = found.card
    network = create_model(card.model, **card.settings)
    if network.requires != ("images",):
        raise UserError(
            f"{card.model} reads {', '.join(network.requires)}: networks that read images alone can be exported, such "
            "as the students distilled from it"
        )
    load_weights(network, path)
    preprocessing = Preprocessing.from_dict(card.preprocessing, f"weights file {path}", found.mean_image)
    return Source(network.eval(), card, preprocessing)


def open_data(source: Source, path: Path, folder: Path | None, flags: Sequence[str], *, calibrates: bool) -> Data:
    """The images of the data set that the weights were trained on, where it is configured, and those in ``folder``.

    ``flags`` are those of ``evaluate.py`` on data sets. Without any, a data set that cannot be opened is told and
    omitted. Training images are looked for only where the export ``calibrates``.
    """
    calibration = None if folder is None else images_in(folder, source.preprocessing)
    try:
        known = {name: value for name, value in trained_options(path).items() if name in EvaluateOptions.model_fields}
        options = parse(EvaluateOptions, [*flags, "--weights", str(path)], home=home(), saved=known, all_read=False)
        test_data = build_test_data(options)
        test = test_data.evaluation_set()
        tested = Images(f"the test set of {test_data.name}", test.distinct_records(), source.preprocessing, test_data)
        if calibration is None and calibrates:
            data = build_data(options)
            records = data.training_set().records
            calibration = Images(f"training images of {data.name}", records, source.preprocessing, data)
    except UserError as error:
        if given(EvaluateOptions, flags):
            raise
        LOG.info("data set %s is not used: %s", source.card.dataset, error)
        return Data(calibration, calibration)
    return Data(calibration, tested, test)
