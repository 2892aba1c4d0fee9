"""Exporting a weights file: what is written, what is refused, and what decides."""

import json
from contextlib import suppress

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from distilplace.common.errors import UserError
from distilplace.engine.heads.fitted import fit_centre, fit_linear
from distilplace.engine.heads.ridge import Ridge
from distilplace.models import PlaceNetwork
from distilplace.models.image.pooling import GeM
from distilplace.runtime import Student
from distilplace.runtime.file_hash import HASH
from distilplace.runtime.model_card import KEY, ModelCard
from distilplace.runtime.preprocessing import Preprocessing
from distilplace.tools.export.files import runner
from distilplace.tools.export.graph import INPUT, PixelNetwork, onnx_graph
from distilplace.tools.export.parity import Limits, compare, outputs
from distilplace.tools.export.quantise import integer_nodes, quantise
from distilplace.tools.export.run import main
from tests.tools.export.conftest import SIZE

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """A residual block between a stem and GeM: all that a ResNet has, once; whole networks are in test_all_networks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.pool = GeM(16)

    def forward(self, batch):
        features = self.stem(batch["images"])
        features = (features + self.second(self.first(features).relu())).relu()
        return {"embedding": self.pool(features)}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return PixelNetwork(Block(), MEAN, STD).eval()


@pytest.fixture(scope="module")
def graph(network):
    return onnx_graph(network, SIZE)


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


def test_pixels_are_normalised_as_in_training(network):
    images = pixels(2)
    with torch.no_grad():
        wanted = network.network({"images": torch.from_numpy(Preprocessing(mean=MEAN, std=STD).normalise(images))})
        torch.testing.assert_close(network(torch.from_numpy(images)), wanted["embedding"], rtol=1e-4, atol=1e-5)


def test_any_batch_gives_what_the_network_gives(network, graph):
    run = runner(graph, threads=1)
    for count in (1, 3):
        images = pixels(count, count)
        with torch.no_grad():
            wanted = network(torch.from_numpy(images)).numpy()
        found = run(images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_the_graph_takes_pixels_and_tells_nothing_of_this_machine(graph):
    (images,), (output,) = graph.graph.input, graph.graph.output
    assert (images.name, images.type.tensor_type.elem_type) == (INPUT, onnx.TensorProto.UINT8)
    assert [each.dim_value for each in images.type.tensor_type.shape.dim][1:] == [*SIZE, 3]
    assert output.name == "embedding"
    assert b".py" not in graph.SerializeToString()


def test_pooling_stays_in_float(graph):
    chosen = set(integer_nodes(graph))
    kinds = {node.op_type for node in graph.graph.node if node.name not in chosen}
    assert {"Clip", "Pow", "ReduceMean", "BatchNormalization"} <= kinds
    assert {node.op_type for node in graph.graph.node if node.name in chosen} == {"Conv", "Relu", "Add", "MaxPool"}
    assert all(node.name in chosen for node in graph.graph.node if node.op_type == "Conv")


@pytest.mark.parametrize(("target", "zero_points"), [("cpu", "uint8"), ("tensorrt", "int8")])
def test_targets_differ_in_how_maps_are_stored(graph, target, zero_points):
    model = quantise(graph, [pixels(1, seed) for seed in range(2)], target).model
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    maps = [stored[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {str(each.dtype) for each in maps} == {zero_points}
    weights = [name for name, each in stored.items() if each.dtype == np.int8 and each.ndim == 4]
    assert len(weights) == 3
    if target == "tensorrt":
        assert not any(each.any() for each in maps)
        assert not any(each.dtype == np.int32 for each in stored.values())


class Headed(PlaceNetwork):
    """A convolution and GeM, for a head behind them."""

    output_dim = 16

    def __init__(self):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 16, 7, 4, 3), GeM(16)

    def forward(self, batch, feature_maps=()):
        return {"embedding": self.pool(self.stem(batch["images"]).relu())}


def test_a_mean_and_a_ridge_head_are_exported_as_they_are_and_stay_in_float():
    torch.manual_seed(1)
    network, draw = Headed().eval(), np.random.default_rng(2)
    everything = torch.from_numpy(pixels(24))
    whole = PixelNetwork(network, MEAN, STD).eval()
    with torch.no_grad():
        fit_centre(network, whole(everything))
        fit_linear(network, Ridge(draw.normal(size=(12, 16)), draw.normal(size=12) / 9))
        wanted = whole(everything).numpy()
    graph = onnx_graph(whole, SIZE)
    found = runner(graph, threads=1)(everything.numpy())
    assert found.shape == (24, 12)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    similarity, other = found @ found.T, wanted @ wanted.T
    assert np.array_equal(np.argsort(-similarity, axis=1, kind="stable"), np.argsort(-other, axis=1, kind="stable"))
    chosen = set(integer_nodes(graph))
    linear = [node for node in graph.graph.node if node.op_type in ("Gemm", "MatMul")]
    assert linear
    assert not chosen.intersection(node.name for node in linear)


@pytest.mark.slow  # a whole command: 10 s
def test_int8_file_is_written_with_its_description(weights, pictures, tmp_path, capsys):
    output = tmp_path / "robot" / "student.onnx"
    assert main([str(weights), "-o", str(output), "--int8", "--calibrate", str(pictures)]) == 0, capsys.readouterr().err
    model = onnx.load(output)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    card = ModelCard.from_text(texts[KEY], "the file")
    assert len(texts[HASH]) == 64
    assert Student(output).card == card
    assert (card.export["precision"], card.export["target"], card.export["opset"]) == ("int8", "cpu", 20)
    assert card.export["calibration_images"] == card.export["parity"]["queries"] == 12
    assert card.export["parity"]["agreement"] >= 80
    assert card.fingerprint == json.loads(texts[KEY])["fingerprint"]
    assert sorted(path.name for path in output.parent.iterdir()) == ["student.onnx"]


def test_int8_without_images_is_refused(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(weights), "--int8"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "give --calibrate FOLDER" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # a whole command: 10 s
def test_an_export_below_the_limit_is_not_written(weights, pictures, tmp_path, capsys):
    output = tmp_path / "student.onnx"
    flags = ["--int8", "--calibrate", str(pictures), "--min_agreement", "100.1"]
    assert main([str(weights), "-o", str(output), *flags]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--calibrate", "none"], "is no folder"),
        (["--calibrate", "."], "holds no image"),
        (["-o", "student.pt"], "call it student.onnx"),
        (["--calibration_images", "0"], "at least 1"),
        (["--dataset_foldr", "x"], "dataset_folder"),
    ],
)
def test_mistakes_are_one_line(flags, said, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with suppress(SystemExit):
        assert main([str(weights), "--int8", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_first_answers_decide_and_the_cosine_is_told():
    first = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    second = first.copy()
    second[0] = [1, 0.9]  # its nearest is another one now
    parity = compare(first, second, "four", "embedding", list("abcd"), None)
    slow = [
        max((j for j in range(4) if j != i), key=lambda j: cosine(t[i], t[j]))
        for t in (first, second)
        for i in range(4)
    ]
    assert parity.agreement == 100 * sum(a == b for a, b in zip(slow[:4], slow[4:], strict=True)) / 4
    assert parity.cosine_min == pytest.approx(cosine(first[0], second[0]))
    parity.require(Limits(0, parity.agreement), "int8")
    with pytest.raises(UserError, match="first answers stayed"):
        parity.require(Limits(0, parity.agreement + 1), "int8")


def test_a_network_that_gives_no_numbers_is_refused():
    bad = np.full((1, 2), np.nan, np.float32)
    with pytest.raises(UserError, match="not finite"):
        outputs([pixels(1)], lambda _: bad, lambda _: bad)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def nearest(rows, i):
    return max((j for j in range(len(rows)) if j != i), key=lambda j: cosine(rows[i], rows[j]))
