"""What a run writes into its weights files, so that each can be used without the run."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from distilplace.common.randomness import forked_random_state
from distilplace.datasets.preprocessing import preprocessing_of
from distilplace.datasets.records import PlaceRecord
from distilplace.engine.context import Context
from distilplace.engine.options import DataOptions, ModelOptions, TrainOptions
from distilplace.evaluation.retrieval.measures import Result
from distilplace.models import PlaceNetwork
from distilplace.runtime.model_card import ModelCard

# Options that say where files lie, or how fast a network runs.
_ELSEWHERE = {"dataset_folder", "image_path", "test_folder", "mean_image_path", "distractors_folder", "pretrained"}
_ELSEWHERE |= {"num_workers", "val_batch_size", "sparse_backend", "sparse_maps"}
CARD_OPTIONS = {*DataOptions.model_fields, *ModelOptions.model_fields} - _ELSEWHERE
"""Options of a run that a weights file holds, for ``evaluate.py``."""
_NEUTRAL = {"pretrained": "none", "sparse_backend": "auto"}  # a file has weights, and is used on any machine
_UNIT = 1e-3  # how far from 1 the length of a unit embedding may be, in half precision too


class Described(NamedTuple):
    """A network's card, and the mean image float32 [H, W, 3] that its preprocessing subtracts."""

    card: ModelCard
    mean_image: np.ndarray | None


def describe_network(
    context: Context[TrainOptions], network: PlaceNetwork, settings: Mapping[str, Any], example: PlaceRecord
) -> Described:
    """The card of the network that a run trains, without scores.

    Args:
        context: of the run, with the data set that trains.
        network: as it is; asked for the embedding of the training place ``example``.
        settings: that it was built from.
        example: a training place.

    """
    options, data = context.options, context.data
    student = options.train_mode == "train_student"
    seen = example.images[0] if "images" in network.requires and example.images else None
    preprocessing = preprocessing_of(data, None if seen is None else Path(seen))
    embedding = _embedding_of(context, network, example)
    unit = bool((embedding.norm(dim=1) - 1).abs().max() < _UNIT)
    card = ModelCard(
        role="student" if student else "teacher",
        model=options.student_model if student else options.model[0],
        settings={**_plain(settings), **{name: to for name, to in _NEUTRAL.items() if name in settings}},
        preprocessing=preprocessing.to_dict(),
        embedding={"width": embedding.shape[1], "metric": "cosine", "unit": unit},
        dataset=data.name,
        licence="Apache-2.0" if data.name.startswith("demo") else f"as the terms of the data set {data.name} allow",
        options={name: value for name, value in options.model_dump(mode="json").items() if name in CARD_OPTIONS},
    )
    return Described(card, preprocessing.mean_image)


def scores_of(result: Result | None) -> dict[str, float | None]:
    """What a result logs, as JSON can say it: what is not finite is None."""
    found = {} if result is None else result.scalars()
    return {name: float(value) if math.isfinite(value) else None for name, value in found.items()}


@torch.no_grad()
def _embedding_of(context: Context[TrainOptions], network: PlaceNetwork, example: PlaceRecord) -> torch.Tensor:
    """Float32 [1, D]; the network's mode and everybody's random numbers stay as they were."""
    was_training = network.training
    network.eval()
    try:
        with forked_random_state("model card"), context.fabric.autocast():
            found: torch.Tensor = network(context.sample([example], network.requires))["embedding"]
    finally:
        network.train(was_training)
    return found.float().cpu()


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
