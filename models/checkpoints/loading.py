"""Weights from a file into a model: all that the model has, or nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.models.base import PlaceNetwork
from distilplace.models.checkpoints.content import is_counter
from distilplace.models.checkpoints.files import read_weights
from distilplace.models.checkpoints.fitting import LoadReport, fit_state, misfits, some_of

_MOST_FRONTS = 4


def expected_keys(model: nn.Module) -> list[str]:
    """The keys of a checkpoint for ``model``: the authors' names where such were published, else its own.

    A ``module.`` in front of all of them, and parts that the model does not use, may be in the file besides.
    """
    return model.expected_keys() if isinstance(model, PlaceNetwork) else list(model.state_dict())


def load_weights(model: nn.Module, path: Path | str) -> LoadReport:
    """Load the weights of ``path`` into ``model``, all that the model has, or fail and leave the model as it was.

    Accepts .safetensors and what ``torch.save`` writes for a state dict, bare or inside {"state_dict": ...} or
    {"model": ...}, with or without ``module.`` in front of the keys. Values are cast to the model's types. A trunk
    alone under torchvision's names is enough for a model that has nothing else. A :class:`PlaceNetwork` may know other
    names of its weights (``own_state``).

    Raises:
        UserError: missing, damaged or unsafe file; non-finite values; another architecture (with the settings that
            differ where the shapes tell); a trunk alone for a model that has more.

    """
    source = f"weights file {path}"
    unused = model.unused_checkpoint_prefixes if isinstance(model, PlaceNetwork) else ()

    def fits(state: dict[str, Tensor]) -> bool:
        return not misfits(model.state_dict(), under_own_names(model, state, source), unused)

    (tensors, foreign), metadata, *_ = read_weights(path, fits)
    state = under_own_names(model, tensors, source)
    fitted, report = fit_state(model.state_dict(), state, unused, source)
    model.load_state_dict(fitted, strict=True)
    return replace(report, metadata=metadata, foreign=foreign, skipped=(*report.skipped, *foreign))


def under_own_names(model: nn.Module, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
    """``state``; where it is the model's trunk under torchvision's names, or published, under the model's own names."""
    if isinstance(model, PlaceNetwork):
        state = model.own_state(state, source)
    target = model.state_dict()
    for candidate in _without_fronts(state):
        renamed = _trunk_renamed(model, candidate, target, source)
        if renamed.keys() & target.keys():
            return renamed
    return state


def _without_fronts(state: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """``state``, and again without the part before the first dot where all keys share it ("net.", of Lightning)."""
    for _ in range(_MOST_FRONTS):
        yield state
        fronts = {key.partition(".")[0] for key in state if not is_counter(key)}
        if len(fronts) != 1 or not all("." in key for key in state if not is_counter(key)):
            return
        front = f"{fronts.pop()}."
        state = {key.removeprefix(front): value for key, value in state.items()}


def _trunk_renamed(
    model: nn.Module, state: Mapping[str, Tensor], target: Mapping[str, Tensor], source: str
) -> Mapping[str, Tensor]:
    """``state``; where it is the model's trunk under torchvision's names, under the model's own names."""
    theirs, ours = (isinstance(model, PlaceNetwork) and model.trunk_keys) or ("", "")
    renamed = {ours + key.removeprefix(theirs): value for key, value in state.items() if key.startswith(theirs)}
    if theirs == ours or not renamed.keys() & target.keys() or any(key.startswith(ours) for key in state):
        return state
    more = [key for key in target if not key.startswith(ours)]
    if more:
        raise UserError(
            f"{source} holds an image trunk alone, under torchvision's names, but the model also has {some_of(more)}:"
            " give the file as --pretrained instead"
        )
    return renamed
