"""Our networks for ``torch.hub.load(repository, "student", weights=FILE, source="local")``."""

from pathlib import Path
from typing import Any

dependencies = ["torch", "torchvision", "numpy", "PIL", "safetensors", "tqdm"]  # torch.hub asks for them


def student(weights: str | Path, device: Any = None, unit: bool = False) -> Any:
    """The network of a weights file that describes itself: float32 images [B, 3, H, W] -> [B, D]; ``.embed(files)``.

    A torch module in eval mode, on ``device`` (None: CUDA where there is one). Images are normalised and sized as
    ``.preprocessing`` says. ``unit``: embeddings of length 1, for programs that rank by Euclidean distance.
    """
    from distilplace.models.loaded import load_network

    network = load_network(weights, device)
    network.unit = unit
    return network
