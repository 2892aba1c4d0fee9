"""A weights file that describes itself, of a small network with random weights, and pictures for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distilplace.models import create_model
from distilplace.models.checkpoints import save_weights
from distilplace.runtime.model_card import ModelCard
from distilplace.runtime.preprocessing import Preprocessing
from distilplace.runtime.resizing import Step

SIZE = (48, 64)


def card_of(name, settings, width, size=SIZE, mean_image=None):
    steps = (Step("resize", size),)
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    preprocessing = Preprocessing(steps=steps, mean_image=mean_image, **({} if mean_image is not None else imagenet))
    return ModelCard(
        role="student",
        model=name,
        settings=settings,
        preprocessing=preprocessing.to_dict(),
        embedding={"width": width, "metric": "cosine", "unit": False},
        dataset="images",
    )


def small_network(name="resnet18", **settings):
    """A network in evaluation mode whose batch norms are not all alike, as those of a trained one."""
    torch.manual_seed(3)
    network = create_model(name, **settings)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    network = small_network(output_dim=16)
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    return save_weights(network, path, card_of("resnet18", {"output_dim": 16}, 16))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """12 coloured pictures that differ at large scale, as places do."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for number in range(12):
        small = Image.fromarray(draw.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        small.resize((80, 60), Image.Resampling.BICUBIC).save(folder / f"{number:02}.png")
    return folder
