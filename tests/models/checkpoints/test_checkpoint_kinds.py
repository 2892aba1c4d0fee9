"""Checkpoints that people have: packed by other programs, with other things beside their tensors."""

import argparse
import collections
import copy
import pickle
import types

import numpy as np
import pytest
import torch
from torch import nn

from distilplace.common.errors import UserError
from distilplace.models import create_model
from distilplace.models.checkpoints import load_weights


@pytest.fixture(scope="module")
def whole_trunk():
    """A ResNet-18 under torchvision's names, without its classifier."""
    from torchvision.models import resnet18

    torch.manual_seed(3)
    return {key: value for key, value in resnet18(weights=None).state_dict().items() if not key.startswith("fc.")}


@pytest.fixture(scope="module")
def trunk(whole_trunk):
    """Its stages but the last, which has three quarters of the numbers."""
    return {key: value for key, value in whole_trunk.items() if not key.startswith("layer4.")}


@pytest.fixture(scope="module")
def untouched_student():
    return create_model("resnet18", pool="mean")


@pytest.fixture
def student(untouched_student):
    """A copy: drawing the numbers takes ten times as long."""
    return copy.deepcopy(untouched_student)


def holds(model, trunk, prefix="model."):
    state = model.state_dict()
    return all(torch.equal(state[f"{prefix}{key}"], value) for key, value in trunk.items())


def foreign_object(module="sklearn.decomposition._pca", name="PCA"):
    """An object of a class that is not there when the file is read."""
    kind = type(name, (), {"__module__": module, "__qualname__": name})
    made = kind()
    made.components_ = np.eye(3)
    return kind, made


def save(content, path, monkeypatch, kind=None, **options):
    if kind is not None:
        parts = kind.__module__.split(".")
        for length in range(1, len(parts) + 1):
            module = types.ModuleType(".".join(parts[:length]))
            monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
        setattr(module, kind.__name__, kind)
    torch.save(content, path, **options)
    monkeypatch.undo()
    return path


