"""How an image trunk starts: ImageNet weights through torchvision, a file of one's own, or random on request.

There is no silent random start: weights that cannot be had end in one line that says what to do.
"""

import hashlib
import re
import urllib.request
from pathlib import Path

import torch
from torch import nn

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path
from distilplace.models.checkpoints import LoadReport, fit_state, read_state
from distilplace.models.image.backbones import network_named, own_tail, torchvision_name, unused_prefixes

CONNECT_SECONDS = 10.0
_BLOCK = 1 << 20


def load_pretrained(trunk: nn.Module, network: str, stages: int, pretrained: str) -> LoadReport | None:
    """Fill ``trunk`` (of ``network``, cut behind ``stages``) as ``pretrained`` says; None when it stays random.

    Args:
        trunk: from :func:`distilplace.models.image.backbones.build_trunk`.
        network: its name.
        stages: 3 or 4.
        pretrained: "none", "imagenet", or a path: a state dict under torchvision's names (.pth or .safetensors). Every
            layer of the trunk must be in it; the layers beyond the cut and the classifier are skipped by name. The
            last convolution of WAKD's MobileNetV3 stays random where the file has another.

    """
    if pretrained == "none":
        return None
    if pretrained == "imagenet":
        path = imagenet_file(network)
    else:
        path = Path(pretrained)
        if not path.is_file():
            raise UserError(f"--pretrained {pretrained}: no such file; give imagenet, none or a {network} state dict")
    source = f"pretrained file {path} for {network}"
    target, tail = trunk.state_dict(), own_tail(network)
    state = read_state(path, lambda state: not target.keys().isdisjoint(state))
    its_tail = {key: value for key, value in target.items() if tail and key.startswith(tail)}
    has_tail = all(key in state and state[key].shape == value.shape for key, value in its_tail.items() if value.dim())
    random = {} if has_tail else its_tail
    wanted = {key: value for key, value in target.items() if key not in random}
    fitted, report = fit_state(wanted, state, (*unused_prefixes(network, stages), *tail), source, prefix="model.")
    trunk.load_state_dict({**random, **fitted}, strict=True)
    return report


def imagenet_file(network: str) -> Path:
    """The ImageNet weights DistilVPR starts ``network`` from: torch's cache, else fetched from torchvision's server."""
    url = imagenet_url(network)
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not target.is_file():
        try:
            _fetch(url, target)
        except (OSError, ValueError) as error:
            raise UserError(
                f"ImageNet weights of {network} could not be fetched from {url} ({error}): start with --pretrained"
                f" none, or fetch that file elsewhere and put it at {target} or give it as --pretrained <file>"
            ) from error
    return target


def imagenet_url(network: str) -> str:
    """Where torchvision keeps the ImageNet weights of ``network``."""
    from torchvision.models import get_model_weights

    if not network_named(network).imagenet:
        raise UserError(
            f"torchvision has no ImageNet weights of {network}: give the authors' file (WAKD: mbv3_large.pth.tar) as "
            "--pretrained FILE, or --pretrained none"
        )
    return get_model_weights(torchvision_name(network))[network_named(network).imagenet].url


def _fetch(url: str, target: Path) -> None:
    """Download to ``target``, checked against the digest that torchvision puts into the file's name."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer, atomic_path(target) as temporary:
        with temporary.open("wb") as stream:
            while block := answer.read(_BLOCK):
                digest.update(block)
                stream.write(block)
        named = re.search(r"-([0-9a-f]{8,})\.", target.name)
        if named and not digest.hexdigest().startswith(named.group(1)):
            raise ValueError("the file that came does not have the digest in its name")
