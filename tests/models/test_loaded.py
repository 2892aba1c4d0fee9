"""distilplace.load and torch.hub.load: a moved weights file alone gives the network and its preprocessing."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import distilplace
from distilplace.common.errors import UserError
from distilplace.datasets.io.images import evaluation_transform
from distilplace.models import create_model
from distilplace.models.checkpoints import save_weights
from distilplace.models.loaded import LoadedNetwork
from distilplace.runtime.model_card import ModelCard
from distilplace.runtime.preprocessing import Preprocessing
from distilplace.runtime.resizing import Step

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETTINGS = {"output_dim": 8, "pretrained": "none"}
CARD = ModelCard(
    role="student",
    model="mobilenetv3_small",
    settings=SETTINGS,
    preprocessing=Preprocessing(steps=(Step("resize", (48, 64)),), mean=MEAN, std=STD).to_dict(),
    embedding={"width": 8, "metric": "cosine", "unit": False},
    dataset="demo",
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("mobilenetv3_small", **SETTINGS).eval()


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    return save_weights(network, tmp_path_factory.mktemp("loaded") / "moved.safetensors", CARD)


@pytest.fixture
def described(tmp_path):
    """Writes a file of few numbers with a card of the given changes; its network is built only where it may be."""
    return lambda **changes: save_weights(nn.Linear(3, 3), tmp_path / "a.safetensors", replace(CARD, **changes))


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return paths


@torch.no_grad()
def test_embeddings_are_those_of_the_network_on_evaluations_images(network, path, pictures):
    loaded = distilplace.load(path, device="cpu")
    resized = [Image.open(each).resize((64, 48), Image.Resampling.BICUBIC) for each in pictures]
    images = torch.stack([evaluation_transform()(each) for each in resized])
    expected = network({"images": images})["embedding"]
    assert not loaded.training
    assert torch.equal(loaded(images), expected)
    found = loaded.embed(pictures, batch_size=3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    arrays = [np.asarray(Image.open(each)) for each in pictures]
    for given in (map(str, pictures), [Image.open(each) for each in pictures], arrays, np.stack(arrays)):
        np.testing.assert_allclose(loaded.embed(given, batch_size=2), found, rtol=1e-4, atol=1e-5)
    assert loaded.embed(pictures[0]).shape == loaded.embed(arrays[0]).shape == (1, 8)
    assert loaded.embed([]).shape == (0, 8)
    loaded.train()
    np.testing.assert_allclose(loaded.embed(pictures), found, rtol=1e-4, atol=1e-5)
    assert loaded.training


def test_images_of_several_sizes_keep_their_order(network):
    loaded = LoadedNetwork(network, CARD, Preprocessing(), "a")
    random = np.random.default_rng(1)
    images = [random.integers(0, 256, (size, 64, 3), dtype=np.uint8) for size in (48, 48, 64, 48)]
    single = np.concatenate([loaded.embed(image) for image in images])
    np.testing.assert_allclose(loaded.embed(images), single, rtol=1e-4, atol=1e-5)


def test_a_network_of_clouds_says_so_in_one_line(tmp_path):
    teacher = create_model("minkloc", planes=(4, 4), layers=(1, 1), num_top_down=0, feature_size=8)
    settings = {"planes": [4, 4], "layers": [1, 1], "num_top_down": 0, "feature_size": 8}
    card = replace(CARD, role="teacher", model="minkloc", settings=settings)
    loaded = distilplace.load(save_weights(teacher, tmp_path / "teacher.safetensors", card), "cpu")
    with pytest.raises(UserError, match=r"teacher\.safetensors is a network of LiDAR clouds, embed takes images"):
        loaded.embed(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="needs coords, features"):
        loaded(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "os.system"}, "unknown network 'os.system'"),
        ({"model": "timm:hf-hub:evil/net"}, "unknown network"),
        ({"model": "timm:local-dir:/tmp/x"}, "unknown network"),
        ({"settings": {**SETTINGS, "output_dim": 10**12}}, "its tensors do not fit"),
        ({"settings": {**SETTINGS, "output_dim": -1}}, "its tensors do not fit"),
        ({"settings": {**SETTINGS, "output_dim": {"a": 1}}}, "its tensors do not fit"),
        ({"settings": {**SETTINGS, "pool": "__import__('os').abort()"}}, "unknown pool"),
        ({"settings": {**SETTINGS, "network": "resnet18"}}, "no setting 'network'"),
        ({"settings": {**SETTINGS, "weights": "/etc/passwd"}}, "no setting 'weights'"),
        ({"settings": {**SETTINGS, "output_dim": 12}}, "another architecture"),
        ({"model": "minkloc", "settings": {"layers": [10**6]}}, "its tensors do not fit"),
        ({"model": "minkloc", "settings": {"layers": [1] * 10**4}}, "its tensors do not fit"),
        ({"preprocessing": {"upright": False}}, "lacks the entry"),
    ],
)
def test_malicious_settings_are_refused_in_one_line(described, changes, told):
    with pytest.raises(UserError, match=re.escape(told)):
        distilplace.load(described(**changes))


def test_a_setting_never_opens_another_file(network, tmp_path):
    settings = {**SETTINGS, "pretrained": str(tmp_path / "secret.pth")}
    path = save_weights(network, tmp_path / "a.safetensors", replace(CARD, settings=settings))
    assert distilplace.load(path, "cpu").embed(np.zeros((9, 9, 3), np.uint8)).shape == (1, 8)


def test_a_file_that_says_nothing_is_refused_with_a_remedy(tmp_path):
    for name, metadata in (("a", None), ("b", {"model": "resnet18", "settings": "{}"})):
        with pytest.raises(UserError, match="create_model"):
            distilplace.load(save_weights(nn.Linear(3, 3), tmp_path / f"{name}.safetensors", metadata))
    with pytest.raises(UserError, match="does not exist"):
        distilplace.load(tmp_path / "none.safetensors")


def test_torch_hub_loads_a_student(root, path, pictures):
    student = torch.hub.load(str(root), "student", weights=path, device="cpu", source="local")
    plain = distilplace.load(path, "cpu").embed(pictures)
    assert np.array_equal(student.embed(pictures), plain)
    unit = torch.hub.load(str(root), "student", weights=path, device="cpu", unit=True, source="local").embed(pictures)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5)


def test_importing_the_package_loads_no_torch(root):
    program = "import sys, distilplace; distilplace.load; assert not {'torch', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
