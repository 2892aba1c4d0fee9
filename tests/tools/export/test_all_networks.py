"""Every network that reads images alone exports, and ONNX Runtime gives what it gives. About 40 minutes on one core."""

import numpy as np
import pytest
import torch

from distilplace.models import list_models, model_requires, model_settings
from distilplace.models.pose import PoseNetwork
from distilplace.tools.export.files import runner
from distilplace.tools.export.graph import PixelNetwork, onnx_graph
from tests.tools.export.conftest import small_network

NAMES = [name for name in list_models() if model_requires(name) == ("images",)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_float32_equals_eager(name):
    size = (98, 126) if name.startswith("dinov2") else (96, 128)
    settings = {"pretrained": "none"} if "pretrained" in model_settings(name) else {}
    network = PixelNetwork(small_network(name, **settings), MEAN, STD).eval()
    assert network.output == ("pose" if isinstance(network.network, PoseNetwork) else "embedding")
    run = runner(onnx_graph(network, size), threads=1)
    images = np.random.default_rng(1).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted = network(torch.from_numpy(images)).numpy().astype(np.float64)
    for batch in (images, images[:1]):
        found = run(batch).astype(np.float64)
        assert found.shape == (len(batch), wanted.shape[1])
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted[: len(batch)], axis=1)
        assert ((found * wanted[: len(batch)]).sum(axis=1) / lengths).min() >= 0.9999
        np.testing.assert_allclose(found, wanted[: len(batch)], atol=1e-3 * np.abs(wanted).max())
