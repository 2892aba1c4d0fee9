"""How a trunk starts: from ImageNet, from a file, or at random because it was said; never silently at random."""

import hashlib
import urllib.error

import pytest
import torch
from torchvision.models import get_model

from distilplace.common.errors import UserError
from distilplace.models import create_model
from distilplace.models.image import pretrained
from distilplace.models.image.backbones import NETWORKS


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty torch cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoints"


def served(monkeypatch, path):
    monkeypatch.setattr(pretrained, "imagenet_url", lambda _network: path.as_uri())


def holds(model, whole):
    """Whether every trunk value is the whole network's."""
    state = whole.state_dict()
    return all(torch.equal(value, state[key]) for key, value in model.model.state_dict().items())


@pytest.mark.parametrize(
    ("network", "useallstages"),
    [("resnet18", False), ("resnet18", True), ("convnext_tiny", True), ("swin_t", False), ("swin_v2_t", True)],
)
def test_a_file_under_torchvisions_names(tmp_path, network, useallstages):
    whole = get_model(network, weights=None)
    torch.save(whole.state_dict(), tmp_path / "own.pth")
    model = create_model(network, output_dim=8, useallstages=useallstages, pretrained=str(tmp_path / "own.pth"))
    assert holds(model, whole)


def test_a_safetensors_file(tmp_path):
    from safetensors.torch import save_file

    whole = get_model("resnet18", weights=None)
    save_file(whole.state_dict(), tmp_path / "own.safetensors")
    assert holds(create_model("resnet18", output_dim=8, pretrained=str(tmp_path / "own.safetensors")), whole)


def test_another_networks_file_is_refused(tmp_path):
    torch.save(get_model("resnet34", weights=None).state_dict(), tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"network is resnet34 in the file, resnet18 in the model.*layer1\.2\.conv1"):
        create_model("resnet18", pretrained=str(tmp_path / "own.pth"))


def test_used_layers_are_strict(tmp_path):
    state = get_model("resnet18", weights=None).state_dict()
    state.pop("layer3.1.conv2.weight")
    torch.save(state, tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"lacks layer3\.1\.conv2\.weight"):
        create_model("resnet18", pretrained=str(tmp_path / "own.pth"))


def test_layers_beyond_the_cut_may_be_absent_but_not_when_used(tmp_path):
    state = get_model("resnet18", weights=None).state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith(("layer4", "fc"))}, tmp_path / "own.pth")
    create_model("resnet18", pretrained=str(tmp_path / "own.pth"))
    with pytest.raises(UserError, match=r"lacks layer4\.0"):
        create_model("resnet18", useallstages=True, pretrained=str(tmp_path / "own.pth"))


def test_a_missing_file_is_one_line():
    with pytest.raises(UserError, match="--pretrained imagnet: no such file; give imagenet, none or a resnet18"):
        create_model("resnet18", pretrained="imagnet")


def test_imagenet_without_a_network_says_what_to_do(cache, monkeypatch):
    def fail(*_args, **_kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(UserError) as error:
        create_model("resnet18", pretrained="imagenet")
    message = str(error.value)
    assert "\n" not in message
    for part in ("resnet18-f37072fd.pth", "--pretrained none", str(cache / "resnet18-f37072fd.pth"), "<file>"):
        assert part in message
    assert not cache.exists() or list(cache.iterdir()) == []


def test_imagenet_is_fetched_checked_and_kept(tmp_path, cache, monkeypatch):
    whole = get_model("resnet18", weights=None)
    torch.save(whole.state_dict(), tmp_path / "made.pth")
    digest = hashlib.sha256((tmp_path / "made.pth").read_bytes()).hexdigest()[:8]
    source = (tmp_path / "made.pth").rename(tmp_path / f"resnet18-{digest}.pth")
    served(monkeypatch, source)
    assert holds(create_model("resnet18", pretrained="imagenet"), whole)
    assert (cache / source.name).is_file()
    source.unlink()
    assert holds(create_model("resnet18", pretrained="imagenet"), whole)


def test_a_download_that_is_not_the_named_file_is_refused(tmp_path, cache, monkeypatch):
    source = tmp_path / "resnet18-0123abcd.pth"
    torch.save(get_model("resnet18", weights=None).state_dict(), source)
    served(monkeypatch, source)
    with pytest.raises(UserError, match="does not have the digest in its name"):
        create_model("resnet18", pretrained="imagenet")
    assert list(cache.iterdir()) == []


def test_every_network_has_its_imagenet_weights():
    for network, facts in NETWORKS.items():
        if network == "mobilenetv3_large_wakd":
            with pytest.raises(UserError, match=r"give the authors' file \(WAKD: mbv3_large.pth.tar\) as --pretrained"):
                pretrained.imagenet_url(network)
            continue
        url = pretrained.imagenet_url(network)
        assert url.startswith("https://download.pytorch.org/models/")
        name = (facts.torchvision or network).removesuffix("_t").removesuffix("_s").split("_v2")[0]
        assert url.rsplit("/", 1)[-1].startswith(name), facts


def test_the_teachers_image_branch_starts_from_the_file(tmp_path):
    whole = get_model("resnet18", weights=None)
    torch.save(whole.state_dict(), tmp_path / "own.pth")
    teacher = create_model("minklocmmcat", pretrained=str(tmp_path / "own.pth"))
    assert holds(teacher.image_fe, whole)
