"""Checkpoints of retrieval teachers: published names load, those of any other teacher are refused by name."""

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.models.checkpoints import load_weights, save_weights
from distilplace.models.image.network import ImageNetwork
from distilplace.models.landmark.keys import LAYOUTS
from distilplace.models.landmark.networks import FAMILIES, RetrievalNetwork

SELF_SUPERVISED = ("mocov3", "barlowtwins")
NAMES = {family: family if family in SELF_SUPERVISED else f"resnet101_{family}" for family in FAMILIES}
# Read off the published programs by hand.
PUBLISHED = {
    "gem": "features.0.weight features.1.running_mean features.4.0.downsample.0.weight features.6.22.bn3.bias"
    " features.7.2.conv3.weight whiten.weight whiten.bias pool.p",
    "ap_gem": "conv1.weight bn1.bias layer3.22.conv2.weight layer4.0.downsample.1.weight fc.weight fc.bias adpool.p",
    "solar": "features.conv1.0.weight features.conv1.1.running_var features.conv2_x.2.0.conv1.weight"
    " features.conv4_x.22.bn1.weight features.conv5_x.0.downsample.0.weight features.soa4.f.0.weight"
    " features.soa4.g.1.running_mean features.soa5.h.bias features.soa5.v.weight whiten.weight pool.p",
    "delg": "globalmodel.stem.conv.weight globalmodel.stem.bn.bias globalmodel.s1.b1.proj.weight"
    " globalmodel.s1.b1.bn.running_mean globalmodel.s3.b23.f.a.weight globalmodel.s4.b3.f.c_bn.weight"
    " globalmodel.s2.b4.f.b_bn.bias globalmodel.head.fc.weight globalmodel.head.fc.bias globalmodel.head.pool.p",
    "dolg": "globalmodel.stem.conv.weight globalmodel.s3.b23.f.b.weight fc_t.weight fc_t.bias pool_g.p",
    "mocov3": "base_encoder.conv1.weight base_encoder.layer3.5.conv3.weight base_encoder.layer4.0.downsample.0.weight",
    "barlowtwins": "conv1.weight layer3.5.conv3.weight layer4.2.bn3.running_var",
}
EXTRAS = {  # what else the authors' files hold
    "gem": {"pool.p": (1,)},
    "ap_gem": {"adpool.p": (1,)},
    "solar": {"pool.p": (1,), "features.soa4.gamma": (1,)},
    "delg": {
        "globalmodel.head.pool.p": (1,),
        "desc_cls.weight": (9, 512),
        "desc_cls.t": (1,),
        "localmodel.conv1.weight": (512, 1024, 1, 1),
        "att_cls.fc.bias": (9,),
    },
    "dolg": {"pool_g.p": (1,), "pool1.p": (1,), "fc.weight": (512, 2048), "localmodel.bn.weight": (4,)},
    "mocov3": {
        "base_encoder.fc.0.weight": (4, 2),
        "momentum_encoder.conv1.weight": (64, 3, 7, 7),
        "predictor.0.weight": (4, 4),
    },
    "barlowtwins": {},
}
WRAPPED = {"gem": "state_dict", "solar": "state_dict", "delg": "model_state", "dolg": "model_state"}


@pytest.fixture(scope="module")
def teachers():
    """The named teachers at full size, without memory."""
    with torch.device("meta"):
        return {
            family: RetrievalNetwork(family, "resnet50" if family in SELF_SUPERVISED else "resnet101")
            for family in FAMILIES
        }


def network_of_zeros(family, network="resnet18", **settings):
    """A small teacher, built without torchvision's slow initialisation."""
    with torch.device("meta"):
        built = RetrievalNetwork(family, network, **settings)
    built.to_empty(device="cpu")
    built.load_state_dict({key: torch.zeros_like(value) for key, value in built.state_dict().items()})
    return built


def distinct_state(network):
    """A number of its own for every tensor of ``network``, stored once: small files."""
    state = network.state_dict()
    return {
        key: torch.tensor(number, dtype=value.dtype).expand(value.shape)
        for number, (key, value) in enumerate(state.items(), start=1)
    }


@pytest.fixture(scope="module")
def small():
    return {family: network_of_zeros(family) for family in FAMILIES}


def zeros(keys):
    """A state dict that is only names."""
    return dict.fromkeys(keys, torch.zeros(()))


