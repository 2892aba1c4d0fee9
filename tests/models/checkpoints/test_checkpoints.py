"""Weights in and out: what fits loads exactly, everything else is one line and changes nothing."""

import contextlib
import copy
import functools
import os
import pickle
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from distilplace.common.errors import UserError
from distilplace.models import create_model
from distilplace.models.architecture import describe
from distilplace.models.checkpoints import load_weights, read_metadata, read_state, save_weights
from distilplace.models.image.pooling import HEADS


class TouchOnLoad:
    """A pickled object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@functools.lru_cache
def drawn(**settings):
    return create_model("resnet18", **{"output_dim": 16, **settings})


def student(**settings):
    """Weights of its own, the weights of linear and convolutional layers drawn the quick way."""
    model = copy.deepcopy(drawn(**settings))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.uniform_(parameter, -0.1, 0.1)
    return model


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def refused(model, path, match):
    before = snapshot(model)
    with pytest.raises(UserError, match=match) as error:
        load_weights(model, path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert unchanged(model, before)
    return message


def as_upstream_stores_it(model):
    """The state dict with the parts that the published program keeps and never uses."""
    from torchvision.models import resnet18

    whole = {f"model.{key}": value for key, value in resnet18(weights=None).state_dict().items()}
    width = model.conv1x1.weight.shape[0]
    heads = {
        f"{head.key}.{key}": value
        for head in HEADS.values()
        if head.reduced
        for key, value in head.kind(width).state_dict().items()
    }
    return {**whole, **heads, **model.state_dict()}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_is_saved_comes_back(tmp_path, suffix):
    source, target = student(), student()
    nn.init.constant_(source.image_gem.p, 2.5)
    source.model.bn1.num_batches_tracked += 7
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(source.state_dict(), path)
    else:
        assert save_weights(source, path) == path
    report = load_weights(target, path)
    assert unchanged(target, snapshot(source))
    assert target.image_gem.p.shape == (1,)
    assert set(report.loaded) == set(source.state_dict())
    assert report.skipped == ()
    assert str(path) in str(report)


def test_metadata_keeps_its_types(tmp_path):
    facts = {
        "model": "resnet18",
        "settings": {"output_dim": 16, "useallstages": False},
        "recall": 97.24,
        "runs": [1, 2],
    }
    path = save_weights(student(), tmp_path / "a.safetensors", facts)
    assert read_metadata(path) == facts
    assert load_weights(student(), path).metadata == facts
    torch.save(student().state_dict(), tmp_path / "b.pth")
    assert read_metadata(tmp_path / "b.pth") == {}


def test_saving_is_whole_or_absent(tmp_path, monkeypatch):
    path = save_weights(student(), tmp_path / "a.safetensors")
    content = path.read_bytes()

    def fail(*_args):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(student(), path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["a.safetensors"]
    with pytest.raises(ValueError, match="safetensors"):
        save_weights(student(), tmp_path / "a.pth")


@pytest.mark.parametrize("wrap", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_wrapped_and_prefixed_files(tmp_path, wrap, prefix):
    source, target = student(), student()
    state = {prefix + key: value for key, value in source.state_dict().items()}
    torch.save({wrap: state, "epoch": 3}, tmp_path / "a.pth")
    load_weights(target, tmp_path / "a.pth")
    assert unchanged(target, snapshot(source))


def test_half_precision_weights_are_cast(tmp_path):
    source, target = student(), student()
    torch.save(
        {k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}, tmp_path / "a.pth"
    )
    load_weights(target, tmp_path / "a.pth")
    assert target.conv1x1.weight.dtype == torch.float32
    assert torch.equal(target.conv1x1.weight, source.conv1x1.weight.half().float())


@pytest.mark.parametrize("pool", ["GeM", "NetVLAD"])
def test_upstreams_unused_parts_are_skipped_by_name(tmp_path, pool):
    source, target = student(pool=pool), student(pool=pool)
    torch.save(as_upstream_stores_it(source), tmp_path / "up.pth")
    report = load_weights(target, tmp_path / "up.pth")
    assert unchanged(target, snapshot(source))
    parts = {"layer4", "fc", "image_gem", "imagecosplace", "imageconvap", "imagenetvlad"} - {HEADS[pool].key}
    assert {key.removeprefix("model.").split(".")[0] for key in report.skipped} == parts
    assert "layer4" in str(report)


def test_an_unused_part_is_not_skipped_where_the_model_uses_it(tmp_path):
    source, target = student(useallstages=True), student(useallstages=True)
    torch.save(as_upstream_stores_it(source), tmp_path / "up.pth")
    report = load_weights(target, tmp_path / "up.pth")
    assert unchanged(target, snapshot(source))
    assert not [key for key in report.skipped if "layer4" in key]


def test_anything_else_unknown_is_refused(tmp_path):
    model = student()
    torch.save(
        {**model.state_dict(), "model.layer5.weight": torch.ones(1), "imagemixvpr.w": torch.ones(1)}, tmp_path / "a"
    )
    message = refused(model, tmp_path / "a", "of another architecture")
    assert "has the unknown model.layer5.weight, imagemixvpr.w" in message


def test_missing_keys_are_named(tmp_path):
    model = student()
    state = dict(model.state_dict())
    del state["conv1x1.bias"]
    torch.save(state, tmp_path / "a.pth")
    refused(model, tmp_path / "a.pth", "lacks conv1x1.bias")


def test_absent_batch_norm_counters_are_reported_not_refused(tmp_path):
    source, target = student(), student()
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    report = load_weights(target, tmp_path / "old.pth")
    assert "model.bn1.num_batches_tracked" in report.absent_counters
    assert torch.equal(source.conv1x1.weight, target.conv1x1.weight)


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        ({"output_dim": 24}, {}, "output_dim is 24 in the file, 16 in the model"),
        ({"useallstages": True}, {}, "useallstages is True in the file, False in the model"),
        ({"pool": "ConvAP"}, {}, "pool is ConvAP in the file, GeM in the model"),
        ({}, {"useallstages": True}, "useallstages is False in the file, True in the model"),
    ],
)
def test_the_settings_that_differ_are_told(tmp_path, theirs, ours, told):
    torch.save(student(**theirs).state_dict(), tmp_path / "a.pth")
    assert told in refused(student(**ours), tmp_path / "a.pth", "of another architecture")


@pytest.mark.parametrize("other", ["resnet34", "swin_t"])
def test_another_network_is_told(tmp_path, other):
    torch.save(create_model(other, output_dim=16).state_dict(), tmp_path / "a.pth")
    message = refused(student(), tmp_path / "a.pth", "of another architecture")
    assert f"network is {other} in the file, resnet18 in the model" in message


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "convnext_tiny", "swin_t", "swin_v2_t"])
def test_settings_are_read_off_the_weights(name):
    for cut in (False, True):
        with torch.device("meta"):  # shapes tell, and no number need be drawn
            state = create_model(name, output_dim=12, useallstages=cut, pool="ConvAP").state_dict()
        expected = {"kind": "image only", "network": name, "output_dim": 12, "useallstages": cut, "pool": "ConvAP"}
        assert describe(state) == expected


def test_a_teachers_file_is_no_students(tmp_path, golden):
    state = golden("d_teacher_minklocmmcat.pt")["state_dict_used"]
    torch.save(state, tmp_path / "teacher.pth")
    message = refused(student(), tmp_path / "teacher.pth", "of another architecture")
    assert "kind is LiDAR + image in the file, image only in the model" in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(tmp_path, bad):
    model = student()
    state = snapshot(model)
    state["conv1x1.bias"][3] = bad
    torch.save(state, tmp_path / "a.pth")
    refused(model, tmp_path / "a.pth", "NaN or infinite values in conv1x1.bias")


def test_values_too_large_for_the_models_type_are_refused(tmp_path):
    model = student()
    state = snapshot(model)
    state["conv1x1.bias"] = torch.full((16,), 1e300, dtype=torch.float64)
    torch.save(state, tmp_path / "a.pth")
    refused(model, tmp_path / "a.pth", "NaN or infinite values in conv1x1.bias")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_not_executed(tmp_path, legacy):
    mark = tmp_path / "executed"
    content = {**student().state_dict(), "extra": TouchOnLoad(mark)}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
    refused(student(), tmp_path / "evil.pth", "could run foreign code")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_malicious_pickle_is_not_executed(tmp_path, protocol):
    mark = tmp_path / "executed"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(TouchOnLoad(mark), protocol=protocol))
    refused(student(), tmp_path / "evil.pkl", "weights file")
    assert not mark.exists()
    pickle.loads((tmp_path / "evil.pkl").read_bytes())  # the trap itself works
    assert mark.exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(student(), tmp_path / "object.pth")
    refused(student(), tmp_path / "object.pth", r"Python objects \(.*\).*state_dict\(\)")


def test_missing_file_and_folder(tmp_path):
    refused(student(), tmp_path / "none.pth", "does not exist")
    refused(student(), tmp_path, "is a folder")
    with pytest.raises(UserError, match="does not exist"):
        read_metadata(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "content",
    [[torch.ones(2)], {}, {"a": 3}, {3: torch.ones(2)}, torch.ones(2), {"model": {"a": "text"}}],
    ids=["list", "empty", "number", "number key", "tensor", "text"],
)
def test_files_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    refused(student(), tmp_path / "a.pth", r"state dict|text")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text", b"<!DOCTYPE html>", b"\0" * 64, b"\xff" * 8 + b"{" * 9]
)
def test_no_weights_file_at_all(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(student(), tmp_path / name, "damaged")


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """The bytes of a small state dict in the three formats, and the model."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    model = nn.Linear(20, 5)
    torch.save(model.state_dict(), folder / "zip")
    torch.save(model.state_dict(), folder / "legacy", _use_new_zipfile_serialization=False)
    save_weights(model, folder / "s.safetensors")
    return folder, model, [(folder / name).read_bytes() for name in ("zip", "legacy", "s.safetensors")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 2), fraction=st.floats(0, 0.999))
