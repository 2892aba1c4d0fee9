"""A network out of a file that describes itself, ready to embed images."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distilplace.common.errors import UserError
from distilplace.models import create_model, list_models, model_settings
from distilplace.models.base import PlaceNetwork
from distilplace.models.checkpoints import WeightsFile, load_weights, read_weights
from distilplace.models.head import SETTING, linear_width
from distilplace.runtime.embedding import embed_images
from distilplace.runtime.model_card import ModelCard
from distilplace.runtime.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

COUNTS = ("layers", "num_top_down", "cloud_layers", "cloud_topdown")
"""Settings that count layers: none has more than the file has tensors."""


class LoadedNetwork(nn.Module):
    """A network in eval mode: ``forward`` takes normalised images [B, 3, H, W] (or a batch) and gives [B, D].

    ``network`` is what :func:`distilplace.models.create_model` builds, ``card`` what its file says,
    ``preprocessing`` how images become its input. ``unit``: are embeddings brought to the length 1, so that Euclidean
    distances rank as cosines do?
    """

    def __init__(self, network: PlaceNetwork, card: ModelCard, preprocessing: Preprocessing, source: str) -> None:
        super().__init__()
        self.network = network
        self.card = card
        self.preprocessing = preprocessing
        self.source = source
        self.unit = False
        self.eval()

    @property
    def metadata(self) -> dict[str, Any]:
        """The card as plain values, which a map asks for."""
        return self.card.to_dict()

    def forward(self, images: Tensor | Mapping[str, Any]) -> Tensor:
        """Embeddings [B, D] of ``images`` float32 [B, 3, H, W] or of a batch with all that the network requires."""
        batch = {"images": images} if isinstance(images, Tensor) else images
        lacking = [key for key in self.network.requires if key not in batch]
        if lacking:
            raise UserError(f"{self.source} needs {', '.join(lacking)} beside images: {self._remedy()}")
        embedding: Tensor = self.network(batch)["embedding"]
        return functional.normalize(embedding, dim=1) if self.unit else embedding

    def embed(
        self,
        images: "Path | str | Image | np.ndarray | Iterable[Path | str | Image | np.ndarray]",
        batch_size: int = 32,
        *,
        as_query: bool = False,
    ) -> np.ndarray:
        """Float32 [n, D] of image files, PIL images or uint8 RGB arrays [H, W, 3], in their order.

        In eval mode, without gradients, on the network's device; a progress bar shows where it takes over 3 s.

        Raises:
            UserError: the network needs clouds too, or something is no image.

        """
        if tuple(self.network.requires) != ("images",):
            raise UserError(f"{self.source} is a network of LiDAR clouds, embed takes images: {self._remedy()}")
        was_training, device = self.training, next(self.parameters()).device
        self.eval()

        def described(pixels: np.ndarray) -> np.ndarray:
            normal = torch.from_numpy(self.preprocessing.normalise(pixels)).to(device)
            found: np.ndarray = self(normal).float().cpu().numpy()
            return found

        try:
            with torch.no_grad():
                width = int(self.card.embedding["width"])
                return embed_images(images, self.preprocessing, described, width, batch_size, as_query=as_query)
        finally:
            self.train(was_training)

    def _remedy(self) -> str:
        return "evaluate.py --weights embeds places with clouds, a student distilled from it images alone"


def load_network(path: Path | str, device: str | torch.device | None = None) -> LoadedNetwork:
    """The network of a weights file, on ``device`` (None: CUDA where there is one).

    Nothing in the file is run: names come from the list of models, settings are plain values, and none may ask for
    more than the tensors in the file hold.

    Raises:
        UserError: absent, damaged, or a file that does not say what it holds.

    """
    source = f"weights file {path}"
    found = read_weights(path)
    if found.card is None:
        raise UserError(
            f"{source} does not say which network it holds: build it with distilplace.models.create_model(name, ...) "
            "and distilplace.models.checkpoints.load_weights(network, path), or train it again with this version"
        )
    settings = checked_settings(found, found.card, source)
    preprocessing = Preprocessing.from_dict(found.card.preprocessing, source, found.mean_image)
    with torch.random.fork_rng(devices=[]):
        network = create_model(found.card.model, **settings)
    load_weights(network, path)
    where = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    return LoadedNetwork(network, found.card, preprocessing, source).to(where)


def checked_settings(found: WeightsFile, card: ModelCard, source: str) -> dict[str, Any]:
    """The card's settings for ``create_model``: of known names, plain values, no larger than the file's tensors.

    Raises:
        UserError: an unknown model or setting, or a value that no file of this size can need.

    """
    known = card.model in list_models() or (card.model.startswith("timm:") and ":" not in card.model[5:])
    if not known:
        raise UserError(f"{source} names the unknown network {card.model!r}: it is of a newer version, or damaged")
    accepted = (*model_settings(card.model), SETTING)
    tensors = found.state.tensors
    largest = sum(tensor.numel() for tensor in tensors.values())
    settings: dict[str, Any] = {}
    for name, value in card.settings.items():
        if name not in accepted:
            raise UserError(
                f"{source}: network {card.model} has no setting {name!r}: it is damaged, or of another version"
            )
        most = len(tensors) if name in COUNTS else largest
        values = value if isinstance(value, list) else [value]
        if name == SETTING:
            values = [linear_width(str(layer)) for layer in values]
        if len(values) > len(tensors) or not all(_is_plain(each, most) for each in values):
            raise UserError(f"{source}: setting {name} has a value that its tensors do not fit: fetch or make it again")
        settings[name] = tuple(value) if isinstance(value, list) else value
    return {**settings, **({"pretrained": "none"} if "pretrained" in accepted else {}), **_engine(accepted)}


def _engine(accepted: Iterable[str]) -> dict[str, str]:
    return {"sparse_backend": "auto"} if "sparse_backend" in accepted else {}


def _is_plain(value: object, most: int) -> bool:
    if isinstance(value, str):
        return len(value) <= 200
    return value is None or (isinstance(value, bool | int | float) and 0 <= value <= most)
