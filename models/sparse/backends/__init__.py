"""Sparse engines by name. Each is a :class:`~distilplace.models.sparse.manager.Manager`; all give the same numbers."""

import torch

from distilplace.common.errors import UserError, unknown_name
from distilplace.common.registry import Registry
from distilplace.models.sparse.manager import Manager

# From the fastest on: "auto" takes the first that can run on the device.
_BACKENDS = Registry(
    "sparse backend",
    {
        "triton": "distilplace.models.sparse.backends.triton:TritonManager",
        "torch": "distilplace.models.sparse.coordinates:CoordinateManager",
        "spconv": "distilplace.models.sparse.backends.spconv:SpconvManager",
        "minkowski": "distilplace.models.sparse.backends.minkowski:MinkowskiManager",
    },
)
AUTO = "auto"


def list_backends() -> list[str]:
    """The names of the engines, installed or not, in the order of preference."""
    return list(_BACKENDS)


def available_backends(device: torch.device | str = "cpu") -> list[str]:
    """The engines that can run on ``device`` here and now."""
    return [name for name in _BACKENDS if _BACKENDS.load(name).unavailable(torch.device(device)) is None]


def choose_backend(name: str, device: torch.device | str = "cpu") -> type[Manager]:
    """The engine called ``name``; "auto": the fastest that is installed and fits the device.

    Raises:
        UserError: unknown name, or an engine that cannot run here (with what to install).

    """
    device = torch.device(device)
    if name == AUTO:
        fitting = (each for each in map(_BACKENDS.load, _BACKENDS) if each.automatic(device))
        return next(each for each in fitting if each.unavailable(device) is None)
    require_known(name)
    chosen: type[Manager] = _BACKENDS.load(name)
    if reason := chosen.unavailable(device):
        raise UserError(f"--sparse_backend {name}: {reason}")
    return chosen


def choose_map_maker(name: str, device: torch.device | str = "cpu") -> type[Manager]:
    """The engine called ``name`` on ``device``, whose managers can be made elsewhere and sent there.

    Raises:
        UserError: as :func:`choose_backend`, or an engine that builds its maps itself.

    """
    chosen = choose_backend(name, device)
    if not chosen.portable:
        raise UserError(f"--sparse_maps workers: engine {chosen.name} builds its own maps; use --sparse_backend auto")
    return chosen


def require_known(name: str) -> None:
    """Raise :class:`UserError` with the nearest known name unless ``name`` is an engine's, or "auto"."""
    if name != AUTO and name not in _BACKENDS:
        raise unknown_name(_BACKENDS.kind, name, sorted((AUTO, *_BACKENDS)))
