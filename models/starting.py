"""A new network that starts from a file: from all of its weights where the file has them, else from a trunk's."""

import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.models.base import PlaceNetwork
from distilplace.models.checkpoints import load_weights
from distilplace.models.checkpoints.content import is_counter
from distilplace.models.checkpoints.files import read_weights
from distilplace.models.head import head_in

OF_NO_SHAPE = ("gem_p",)
"""Settings that change what a network with given weights computes and that no shape of a weight tells."""


def start_from_file(
    name: str, build: Callable[..., PlaceNetwork], settings: Mapping[str, Any], head: tuple[str, ...] = ()
) -> PlaceNetwork:
    """The network ``name`` with the weights of the file that its setting ``pretrained`` names.

    A file that holds the whole network (a run's best.safetensors, or published under names that the network knows)
    gives all weights, with those of its embedding head; one of a trunk under torchvision's (timm's) names starts the
    trunk, and the rest is random.

    Args:
        name: the network's, for messages.
        build: makes it from its head's layers and ``settings``.
        settings: of the network.
        head: layers of the embedding head that is wanted behind a network whose file has none.

    Raises:
        UserError: no such file, or one that is damaged, of another network, or of other settings.

    """
    path = Path(settings["pretrained"])
    if not path.is_file():
        return build(head, **settings)  # which names the file and what may be given instead
    with torch.random.fork_rng(devices=[]):
        network = build((), **{**settings, "pretrained": "none"})
    (tensors, _), metadata, *_ = read_weights(path, lambda state: _is_whole(network, state))
    if _is_whole(network, tensors):
        _require_same_settings(path, metadata, settings)
        theirs = head_in(metadata)
        if head and theirs and head != theirs:
            raise UserError(
                f"--pretrained {path} has the embedding head {', '.join(theirs)}, wanted is {', '.join(head)}: ask for "
                "none to go on with the file's"
            )
        if theirs:
            network.add_embedding_head(theirs)
        load_weights(network, path)
        if head and not theirs:
            network.add_embedding_head(head)
        return network
    if "model" in metadata:
        raise UserError(
            f"--pretrained {path} is the whole network {metadata['model']} of a run, and this one is {name}: give a run"
            " of the same network, or an image trunk under torchvision's names"
        )
    return build(head, **settings)


def _is_whole(network: PlaceNetwork, tensors: dict[str, Tensor]) -> bool:
    """Whether a file has tensors under the network's own names, which are not those of a mere trunk."""
    try:
        named = network.own_state(tensors, "")
    except UserError:  # none of the files that the network knows
        return False
    own = {key for key in network.state_dict() if not is_counter(key) and not key.endswith(".num_batches_tracked")}
    return own <= named.keys() if network.trunk_keys == ("", "") else bool(own & named.keys())


def _require_same_settings(path: Path, metadata: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Settings that no weight's shape tells, such as the exponent of a pooling."""
    written = metadata.get("settings", {})
    try:
        theirs = ast.literal_eval(written) if isinstance(written, str) else written
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return
    if not isinstance(theirs, dict):
        return
    for key, value in settings.items():
        if key in OF_NO_SHAPE and key in theirs and theirs[key] != value:
            raise UserError(
                f"--pretrained {path} was trained with {key} {theirs[key]}, this run has {value}: give the same, or"
                " start from a trunk"
            )