def published(network, state):
    """The ``state`` of ``network`` under its authors' names, with what else their file holds."""
    own = dict(zip(network.expected_keys(), state.values(), strict=False))  # the exponent comes last
    return own | {key: torch.ones(shape) for key, shape in EXTRAS[network.family].items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_expected_keys_are_the_published_ones(teachers, family):
    expected = teachers[family].expected_keys()
    assert len(set(expected)) == len(expected)
    assert set(PUBLISHED[family].split()) <= set(expected)
    counted = len(teachers[family].state_dict())
    assert len(expected) == counted + (0 if family in SELF_SUPERVISED else 1)


@pytest.mark.parametrize("ours", FAMILIES)
def test_a_checkpoint_of_another_teacher_is_refused_by_name(teachers, ours):
    for theirs in FAMILIES:
        for keys in (teachers[theirs].expected_keys(), teachers[theirs].state_dict()):
            state = zeros(keys)
            if theirs == ours:
                assert teachers[ours].own_state(state, "x").keys() >= teachers[ours].state_dict().keys()
                continue
            with pytest.raises(UserError, match="another architecture") as error:
                teachers[ours].own_state(state, "weights file x.pth")
            message = str(error.value)
            assert f"network is {NAMES[theirs]} in the file, {NAMES[ours]} in the model" in message
            assert "\n" not in message


@pytest.mark.parametrize("family", FAMILIES)
def test_published_files_load(tmp_path, small, family):
    source = distinct_state(small[family])
    state = published(small[family], source)
    if family != "barlowtwins":  # resnet50.pth is bare
        state = {f"module.{key}": value for key, value in state.items()}
    torch.save({WRAPPED.get(family, "state_dict"): state, "epoch": 3, "meta": {"outputdim": 512}}, tmp_path / "a.pth")
    report = load_weights(small[family], tmp_path / "a.pth")
    assert all(torch.equal(value, source[key]) for key, value in small[family].state_dict().items())
    assert set(report.skipped) == set(EXTRAS[family])
    assert len(report.loaded) == len(source)


@pytest.mark.parametrize("family", ["solar", "delg", "barlowtwins"])
def test_what_is_saved_comes_back(tmp_path, small, family):
    source = distinct_state(small[family])
    small[family].load_state_dict(source)
    load_weights(target := network_of_zeros(family), save_weights(small[family], tmp_path / "a.safetensors"))
    assert all(torch.equal(value, source[key]) for key, value in target.state_dict().items())


def test_other_files_of_the_same_teachers(tmp_path, small):
    gem = small["gem"].state_dict()
    again = {key.removeprefix("model.").replace("whiten.", "fc."): value for key, value in gem.items()}
    torch.save({"state_dict": again, "meta": {"outputdim": 512}}, tmp_path / "gem.pt")  # as Whiten-MTD stores it
    assert load_weights(small["gem"], tmp_path / "gem.pt").skipped == ()
    barlow = {f"module.{key}": value for key, value in small["barlowtwins"].state_dict().items()}
    barlow |= {"module.projector.0.weight": torch.ones(4, 4), "module.bn.running_mean": torch.ones(4)}
    torch.save({"model": barlow, "epoch": 1}, tmp_path / "checkpoint.pth")
    report = load_weights(small["barlowtwins"], tmp_path / "checkpoint.pth")
    assert set(report.skipped) == {"projector.0.weight", "bn.running_mean"}


def test_another_trunk_is_refused_by_name(tmp_path, small):
    target = network_of_zeros("gem", "resnet34")
    before = {key: value.clone() for key, value in target.state_dict().items()}
    torch.save(distinct_state(small["gem"]), path := tmp_path / "a.pth")
    with pytest.raises(UserError, match="network is resnet18_gem in the file, resnet34_gem in the model"):
        load_weights(target, path)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_another_width_and_lost_tensors_are_refused(tmp_path, small):
    path = save_weights(network_of_zeros("gem", output_dim=64), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"whiten\.weight \[64, 512\] instead of \[512, 512\]"):
        load_weights(small["gem"], path)
    state = published(small["delg"], small["delg"].state_dict())
    del state["globalmodel.s4.b2.f.a.weight"]
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"lacks model\.layer4\.1\.conv1\.weight"):
        load_weights(small["delg"], tmp_path / "b.pth")


def test_an_image_student_is_no_retrieval_teacher(teachers):
    with torch.device("meta"):
        student = ImageNetwork("resnet18", pool="GeMFC", useallstages=True).state_dict()
    for family, teacher in teachers.items():
        with pytest.raises(UserError, match=f"it is no checkpoint of {NAMES[family]}, nor of any other retrieval") as e:
            teacher.own_state(student, "weights file x.pth")
        assert "\n" not in str(e.value)


def test_every_layout_names_every_tensor_once(teachers):
    for family, layouts in LAYOUTS.items():
        for layout in layouts:
            keys = [layout.key(key.removeprefix(layouts[0].trunk)) for key in teachers[family].state_dict()]
            assert len(set(keys)) == len(keys)
