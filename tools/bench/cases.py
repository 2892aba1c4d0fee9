"""The pairs that ``tools.bench`` times: a part of DistilPlace and a plain reference that must give the same numbers."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distilplace.common.randomness import forked_random_state, generator
from distilplace.datasets.records import PlaceRecord, TrainingSet
from distilplace.engine.teachers.sources import LiveTeacher, StoredTeacher
from distilplace.evaluation.retrieval.runs import evaluate_runs
from distilplace.losses import create_distiller
from distilplace.models import create_model
from distilplace.models.sparse import SparseConv, SparseTensor
from distilplace.tools.bench.inputs import Case, Sizes, voxels
from distilplace.tools.bench.reference import broadcast_loss, loop_masks, loop_recall, naive_copy
from distilplace.tools.bench.relations import relation_cases

SEARCH = "search, gather, matmul, index_add per offset"


def cases(sizes: Sizes) -> Iterator[Case]:
    """Every benchmark, each made when it is asked for."""
    yield loss_case(sizes)
    yield from relation_cases(sizes)
    yield conv_case(sizes, 5, 1)  # the stem
    yield conv_case(sizes, 3, 32)  # a block
    yield from trunk_cases(sizes)
    yield mask_case(sizes)
    yield evaluation_case(sizes)
    yield teacher_case(sizes)


def loss_case(sizes: Sizes) -> Case:
    """Value and gradient of ``ours_rkdg`` with the published weights, in float64 on both sides."""
    draw = generator("bench", "loss")
    student, teacher = (torch.from_numpy(draw.normal(size=(sizes.batch, sizes.width)) / 10) for _ in range(2))
    student.requires_grad_()
    method = create_distiller(
        "ours_rkdg",
        rkdgloss_weight=10,
        **{f"crosslogit{kind}loss_weight_st2ss": "0.1" for kind in ("dist", "sim", "geodist")},
    )
    weights = {"rkdg": 10.0, "dist": 0.1, "sim": 0.1, "geo": 0.1}

    def ours() -> list[Tensor]:
        terms = method({"embedding": student}, [{"embedding": teacher}], {})
        value = torch.stack(list(terms.values())).sum()
        return [value.detach(), *torch.autograd.grad(value, student)]

    def reference() -> list[Tensor]:
        value = broadcast_loss(student, teacher, weights)
        return [value.detach(), *torch.autograd.grad(value, student)]

    name = f"ours_rkdg loss, forward+backward, B={sizes.batch} D={sizes.width}"
    return Case(name, "broadcasting: BxBxD differences, B^3 angles", ours, reference, saves=True)


def conv_case(sizes: Sizes, size: int, channels: int) -> Case:
    """One convolution alone, forward, from coordinates: building the map is included."""
    coords = voxels(sizes)
    with forked_random_state("bench", "conv", size):
        layer, features = SparseConv(channels, 32, size), torch.randn(len(coords), channels)
    naive = naive_copy(layer)

    def apply(chosen: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return [chosen(SparseTensor(features, coords)).features]

    name = f"sparse conv {size}^3 {channels}->32 and its map, {len(coords)} voxels"
    return Case(name, SEARCH, lambda: apply(layer), lambda: apply(naive))


def trunk_cases(sizes: Sizes) -> Iterator[Case]:
    """The default MinkLoc on a batch of clouds, coordinates new each time, so no map is kept from before."""
    coords = voxels(sizes)
    batch = {"coords": coords, "features": torch.ones(len(coords), 1)}
    with forked_random_state("bench", "trunk"):
        network = create_model("minkloc").eval()
    naive = naive_copy(network)
    trained, naive_trained = copy.deepcopy(network).train(), naive_copy(network).train()

    def forward(chosen: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return [chosen(batch)["embedding"]]

    def backward(chosen: nn.Module) -> list[Tensor]:
        embedding = chosen(batch)["embedding"]
        gradients = torch.autograd.grad(embedding.square().sum(), list(chosen.parameters()))
        return [embedding.detach(), torch.cat([gradient.flatten() for gradient in gradients])]

    what = f"{sizes.clouds} clouds x {sizes.points} points"
    yield Case(f"MinkLoc forward, {what}", SEARCH, lambda: forward(network), lambda: forward(naive), 1e-3)
    yield Case(
        f"MinkLoc forward+backward, {what}",
        SEARCH,
        lambda: backward(trained),
        lambda: backward(naive_trained),
        tolerance=2e-2,  # float32: a sum in another order may switch a ReLU
        saves=True,
    )


def mask_case(sizes: Sizes) -> Case:
    """Positives and negatives of one batch, of a route with 8 positives and 40 non-negatives on either side."""
    count = sizes.places
    records = [PlaceRecord(str(i), "run", None, (), float(i), 0.0) for i in range(count)]
    near, far = ([np.arange(max(i - d, 0), min(i + d + 1, count)) for i in range(count)] for d in (8, 40))
    training = TrainingSet(records, [row[row != i] for i, row in enumerate(near)], far)
    anchors = generator("bench", "masks").integers(0, count - 1, sizes.batch // 2)
    batch = [int(item) for anchor in anchors for item in (anchor, anchor + 1)]
    name = f"batch masks, {len(batch)} of {count} places"
    against = "double loop, a binary search per pair"
    return Case(name, against, lambda: training.masks(batch), lambda: loop_masks(training, batch), 0.0)


def evaluation_case(sizes: Sizes) -> Case:
    """Recall of runs along one route; the true neighbours are the place itself and those beside it."""
    draw = generator("bench", "evaluation")
    places = draw.normal(size=(sizes.run_length, sizes.width))
    runs = [(places + 2 * draw.normal(size=places.shape)).astype(np.float32) for _ in range(sizes.runs)]
    beside = [[j for j in (i - 1, i, i + 1) if 0 <= j < sizes.run_length] for i in range(sizes.run_length)]
    sets: list[dict[int, dict[Any, Any]]] = [
        {i: {m: beside[i] for m in range(sizes.runs) if m != n} for i in range(sizes.run_length)}
        for n in range(sizes.runs)
    ]

    def ours() -> list[Tensor]:
        result = evaluate_runs(runs, runs, sets)
        return [torch.tensor([*result.recall.values(), result.one_percent_recall], dtype=torch.float64)]

    name = f"evaluation, {sizes.runs} runs x {sizes.run_length} places, D={sizes.width}"
    return Case(name, "loop over pairs, torch.topk", ours, lambda: [torch.from_numpy(loop_recall(runs, runs, sets))])


def teacher_case(sizes: Sizes) -> Case:
    """A student step's teacher outputs: looked up, or computed by MinkLoc++ with ResNet18 (without loading inputs)."""
    coords = voxels(sizes)
    with forked_random_state("bench", "teacher"):
        live = LiveTeacher(create_model("minklocmmcat"))
        batch: dict[str, Any] = {
            "keys": [str(place) for place in range(sizes.clouds)],
            "images": torch.randn(sizes.clouds, 3, *sizes.image),
            "coords": coords,
            "features": torch.ones(len(coords), 1),
        }
        padding = {name: torch.randn(sizes.places, table.shape[1]) for name, table in live.outputs(batch).items()}
    tables = {name: torch.cat([table, padding[name]]) for name, table in live.outputs(batch).items()}
    stored = StoredTeacher(tables, [str(place) for place in range(sizes.clouds + sizes.places)], Path("bench"))
    name = f"teacher outputs of {sizes.clouds} places, from a store of {sizes.places}"
    against = "live MinkLoc++ forward"
    return Case(name, against, lambda: [*stored.outputs(batch).values()], lambda: [*live.outputs(batch).values()])
