"""The model that embeds: an exported student without torch, or a weights file with it."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.extras import missing_extra
from distilplace.runtime.model_card import ModelCard


class Model(Protocol):
    """What a map needs of a model."""

    card: ModelCard

    def embed(self, images: Any, batch_size: int = 32) -> np.ndarray:
        """Embeddings, float32 [n, D]."""


def load_model(path: Path, threads: int | None = None, *, with_clouds: bool = False) -> Model:
    """The model in ``path``, for which images are enough; ``with_clouds``: or which reads LiDAR beside them.

    Raises:
        UserError: it is none, torch is absent for a weights file, or a network that reads what there is not.

    """
    if path.suffix.lower() == ".onnx":
        from distilplace.runtime.student import Student

        return Student(path, threads=threads)
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"model {path} is neither .onnx nor .safetensors: distilplace export makes a student.onnx")
    if (reason := missing_extra(f"--model {path.name}")) is not None:
        raise UserError(f"{reason}; or export it to student.onnx elsewhere")
    from distilplace.models.loaded import load_network

    network = load_network(path)
    if tuple(network.network.requires) != ("images",) and not with_clouds:
        raise UserError(
            f"model {path} is a {network.card.role} that reads {', '.join(network.network.requires)}, and here are "
            "images alone: give a student, or a teacher of images (map add --dataset reads clouds too)"
        )
    model: Model = network
    return model


def reads_clouds(path: Path, model: Model) -> bool:
    """Does the ``model`` of ``path`` read LiDAR beside images? Only a weights file can."""
    if path.suffix.lower() != ".safetensors":
        return False
    from distilplace.models import model_requires

    return "coords" in model_requires(model.card.model)
