"""Places of a data set for a map, embedded by a teacher that reads their clouds too."""

from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.home import home
from distilplace.datasets.records import PlaceRecord
from distilplace.engine.building import build_fabric, build_test_data
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.model_card import trained_options
from distilplace.engine.options import EvaluateOptions
from distilplace.engine.options.command_line import parse
from distilplace.models.loaded import LoadedNetwork


def survey(weights: Path, dataset: str, folder: Path | None, batch_size: int) -> Context[EvaluateOptions]:
    """The data set ``dataset`` as the network in ``weights`` was trained to read images and clouds.

    Raises:
        UserError: a data set that cannot be opened.

    """
    known = {name: value for name, value in trained_options(weights).items() if name in EvaluateOptions.model_fields}
    flags = ["--weights", str(weights), "--dataset", dataset, "--val_batch_size", str(batch_size)]
    flags += [] if folder is None else ["--dataset_folder", str(folder)]
    options = parse(EvaluateOptions, flags, home=home(), saved=known, all_read=False)
    data = build_test_data(options.model_copy(update={"test_dataset": None}))
    return Context(options, data, build_fabric(options)).testing(data)


def embed_records(context: Context[EvaluateOptions], model: LoadedNetwork, records: list[PlaceRecord]) -> np.ndarray:
    """Embeddings float32 [n, D] of ``records``, clouds and images.

    Raises:
        UserError: a record without a cloud.

    """
    if bare := next((record for record in records if record.cloud is None), None):
        raise UserError(f"data set {context.data.name}: {bare.key} has no cloud, which {model.source} reads")
    embeddings = Embedder(context).embed(model.network.to(context.device), records, "places for the map")[1]
    found: np.ndarray = embeddings["embedding"].numpy()
    return found
