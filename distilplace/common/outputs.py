"""The flat keys of a model's output: ``embedding``, ``pose`` ..., and ``maps.<layer>`` of feature maps.

A teacher's output also holds ``aligned_embedding`` where a method compares the student's embeddings with it one by one.
"""

from collections.abc import Mapping
from typing import Any

MAPS = "maps."
ALIGNED = "aligned_embedding"


def with_maps(maps: Mapping[str, Any]) -> dict[str, Any]:
    """Feature maps by layer, under the keys they have in an output."""
    return {f"{MAPS}{name}": value for name, value in maps.items()}


def layer_maps(output: Mapping[str, Any]) -> dict[str, Any]:
    """The feature maps of an output, by layer."""
    return {name.removeprefix(MAPS): value for name, value in output.items() if name.startswith(MAPS)}
