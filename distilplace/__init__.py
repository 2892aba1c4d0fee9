"""DistilPlace: place-recognition teachers with LiDAR and images, distilled into small image-only students.

Every import is ``from distilplace.<room> import ...``. In a checkout the rooms lie beside ``train.py``; an installed
package holds them itself.
"""

from pathlib import Path

from distilplace.version import __version__ as __version__

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "train.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
