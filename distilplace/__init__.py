"""DistilPlace: place-recognition teachers with LiDAR and images, distilled into small image-only students.

Every import is ``from distilplace.<room> import ...``. In a checkout the rooms lie beside ``train.py``; an installed
package holds them itself.
"""

from pathlib import Path
from typing import Any

from distilplace.version import __version__ as __version__

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "train.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))


def load(path: Path | str, device: Any = None) -> Any:
    """The network in a file that describes itself, ready to embed images: ``load(path).embed(images)`` -> [n, D].

    Args:
        path: .safetensors of a run, which gives a torch module (images [B, 3, H, W] -> [B, D]), or an exported .onnx,
            which needs no torch (:class:`distilplace.runtime.Student`).
        device: of a torch module; None: CUDA where there is one.

    Raises:
        UserError: absent, damaged, or a file that does not say what it holds.

    """
    if Path(path).suffix.lower() == ".onnx":
        from distilplace.runtime.student import Student

        return Student(path)
    from distilplace.models.loaded import load_network

    return load_network(path, device)
