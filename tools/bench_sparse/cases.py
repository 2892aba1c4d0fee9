"""What ``tools.bench_sparse`` times: map building, each layer kind alone, the trunk; and what must agree before it.

Engines number voxels differently, so results are compared in one order: by batch element, then x, y, z.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.common.randomness import forked_random_state
from distilplace.tools.bench.run import difference
from distilplace.tools.bench_sparse.engines import LAYERS, Engine, Layer

GROUPS = ("maps", "layers", "trunk")
TRUNK_FORWARD, TRUNK_BACKWARD = "trunk forward", "trunk forward+backward"
HALF_SPAN = 2**15  # coordinates of the benchmark's clouds lie within +-200


@dataclass(frozen=True)
class Side:
    """One engine's part of a case: what is timed, and its results in the common order (None: cannot be compared)."""

    run: Callable[[], object]
    result: Callable[[], list[Tensor]] | None


@dataclass(frozen=True)
class SparseCase:
    """The same work in every engine; ``tolerance`` is relative to each result's largest number."""

    name: str
    sides: dict[str, Side]
    tolerance: float


def common_order(coords: Tensor) -> Tensor:
    """Row numbers that put int ``[N, 4]`` coordinates in order of batch element, x, y, z."""
    moved = coords.long() + torch.tensor([0, HALF_SPAN, HALF_SPAN, HALF_SPAN], device=coords.device)
    return ((moved[:, 0] << 48) | (moved[:, 1] << 32) | (moved[:, 2] << 16) | moved[:, 3]).argsort()


def cases(engines: Sequence[Engine], coords: Tensor, groups: Sequence[str]) -> Iterator[SparseCase]:
    """Every case on one batch (int32 ``[N, 4]``, on the device), each made when it is asked for."""
    if "maps" in groups:
        yield SparseCase("map building", {engine.name: _maps_side(engine, coords) for engine in engines}, 1e-4)
    for layer in LAYERS if "layers" in groups else ():
        for backward in (False, True):
            sides = {engine.name: _layer_side(engine, layer, coords, backward) for engine in engines}
            yield SparseCase(f"{layer.name}, {_what(backward)}", sides, 1e-3)
    for backward in (False, True) if "trunk" in groups else ():
        sides = {engine.name: trunk_side(engine, coords, backward) for engine in engines}
        # float32: a sum in another order may switch a ReLU, which the gradients feel
        yield SparseCase(TRUNK_BACKWARD if backward else TRUNK_FORWARD, sides, 2e-2 if backward else 1e-3)


def _what(backward: bool) -> str:
    return "forward+backward" if backward else "forward"


def deviations(case: SparseCase) -> dict[str, float]:
    """How far each engine's results lie from the first comparable one's; each engine runs once.

    Raises:
        UserError: further than the case's tolerance.

    """
    results = {name: side.result() for name, side in case.sides.items() if side.result is not None}
    reference, *_ = results
    found = {name: difference(result, results[reference]) for name, result in results.items()}
    for name, value in found.items():
        if value > case.tolerance:
            raise UserError(
                f"{case.name}: {name} and {reference} differ by {value:.1e} of the largest number, more than "
                f"{case.tolerance:.0e}; the timing would mean nothing"
            )
    return found


def _maps_side(engine: Engine, coords: Tensor) -> Side:
    chain = engine.chain().to(coords.device).eval()
    ones = torch.ones(len(coords), 1, device=coords.device)

    def run() -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            return engine.parts(chain(engine.tensor(coords, ones)))

    return Side(run, lambda: [_ordered(*run())])


def _ordered(features: Tensor, coords: Tensor | None) -> Tensor:
    return features if coords is None else features[common_order(coords)]


def _layer_side(engine: Engine, layer: Layer, coords: Tensor, backward: bool) -> Side:
    """The layer on one tensor again and again: its kernel map is built in the first run, which is not timed."""
    device = coords.device
    module = engine.layer(layer).to(device).train(backward)
    x = engine.tensor(coords, torch.ones(len(coords), 1, device=device))
    where, put = engine.at(x, layer.level)
    order = common_order(where)
    features = torch.ones(len(where), layer.channels, device=device)
    if layer.channels > 1:  # the stem reads ones, and nothing asks for their gradient
        features[order] = _drawn(len(where), layer.channels, layer.name).to(device)
        features.requires_grad_(backward)
    tensor = put(features)

    def forward() -> tuple[Tensor, Tensor | None]:
        return engine.parts(module(tensor))

    with torch.no_grad():
        out, target = forward()
    right = engine.pools_batches or layer.kind not in ("eca", "gem") or int(coords[:, 0].max()) == 0
    if not backward:

        def run() -> tuple[Tensor, Tensor | None]:
            with torch.no_grad():
                return forward()

        return Side(run, (lambda: [_ordered(*run())]) if right else None)
    gradient = _drawn(len(out), layer.width, f"{layer.name} gradient").to(device)
    if target is not None:
        gradient[common_order(target)] = gradient.clone()
    return _backward_side(lambda: forward()[0], gradient, module, features, order, target, right)


def _backward_side(
    forward: Callable[[], Tensor],
    gradient: Tensor,
    module: nn.Module,
    features: Tensor,
    order: Tensor,
    target: Tensor | None,
    right: bool,
) -> Side:
    wanted = ([features] if features.requires_grad else []) + list(module.parameters())

    def run() -> tuple[Tensor, Sequence[Tensor]]:
        out = forward()
        return out.detach(), torch.autograd.grad(out, wanted, gradient)

    def result() -> list[Tensor]:
        out, gradients = run()
        inputs = [gradients[0][order]] if features.requires_grad else []
        return [_ordered(out, target), *inputs, *gradients[len(inputs) :]]

    return Side(run, result if right else None)


def trunk_side(engine: Engine, coords: Tensor, backward: bool) -> Side:
    """The whole network from raw coordinates: every run makes its manager and all maps again."""
    network = engine.trunk().to(coords.device).train(backward)
    batch = {"coords": coords, "features": torch.ones(len(coords), 1, device=coords.device)}
    parameters = [parameter for _, parameter in sorted(network.named_parameters())]  # modules may be listed otherwise

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [network(batch)["embedding"]]

    def both() -> list[Tensor]:
        embedding = network(batch)["embedding"]
        gradients = torch.autograd.grad(embedding.square().sum(), parameters)
        return [embedding.detach(), *gradients]

    def both_joined() -> list[Tensor]:
        embedding, *gradients = both()
        return [embedding, torch.cat([each.flatten() for each in gradients])]

    right = engine.pools_batches or int(coords[:, 0].max()) == 0
    run, result = (both, both_joined) if backward else (forward, forward)
    return Side(run, result if right else None)


def _drawn(rows: int, columns: int, name: str) -> Tensor:
    with forked_random_state("bench sparse", name):
        return torch.randn(rows, columns)
