"""What a run writes into its weights files, so that each can be used without the run, and how that is used again."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from distilplace.common.errors import UserError
from distilplace.common.randomness import forked_random_state
from distilplace.datasets.base import PlaceData
from distilplace.datasets.preprocessing import preprocessing_of
from distilplace.datasets.records import PlaceRecord
from distilplace.engine.context import Context
from distilplace.engine.options import DataOptions, ModelOptions, TrainOptions
from distilplace.engine.runs.folder import LOG, TEACHER_FILES
from distilplace.engine.runs.saved import config_of, earlier_version
from distilplace.evaluation.retrieval.measures import Result
from distilplace.models import PlaceNetwork, model_requires
from distilplace.models.checkpoints import read_card
from distilplace.models.head import SETTING
from distilplace.runtime.model_card import NEUTRAL_SETTINGS, ModelCard
from distilplace.runtime.resizing import read_steps

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
    context: Context[TrainOptions],
    network: PlaceNetwork,
    settings: Mapping[str, Any],
    example: PlaceRecord,
    *,
    maps: Sequence[str] = (),
    teacher: str | None = None,
) -> Described:
    """The card of the network that a run trains, or of one of its teachers, without scores.

    Args:
        context: of the run, with the data set that trains.
        network: as it is; asked for the embedding of the training place ``example``.
        settings: that it was built from.
        example: a training place.
        maps: fingerprints of the spaces that its embeddings aim at.
        teacher: name of the network where it is a teacher of this run.

    """
    options, data = context.options, context.data
    student = options.train_mode == "train_student" and teacher is None
    seen = example.images[0] if "images" in network.requires and example.images else None
    preprocessing = preprocessing_of(data, None if seen is None else Path(seen))
    embedding = _embedding_of(context, network, example)
    unit = bool((embedding.norm(dim=1) - 1).abs().max() < _UNIT)
    neutral = {name: to for name, to in _NEUTRAL.items() if name in settings}
    head = {} if network.embedding_head is None else {SETTING: list(network.embedding_head.names)}
    card = ModelCard(
        role="student" if student else "teacher",
        model=options.student_model if student else teacher or options.model[0],
        settings={**_plain(settings), **neutral, **head},
        preprocessing=preprocessing.to_dict(),
        embedding={"width": embedding.shape[1], "metric": "cosine", "unit": unit},
        dataset=data.name,
        licence="Apache-2.0" if data.name.startswith("demo") else f"as the terms of the data set {data.name} allow",
        options={name: value for name, value in options.model_dump(mode="json").items() if name in CARD_OPTIONS},
        maps=tuple(maps),
    )
    return Described(card, preprocessing.mean_image)


def card_options(weights: str | Path | None) -> dict[str, Any]:
    """The options of the run that made a weights file, as the file tells them, folders omitted; empty: it tells none.

    Raises:
        UserError: the file is damaged, or tells an option that is no plain value.

    """
    card = None if weights is None or not Path(weights).is_file() else read_card(weights)
    if card is None:
        return {}
    told = {name: value for name, value in card.options.items() if name in CARD_OPTIONS}
    for name, value in told.items():
        if not all(each is None or isinstance(each, str | int | float) for each in _listed(value)):
            raise UserError(f"weights file {weights}: option {name} is no plain value: fetch or make it again")
    student = card.role == "student"
    network = {"student_model": card.model} if student else {"model": [card.model]}
    return {"dataset": card.dataset, **told, **network, "train_mode": f"train_{card.role}"}


def trained_options(weights: str | Path | None, *, tell: bool = True) -> dict[str, Any]:
    """Options of the run that made the weights, and ``role``: of its ``config.yaml``, else as the file tells them.

    Of a run's teacher, which lies beside its student, the file tells network and role. Empty where nothing is known.
    ``tell``: log which options are at their defaults, because the run is of an earlier version.

    Raises:
        UserError: either is damaged.

    """
    run = config_of(weights)
    if tell and (line := earlier_version(weights)):
        LOG.info("%s", line)
    of_the_run = weights is not None and not Path(weights).match(TEACHER_FILES)
    found = run if run and of_the_run else {**run, **card_options(weights)}
    return {**found, "role": found["train_mode"].removeprefix("train_")} if "train_mode" in found else found


def unlike_trained(weights: str | Path, settings: Mapping[str, Any], data: PlaceData) -> str:
    """How a network is used otherwise than its weights file says that it was trained, in words; empty: it is not.

    Args:
        weights: the file.
        settings: that the network was built from.
        data: what images come from.

    """
    card = read_card(weights)
    if card is None:
        return ""
    source = f"weights file {weights}"
    mine = {name: value for name, value in _plain(settings).items() if name not in NEUTRAL_SETTINGS}
    pairs = [(name, value, card.settings[name]) for name, value in mine.items() if name in card.settings]
    if "images" in model_requires(card.model):
        now, then = (_pixels(values, source) for values in (preprocessing_of(data).to_dict(), card.preprocessing))
        pairs += [(name, value, then[name]) for name, value in now.items()]
    return "; ".join(f"{name} {value} (trained: {other})" for name, value, other in pairs if value != other)


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


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _pixels(values: Mapping[str, Any], source: str) -> dict[str, str]:
    """A preprocessing in words."""

    def size(steps: object) -> str:
        words = [f"{step.kind} {'x'.join(map(str, step.sides))} {step.filter}" for step in read_steps(steps, source)]
        return ", ".join(words) or "their own"

    queries = values.get("query_steps")
    return {
        "size of images": size(values.get("steps")),
        "size of queries": size(values.get("steps") if queries is None else queries),
        "normalisation": json.dumps(values.get("normalisation"), sort_keys=True),
        "turned upright": json.dumps(values.get("upright")),
    }
