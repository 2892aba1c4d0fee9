"""The list of networks, and the checkpoint keys of each."""

import pytest
import torch

from distilplace.models import create_model, list_models
from distilplace.models.checkpoints import expected_keys
from distilplace.tools.list_models import described, main


def test_all_networks_are_listed(capsys):
    assert main([]) == 0
    assert set(list_models()) <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["resnet18", "resnet101_gem", "mocov3", "resnet50pose", "vgg16netvlad", "minkloc"])
def test_a_network_tells_its_keys(name, capsys):
    assert main([name]) == 0
    lines = capsys.readouterr().out.splitlines()
    with torch.device("meta"):
        network = create_model(name, **({} if name == "minkloc" else {"pretrained": "none"}))
    assert [line.strip() for line in lines[3:]] == expected_keys(network)
    assert f"{sum(p.numel() for p in network.parameters()):,} parameters" in lines[0]


def test_published_names_are_those_of_the_authors():
    (base,) = [line for line in described("mocov3") if line.endswith("base_encoder.conv1.weight")]
    assert base.strip() == "base_encoder.conv1.weight"
    assert "  conv1x1.weight" in described("resnet18")


def test_an_unknown_network_is_one_line(capsys):
    assert main(["resnet19"]) == 2
    assert "did you mean" in capsys.readouterr().err