def test_every_truncation_is_one_line(small_files, which, fraction):
    folder, model, contents = small_files
    path = folder / "truncated.bin"
    path.write_bytes(contents[which][: int(fraction * len(contents[which]))])
    refused(model, path, "damaged")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 2), seed=st.integers(0, 10**6))
def test_flipped_bytes_load_or_are_one_line(small_files, which, seed):
    folder, _, contents = small_files
    draw, broken = random.Random(seed), bytearray(contents[which])
    for _ in range(8):
        broken[draw.randrange(len(broken))] = draw.randrange(256)
    path = folder / "flipped.bin"
    path.write_bytes(bytes(broken))
    with contextlib.suppress(UserError):  # the one error that may come out
        state = read_state(path)
        assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_published_student_loads_and_gives_its_numbers(tmp_path, golden):
    content = golden("e_student_resnet18.pt")
    shapes = {key: shape for key, shape, _ in content["state_dict_keys"]}
    state = {key: torch.zeros(shape) for key, shape in shapes.items()} | content["state_dict_used"]
    torch.save(state, tmp_path / "published.pth")
    model = create_model("resnet18", output_dim=384)
    report = load_weights(model, tmp_path / "published.pth")
    assert set(report.loaded) == set(content["state_dict_used"])
    assert len(report.skipped) == len(shapes) - len(report.loaded)
    assert torch.equal(model.conv1x1.weight, content["state_dict_used"]["conv1x1.weight"].float())
    small = create_model("resnet18", output_dim=256)
    assert "output_dim is 384 in the file, 256 in the model" in refused(small, tmp_path / "published.pth", "another")
