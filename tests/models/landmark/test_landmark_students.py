"""The head of Whiten-MTD's students: GeM with a fixed exponent, unit length, linear layer."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps
from distilplace.models.checkpoints import load_weights, save_weights
from distilplace.models.image.network import ImageNetwork
from distilplace.models.image.pooling import GeM, GeMFC


def slow_gem(features, p):
    rows = []
    for image in features:
        rows.append([])
        for channel in image:
            values = [float(v) if p == 1 else max(float(v), 1e-6) ** p for v in channel.flatten()]
            mean = sum(values) / len(values)
            rows[-1].append(mean if p == 1 else mean ** (1 / p))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("case", ["gem_p3", "gem_p1", "gem_p2_5"])
def test_values_and_gradients_are_the_papers(golden, case):
    stored = golden("l_whiten_mtd.pt")[case]
    features = stored["input"].clone().requires_grad_()
    output = GeM(features.shape[1], stored["p"], learns=False)(features)
    torch.testing.assert_close(output, stored["output"], rtol=1e-6, atol=1e-7)
    output.backward(stored["cotangent"])
    torch.testing.assert_close(features.grad, stored["grad"], rtol=1e-6, atol=1e-7)
    assert torch.equal(features.detach(), stored["input"])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(*(st.integers(1, 4) for _ in range(4))),
    st.one_of(st.just(1.0), st.floats(0.5, 6.0)),
)
def test_head_is_gem_unit_length_linear(seed, shape, p):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    head = GeMFC(shape[1], 3, p).double()
    expected = []
    for row in slow_gem(features, p).tolist():
        length = math.sqrt(sum(v**2 for v in row))
        expected.append(
            [sum(w * v / length for w, v in zip(line, row, strict=True)) for line in head.fc.weight.tolist()]
        )
    expected = torch.tensor(expected, dtype=torch.float64) + head.fc.bias
    torch.testing.assert_close(head(features), expected, rtol=1e-8, atol=1e-10)
    assert head.output_dim == 3


def test_the_exponent_does_not_learn():
    head = GeMFC(4, 2, 2.5)
    assert {name for name, _ in head.named_parameters()} == {"fc.weight", "fc.bias"}
    assert set(head.state_dict()) == {"fc.weight", "fc.bias"}
    assert GeMFC(4).output_dim == 4


@pytest.mark.parametrize("p", [0.0, -1.0, math.inf, math.nan])
def test_impossible_exponents_are_one_line(p):
    with pytest.raises(UserError, match=r"gem_p is .* must be above 0 and finite"):
        GeM(4, p, learns=False)


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return ImageNetwork("resnet18", output_dim=96, pool="GeMFC", useallstages=True, gem_p=2.0).eval()


def test_student_describes_images_without_a_convolution_before_the_head(student):
    keys = student.state_dict().keys()
    assert {key for key in keys if not key.startswith("model.")} == {"image_gemfc.fc.weight", "image_gemfc.fc.bias"}
    assert student.output_dim == 96
    with torch.no_grad():
        output = student({"images": torch.randn(2, 3, 64, 97)}, feature_maps=("layer4", "map"))
        maps = layer_maps(output)
        vectors = slow_gem(maps["layer4"], 2.0)
        expected = student.image_gemfc.fc((vectors / vectors.norm(dim=1, keepdim=True)).float())
    assert torch.equal(maps["layer4"], maps["map"])
    torch.testing.assert_close(output["embedding"], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(output["embedding"].norm(dim=1), torch.ones(2), atol=1e-3)


def test_student_checkpoints(student, tmp_path):
    path = save_weights(student, tmp_path / "student.safetensors")
    with torch.device("meta"):
        narrower = ImageNetwork("resnet18", output_dim=64, pool="GeMFC", useallstages=True)
        other = ImageNetwork("resnet18", output_dim=96, pool="GeM", useallstages=True)
    with pytest.raises(UserError, match=r"image_gemfc\.fc\.weight \[96, 512\] instead of \[64, 512\]"):
        load_weights(narrower, path)
    with pytest.raises(UserError, match="pool is GeMFC in the file, GeM in the model"):
        load_weights(other, path)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    for parameter in student.parameters():
        torch.nn.init.zeros_(parameter)
    assert load_weights(student, path).skipped == ()
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


@pytest.mark.parametrize("network", ["resnet18", "resnet34"])
def test_student_widths(network):
    with torch.device("meta"):
        built = ImageNetwork(network, output_dim=512, pool="GeMFC", useallstages=True)
        assert built({"images": torch.empty(1, 3, 64, 64)})["embedding"].shape == (1, 512)
    assert built.image_gemfc.fc.weight.shape == (512, 512)
    assert built.image_gemfc.gem.p == 3.0