def with_prefix(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def averaged(trunk):
    network = nn.Module()
    network.weight = nn.Parameter(torch.zeros(1))
    state = torch.optim.swa_utils.AveragedModel(network).state_dict()
    assert set(state) == {"n_averaged", "module.weight"}
    return {"n_averaged": torch.tensor(3), **with_prefix(trunk, "module.")}


PACKINGS = {
    "net": lambda trunk: {"net": trunk},
    "module": lambda trunk: {"module": trunk, "n_averaged": torch.tensor(3)},
    "nested": lambda trunk: {"model": {"state_dict": with_prefix(trunk, "module.")}, "epoch": 3},
    "swa": averaged,
    "swa in state_dict": lambda trunk: {"state_dict": averaged(trunk)},
    "flop counters": lambda trunk: {
        **trunk,
        "total_ops": torch.zeros(1),
        "layer1.0.conv1.total_params": torch.zeros(1),
    },
    "flop counters beside module.": lambda trunk: {
        **with_prefix(trunk, "module."),
        "total_ops": torch.zeros(1),
        "module.total_params": torch.zeros(1),
    },
    "lightning": lambda trunk: {"state_dict": with_prefix(trunk, "model."), "hyper_parameters": {"lr": 1e-4}},
    "lightning, another attribute": lambda trunk: {"state_dict": with_prefix(trunk, "net.model.")},
    "encoder.": lambda trunk: with_prefix(trunk, "encoder."),
    "numpy scalar": lambda trunk: {"state_dict": trunk, "best": np.float64(0.9), "epoch": np.int64(4)},
    "numpy array beside": lambda trunk: {"state_dict": trunk, "curve": np.arange(3.0), "names": np.array(["a"])},
    "numpy weights": lambda trunk: {"model": {key: value.numpy() for key, value in trunk.items()}},
    "namespace": lambda trunk: {"state_dict": trunk, "args": argparse.Namespace(arch="resnet18", lr=0.1)},
    "ordered": lambda trunk: {"state_dict": collections.OrderedDict(trunk)},
    "parameters": lambda trunk: {
        key: nn.Parameter(value) if value.is_floating_point() else value for key, value in trunk.items()
    },
    "optimiser": lambda trunk: {
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "weights of the network": trunk,
    },
    "optimiser first": lambda trunk: {"opt": {"state": {0: {"a": torch.ones(1)}}, "param_groups": []}, "model": trunk},
    "a name called model": lambda trunk: {"model": "resnet18", "state_dict": trunk},
    "settings called model": lambda trunk: {"model": {"name": "resnet18", "width": 512}, "state_dict": trunk},
    "plain entries beside": lambda trunk: {**trunk, "epoch": 3, "names": ["a"], "lr": 0.1, "done": None},
    "ema alone": lambda trunk: {"model_ema": trunk},
    "a generator's state": lambda trunk: {"state_dict": trunk, "rng": torch.get_rng_state(), "sets": {1, 2}},
    "counter, range, path": lambda trunk: {
        "state_dict": trunk,
        "counts": collections.Counter("aab"),
        "steps": range(3),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
    },
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_trunk_loads_however_it_is_packed(tmp_path, trunk, student, packing):
    torch.save(PACKINGS[packing](trunk), tmp_path / "a.pth")
    report = load_weights(student, tmp_path / "a.pth")
    assert holds(student, trunk)
    counters = [key for key in report.skipped if key.rpartition(".")[2] in ("total_ops", "total_params", "n_averaged")]
    assert counters or report.skipped == tuple(report.foreign)


@pytest.fixture
def layer():
    """A small network, and its weights to come."""
    torch.manual_seed(4)
    return nn.Linear(2, 3), nn.Linear(2, 3).state_dict()


OTHER = {"w": torch.ones(3)}
BESIDE = {
    "other tensors called model": lambda state: {"model": OTHER, "state_dict": state},
    "a part of it called model": lambda state: {"model": {"bias": state["bias"] + 1}, "state_dict": state},
    "deep": lambda state: {"a": {"model": {"model": OTHER}, "ema": state}, "epoch": 3},
    "beside the weights": lambda state: {**state, "weights": OTHER},
    "quantised": lambda state: {
        "model": {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
        "state_dict": state,
    },
    "dates": lambda state: {"state_dict": state, "day": np.datetime64("2020-01-01"), "took": np.timedelta64(3, "s")},
    "arrays of dates and records": lambda state: {
        "state_dict": state,
        "days": np.array(["2020", "2021"], dtype="M8[D]"),
        "rows": np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        "row": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])[0],
        "type": np.dtype([("a", "i4")]),
        np.datetime64("2020"): np.void(b"abc"),
    },
    "empty texts of numpy": lambda state: {**state, "name": np.str_(""), "raw": np.bytes_(b"")},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BESIDE)
def test_the_entry_that_fits_is_taken_whatever_lies_beside(tmp_path, layer, name):
    network, state = layer
    torch.save(BESIDE[name](state), tmp_path / "a.pth")
    load_weights(network, tmp_path / "a.pth")
    assert holds(network, state, "")


def test_what_was_passed_over_is_named_and_nothing_broken_is_passed_over(tmp_path, layer):
    network, state = layer
    path = tmp_path / "a.pth"
    torch.save({"model": OTHER, "state_dict": state}, path)
    assert load_weights(network, path).foreign == {"model": "state dict"}
    torch.save({"model": OTHER, "state_dict": {"v": torch.ones(2)}}, path)
    with pytest.raises(UserError, match="has the unknown w"):
        load_weights(network, path)
    torch.save({"model": {**state, "bias": state["bias"] * torch.nan}, "ema": state}, path)
    with pytest.raises(UserError, match="NaN or infinite"):
        load_weights(network, path)


def test_a_trunk_to_start_from_is_found_beside_other_tensors(tmp_path, whole_trunk):
    torch.save({"model": {"w": torch.ones(3)}, "state_dict": whole_trunk}, tmp_path / "a.pth")
    started = create_model("resnet18_full", pool="mean", pretrained=str(tmp_path / "a.pth"))
    assert holds(started, whole_trunk)


def test_a_negative_variance_is_refused_by_name(tmp_path):
    network = nn.Sequential(nn.BatchNorm1d(3))
    state = {**network.state_dict(), "0.running_var": torch.tensor([1.0, -0.5, 1.0])}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"damaged: 0\.running_var holds negative variances"):
        load_weights(network, tmp_path / "a.pth")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["a.pth", "checkpoint.pth.tar", "weights"])
