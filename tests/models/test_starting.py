"""``pretrained`` with a file: a run's own weights start the whole network, a trunk's the trunk alone."""

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.models import create_model
from distilplace.models.checkpoints import save_weights
from distilplace.runtime.model_card import ModelCard
from distilplace.runtime.preprocessing import Preprocessing

CLOUD = {"cloud_planes": (8, 8, 8), "cloud_fe_dim": 16, "image_fe_dim": 16}
NETWORKS = {
    "resnet18": {"output_dim": 16, "pool": "GeM"},
    "resnet18_full": {"output_dim": 16, "pool": "GeMFC"},
    "mobilenetv3_small": {"output_dim": 16, "pool": "NetVLAD"},
    "mobilenetv3_smallnetvlad": {"clusters": 4},
    "resnet18pose": {},
    "resnet18_solar": {},
    "minklocmmcat": CLOUD,
}


def made(name, seed, **settings):
    torch.manual_seed(seed)
    return create_model(name, **{**NETWORKS[name], **settings})


def card(name, **settings):
    """What a run's weights file says of itself."""
    embedding = {"width": 16, "metric": "cosine", "unit": False}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    return ModelCard("student", name, plain, Preprocessing().to_dict(), embedding, "oxford")


def equal(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_run_s_own_weights_start_the_whole_network(tmp_path, name):
    source = made(name, 1)
    path = save_weights(source, tmp_path / "best.safetensors", card(name, **NETWORKS[name]))
    assert not equal(made(name, 2), source)
    assert equal(made(name, 2, pretrained=str(path)), source)


def test_a_trunk_s_file_starts_the_trunk_and_leaves_the_head_as_it_would_be(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(5)
    trunk = resnet18(weights=None)
    torch.save(trunk.state_dict(), tmp_path / "resnet18.pth")
    for name in ("resnet18", "resnet18pose"):
        started, plain = made(name, 2, pretrained=str(tmp_path / "resnet18.pth")), made(name, 2)
        front = "model." if name == "resnet18" else ""
        assert torch.equal(started.state_dict()[f"{front}layer1.0.conv1.weight"], trunk.layer1[0].conv1.weight)
        for key, value in plain.state_dict().items():
            if key.startswith(("conv1x1", "image_gem", "fc.cls")):
                assert torch.equal(started.state_dict()[key], value), key


def test_published_students_start_a_new_one(tmp_path):
    source = made("resnet18_full", 1)
    state = {key.replace("model.", "", 1).replace("image_gemfc.", ""): v for key, v in source.state_dict().items()}
    torch.save({"state_dict": {f"module.base_encoder.{key}": v for key, v in state.items()}}, tmp_path / "a.pth.tar")
    assert equal(made("resnet18_full", 2, pretrained=str(tmp_path / "a.pth.tar")), source)


@pytest.mark.parametrize(
    ("name", "settings", "other", "told"),
    [
        ("resnet18", {}, {"output_dim": 24}, "output_dim is 16 in the file, 24 in the model"),
        ("resnet18", {}, {"pool": "ConvAP"}, "pool is GeM in the file, ConvAP in the model"),
        ("resnet18", {}, {"useallstages": True}, "useallstages is False in the file, True in the model"),
        ("resnet18_full", {"gem_p": 3.0}, {"gem_p": 1.0}, "was trained with gem_p 3.0, this run has 1.0"),
        ("minklocmmcat", {}, {"cloud_fe_dim": 32}, "cloud_fe_dim is 16 in the file, 32 in the model"),
    ],
)
def test_other_settings_are_one_clear_line(tmp_path, name, settings, other, told):
    network, changed = made(name, 1, **settings), {**NETWORKS[name], **settings}
    old = [{"model": name, "settings": repr(changed)}] if "gem_p" in settings else []  # as version 0.1 wrote them
    for facts in (card(name, **changed), *old):
        path = save_weights(network, tmp_path / "best.safetensors", facts)
        with pytest.raises(UserError) as caught:
            made(name, 2, pretrained=str(path), **other)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


def test_another_network_s_run_is_named(tmp_path):
    path = save_weights(made("resnet18", 1), tmp_path / "best.safetensors", card("resnet18"))
    with pytest.raises(UserError, match="the whole network resnet18 of a run, and this one is resnet18pose"):
        made("resnet18pose", 2, pretrained=str(path))
    with pytest.raises(UserError, match="network is resnet18 in the file, mobilenetv3_small in the model"):
        made("mobilenetv3_small", 2, pretrained=str(path), pool="GeM")
    with pytest.raises(UserError, match="no such file"):
        made("resnet18", 2, pretrained=str(tmp_path / "absent.safetensors"))
