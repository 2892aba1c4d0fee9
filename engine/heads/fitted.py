"""Heads that are fitted behind a network when it has learned: ``--centre`` and ``--align_head``.

Both read the network's embeddings of the clean training frames. A centred network is ``models/best.safetensors``; what
was learned stays in ``models/unfitted.safetensors`` (and ``last.safetensors``, ``last.ckpt``): a run that goes on fits
again, from there. With ``--align_head`` the same network lies beside it as ``models/aligned.safetensors``, for its
teacher's map. Each is another space, with a fingerprint of its own.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distilplace.common.errors import UserError
from distilplace.common.outputs import ALIGNED
from distilplace.common.randomness import forked_random_state
from distilplace.datasets.records import Benchmark, EvaluationSet, PlaceRecord, TrainingSet
from distilplace.datasets.sampling.splitting import Split
from distilplace.engine import processes
from distilplace.engine.building import cut_stretch
from distilplace.engine.context import Context
from distilplace.engine.embedding import Embedder
from distilplace.engine.heads.maps import save_map_models
from distilplace.engine.heads.ridge import Ridge, choose_share, fit_ridge
from distilplace.engine.model_card import describe_network
from distilplace.engine.options import TrainOptions
from distilplace.engine.teachers.aligned import AlignedTeacher
from distilplace.engine.teachers.sources import TeacherSource
from distilplace.evaluation.retrieval.runs import evaluate_runs
from distilplace.losses.distiller import Distiller
from distilplace.models import PlaceNetwork
from distilplace.models.checkpoints import read_card, save_weights
from distilplace.models.head import LINEAR, Centre, EmbeddingHead

LOG = logging.getLogger("distilplace")
BEST, UNFITTED, ALIGNED_FILE = "best.safetensors", "unfitted.safetensors", "aligned.safetensors"
HELD_SHARE = 0.2
"""Of the training places, to choose the strength of a ridge regression by."""


def chosen_file(options: TrainOptions) -> str:
    """Where the weights of the chosen epoch lie in ``models/``, as they were learned."""
    return UNFITTED if options.centre else BEST


@dataclass(frozen=True)
class HeadFitter:
    """What a head is fitted on: made before training by :meth:`prepare`, so that what cannot be is refused early.

    ``held``: training places kept apart to choose the ridge's strength by; ``teacher``: whose embeddings it aims at;
    both None without ``--align_head``. ``maps``: fingerprints of the teachers' spaces that embeddings aim at, when the
    head is fitted; ``learned_maps``: before that.
    """

    context: Context[TrainOptions]
    records: Sequence[PlaceRecord]
    held: Split | None = None
    teacher: AlignedTeacher | None = None
    maps: tuple[str, ...] = ()
    learned_maps: tuple[str, ...] = ()

    @classmethod
    def prepare(
        cls,
        context: Context[TrainOptions],
        training: TrainingSet,
        test: Benchmark,
        teachers: Sequence[TeacherSource],
        distiller: Distiller | None,
        models: Path,
    ) -> "HeadFitter":
        """A fitter for what the options ask for; teachers that are aimed at are written into the folder ``models``.

        Raises:
            UserError: a ridge regression without one teacher to aim at, or without places to choose its strength by.

        """
        options = context.options
        maps = processes.on_first(save_map_models, context, teachers, models, training.records[0])
        aims = distiller is not None and distiller.absolute and ALIGNED in distiller.teacher_requires
        learned_maps = maps if aims else ()
        if not options.align_head:
            return cls(context, training.records, maps=maps, learned_maps=learned_maps)
        if len(teachers) != 1 or not isinstance(teachers[0], AlignedTeacher):
            raise UserError(f"--align_head aims at one teacher's embeddings, this run has {len(teachers)}: give one")
        held = None
        if context.data.metric_positions:
            held = cut_stretch(options, context.data, training, test, HELD_SHARE)
        if held is None or held.validation is None:
            raise UserError(
                f"--align_head chooses its strength on places held back from the training set, and {context.data.name} "
                "has none that queries could be put to: omit it"
            )
        return cls(context, training.records, held, teachers[0], maps, learned_maps)

    def fit_and_save(
        self, network: PlaceNetwork, settings: Mapping[str, Any], learned: Path
    ) -> Iterator[tuple[Path, str]]:
        """Put what is fitted behind the network, one after the other; each file with what it holds, in words.

        ``learned``: its weights file. The scores of the validation split are those of the network as it was learned,
        and are called so.
        """
        if not (self.context.options.centre or self.teacher):
            return
        keys, table = Embedder(self.context).embed(network, self.records, "training places, to fit the head")
        embeddings, words = table["embedding"], []
        if self.context.options.centre:
            embeddings = fit_centre(network, embeddings)
            words.append("centred")
            yield self._save(network, settings, learned, BEST, self.learned_maps), words[-1]
        if self.teacher is not None and self.held is not None:
            student = functional.normalize(embeddings.double(), dim=1).numpy()
            fit_linear(network, held_ridge(keys, student, self.teacher.bank(keys).double().cpu().numpy(), self.held))
            words.append("ridge head")
            yield self._save(network, settings, learned, ALIGNED_FILE, self.maps), " and ".join(words)

    def _save(
        self, network: PlaceNetwork, settings: Mapping[str, Any], learned: Path, name: str, maps: tuple[str, ...]
    ) -> Path:
        processes.start_alike(network)
        card = read_card(learned)
        assert card is not None
        scores = {{"validation": "validation, unfitted"}.get(part, part): each for part, each in card.scores.items()}
        scores.pop("test", None)
        described = describe_network(self.context, network, settings, self.records[0], maps=maps)
        card = replace(described.card, scores=scores)
        return processes.on_first(save_weights, network, learned.with_name(name), card, described.mean_image)


def held_ridge(keys: Sequence[str], student: np.ndarray, teacher: np.ndarray, held: Split) -> Ridge:
    """The map from rows ``student`` [n, D] to rows ``teacher`` [n, d] of the places ``keys``.

    Its strength is the one at which, fitted without the places held back, it finds them best in the teacher's map.
    """
    validation = held.validation
    assert isinstance(validation, EvaluationSet)
    row_of = {key: row for row, key in enumerate(keys)}

    def rows(records: Sequence[PlaceRecord]) -> list[int]:
        return [row_of[record.key] for record in records]

    def recall(ridge: Ridge) -> float:
        queries = [ridge(student[rows(run)]) for run in validation.queries]
        database = [teacher[rows(run)] for run in validation.database]
        result = evaluate_runs(database, queries, validation.query_sets, k=1, rules=validation.rules)
        return result.recall[1]

    left = rows(held.training.records)
    share = choose_share(student[left], teacher[left], recall)
    LOG.info("ridge head: strength %.1e of the mean eigenvalue, fitted on %d training frames", share, len(keys))
    return fit_ridge(student, teacher, share)


def fit_centre(network: PlaceNetwork, embeddings: Tensor) -> Tensor:
    """Behind the network: unit length, less the mean of the unit ``embeddings`` [n, D], unit length.

    Returns what the embeddings become.
    """
    unit = functional.normalize(embeddings.double(), dim=1)
    centre = _extended(network, ["centre", "unit"])[-2]
    assert isinstance(centre, Centre)
    centre.mean.copy_(unit.mean(dim=0))
    return functional.normalize(unit - unit.mean(dim=0), dim=1)


def fit_linear(network: PlaceNetwork, fitted: Ridge) -> None:
    """Behind the network: unit length, the ``fitted`` map, unit length."""
    linear = _extended(network, [f"{LINEAR}{len(fitted.bias)}", "unit"])[-2]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(fitted.weight))
        linear.bias.copy_(torch.from_numpy(fitted.bias))


def _extended(network: PlaceNetwork, names: Sequence[str]) -> EmbeddingHead:
    """The network's head with further layers, the first of which reads unit vectors."""
    device = next(network.parameters()).device
    unit = network.embedding_head is not None and network.embedding_head.names[-1] == "unit"
    with forked_random_state("fitted head"):
        return network.add_embedding_head([*([] if unit else ["unit"]), *names]).to(device)