def test_every_protocol_and_format(tmp_path, trunk, student, protocol, legacy, name):
    content = {"state_dict": with_prefix(trunk, "module."), "best": np.float32(1), "args": argparse.Namespace(a=1)}
    torch.save(content, tmp_path / name, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    report = load_weights(student, tmp_path / name)
    assert holds(student, trunk)
    assert report.foreign == {"args": "argparse.Namespace"}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_foreign_object_beside_the_tensors_is_named_and_not_made(tmp_path, trunk, student, monkeypatch, legacy):
    kind, made = foreign_object()
    content = {"state_dict": trunk, "pca": {"Landmarks_clean": made}}
    path = save(content, tmp_path / "a.pt", monkeypatch, kind, _use_new_zipfile_serialization=not legacy)
    report = load_weights(student, path)
    assert holds(student, trunk)
    assert report.foreign == {"pca.Landmarks_clean": "sklearn.decomposition._pca.PCA"}
    assert "pca.Landmarks_clean" in report.skipped
    assert "not opened: pca.Landmarks_clean (a sklearn.decomposition._pca.PCA)" in str(report)


@pytest.mark.parametrize("name", ["model", "state_dict", "model_state_dict", "net", "network", "module", "weights"])
def test_of_several_state_dicts_the_one_of_a_usual_name_is_read_and_the_other_named(tmp_path, trunk, student, name):
    other = {key: value + 1 for key, value in trunk.items()}
    torch.save({"model_ema": other, "discriminator": other, name: trunk}, tmp_path / "a.pth")
    report = load_weights(student, tmp_path / "a.pth")
    assert holds(student, trunk)
    assert report.foreign == {"model_ema": "state dict", "discriminator": "state dict"}
    assert "not opened: model_ema (a state dict), discriminator (a state dict)" in str(report)


def test_a_pickle_of_numpy_weights(tmp_path, trunk, student):
    weights = {key: value.numpy() for key, value in trunk.items()}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": weights, "__author__": "someone"}))
    load_weights(student, tmp_path / "a.pkl")
    assert holds(student, trunk)


def test_whiten_mtds_published_students(tmp_path, whole_trunk):
    model = create_model("resnet18_full", pool="GeMFC", output_dim=512)
    fc = {"fc.weight": torch.randn(512, 512), "fc.bias": torch.randn(512)}
    state = with_prefix({**whole_trunk, **fc}, "module.base_encoder.")
    torch.save({"epoch": 200, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, tmp_path / "a.tar")
    report = load_weights(model, tmp_path / "a.tar")
    assert holds(model, whole_trunk)
    assert torch.equal(model.image_gemfc.fc.weight, fc["fc.weight"])
    assert torch.equal(model.image_gemfc.fc.bias, fc["fc.bias"])
    assert report.skipped == ()
    other = create_model("resnet18_full", pool="GeMFC", output_dim=256)
    with pytest.raises(UserError, match="another architecture"):
        load_weights(other, tmp_path / "a.tar")


def test_openibls_checkpoint_with_a_numpy_scalar(tmp_path):
    from torchvision.models import vgg16

    layers = vgg16(weights=None).features.state_dict()
    state = {f"module.base_model.base.{key}": value for key, value in layers.items() if int(key.split(".")[0]) < 29}
    state |= {"module.net_vlad.conv.weight": torch.randn(64, 512, 1, 1)}
    state |= {"module.net_vlad.centroids": torch.randn(64, 512)}
    torch.save({"state_dict": state, "epoch": 4, "best_recall5": np.float64(0.9)}, tmp_path / "model_best.pth.tar")
    model = create_model("vgg16netvlad")
    assert len(load_weights(model, tmp_path / "model_best.pth.tar").loaded) == len(state)
    assert torch.equal(model.net_vlad.centroids, state["module.net_vlad.centroids"])


def unreadable_contents(trunk):
    weight = trunk["conv1.weight"]
    quantised = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
    return {
        "sparse": ({**trunk, "conv1.weight": weight.reshape(64, -1).to_sparse()}, "conv1.weight is a sparse tensor"),
        "csr": ({**trunk, "conv1.weight": weight.reshape(64, -1).to_sparse_csr()}, "conv1.weight is a sparse tensor"),
        "quantised": ({**trunk, "conv1.weight": quantised}, "conv1.weight is a quantized tensor"),
        "meta": ({**trunk, "conv1.weight": weight.to("meta")}, "conv1.weight is a meta tensor"),
        "complex": ({**trunk, "conv1.weight": weight + 0j}, r"conv1.weight .*complex64\) instead of"),
        "two state dicts": ({"encoder": trunk, "decoder": trunk}, r"several state dicts \(encoder, decoder\)"),
        "only an optimiser": (
            {"optimizer": {"state": {0: {"a": weight}}, "param_groups": []}},
            r"the entries optimizer \(dict\) and no state dict",
        ),
        "foreign in a model's place": (
            {**trunk, "conv1.weight": argparse.Namespace(a=1)},
            r"lacks (model\.)?conv1\.weight",
        ),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        *("sparse", "csr", "quantised", "meta", "complex"),
        *("two state dicts", "only an optimiser", "foreign in a model's place"),
    ],
)
def test_tensors_without_plain_numbers_are_one_clear_line(tmp_path, trunk, student, name):
    content, told = unreadable_contents(trunk)[name]
    torch.save(content, tmp_path / "a.pth")
    before = {key: value.clone() for key, value in student.state_dict().items()}
    with pytest.raises(UserError, match=told) as caught:
        load_weights(student, tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())
