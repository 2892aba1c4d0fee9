"""MinkLoc against the published program (goldens a, b), and what it must do with batches."""

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.models.cloud.minkfpn import MinkFPN
from distilplace.models.cloud.minkloc import MinkLoc, MinkLocOnly
from distilplace.models.sparse import SparseTensor, batched_coordinates
from tests.goldens import is_recorded

ALL_CASES = [
    ("a_minkloc_default.pt", "default_3clouds"),
    ("a_minkloc_odd_batches.pt", "mixed_sizes_q0.02"),
    ("a_minkloc_odd_batches.pt", "two_points_cloud"),
    ("b_minkloc_variants.pt", "planes_32_64_128_td0_f128"),
    ("b_minkloc_variants.pt", "td2"),
    ("b_general_minkfpn.pt", "general_minkfpn_4stage"),
]
CASES = [case for case in ALL_CASES if is_recorded(*case)]


def from_case(case):
    settings = case["constructor"]
    if "cls" in settings:
        options = {"feature_size": settings["out_channels"], "backbone": "GeneralMinkFPN"}
    else:
        names = ("feature_size", "num_top_down", "conv0_kernel_size", "block", "in_channels")
        options = {name: settings[name] for name in names} | {"pooling": settings["pooling_method"]}
    model = MinkLoc(planes=settings["planes"], layers=settings["layers"], **options)
    model.load_state_dict(case["state_dict"])  # strict: the keys are upstream's
    return model, {"coords": case["coords"], "features": case["features"]}


def canonical(x):
    rows = x.coordinates.tolist()
    order = sorted(range(len(rows)), key=rows.__getitem__)
    return x.coordinates[order], x.features[order]


def close(value, reference, tolerance=1e-4):
    return (value - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize(("file", "name"), CASES)
def test_golden_forward(golden, file, name):
    case = golden(file)[name]
    model, batch = from_case(case)
    model.eval()
    seen = {}
    for stage in case["stages"]:
        model.get_submodule(stage).register_forward_hook(lambda _m, _i, out, stage=stage: seen.update({stage: out}))
    with torch.no_grad():
        embedding = model(batch)["embedding"]
    assert close(embedding, case["eval_embedding"])
    assert close(embedding.double(), case["eval_embedding_f64"], 1e-6)
    for stage, expected in case["stages"].items():
        coords, features = canonical(seen[stage])
        assert [seen[stage].stride] * 3 == list(expected["stride"])
        assert torch.equal(coords, case["coords_by_stride"][str(list(expected["stride"]))])
        channels = expected["feats"].shape[1]  # the subset holds the first few
        assert close(features[:, :channels], expected["feats"]), stage


@pytest.mark.parametrize(("file", "name"), CASES)
def test_golden_training(golden, file, name):
    case = golden(file)[name]
    model, batch = from_case(case)
    embedding = model.train()(batch)["embedding"]
    assert close(embedding, case["train_embedding"])
    loss = (embedding * case["train_cotangent"]).sum()
    assert abs(loss.item() - case["train_loss"]) <= 1e-4 * abs(case["train_loss"])
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not case["params_without_grad"]
    assert set(case["grad_norms"]) == set(gradients)
    for name, norm in case["grad_norms"].items():
        noise = case["grad_rel_err_vs_f64"][name]  # of the reference itself: a unit at its ReLU's corner
        assert abs(gradients[name].norm() - norm) <= (1e-4 + noise) * norm, name
        if name in case["grads"]:
            expected = case["grads"][name]
            assert (gradients[name] - expected).norm() <= (1e-4 + noise) * expected.norm(), name
    state = model.state_dict()
    for name, expected in case["bn_after"].items():
        assert close(state[name].double(), expected.double()), name


@pytest.mark.parametrize(("file", "name"), CASES)
def test_float32_gradients_agree_with_float64(golden, file, name):
    """No unit of a golden case may land on the other side of its ReLU for rounding."""
    case = golden(file)[name]
    results = []
    for dtype in (torch.float32, torch.float64):
        model, batch = from_case(case)
        model.to(dtype).train()
        out = model({**batch, "features": batch["features"].to(dtype)})["embedding"]
        (out * case["train_cotangent"].to(dtype)).sum().backward()
        results.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, exact in results[1].items():
        assert (results[0][name].double() - exact).norm() <= 5e-5 * exact.norm(), name


@pytest.mark.parametrize(("file", "name"), CASES)
def test_quantised_clouds_make_the_golden_coordinates(golden, file, name):
    case = golden(file)[name]
    assert torch.equal(batched_coordinates(case["quantised"]), case["coords"])


def random_batch(sizes, seed=0, spread=60):
    generator = torch.Generator().manual_seed(seed)
    clouds = [torch.unique(torch.randint(-spread, spread, (size, 3), generator=generator), dim=0) for size in sizes]
    coords = batched_coordinates(clouds)
    return {"coords": coords, "features": torch.ones(len(coords), 1), "keys": [str(n) for n in range(len(sizes))]}


def randomised(model, seed=1):
    """Batch-norm statistics of a trained network, so that eval mode differs from cloud to cloud."""
    torch.manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(norm.running_mean, std=0.1)
            torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


@pytest.mark.parametrize("seed", range(4))
def test_batch_of_n_equals_n_batches_of_one(seed):
    sizes = [300, 40, 1, 500, 120, 700, 7][: 4 + seed]
    model = randomised(MinkLoc()).eval()
    batch = random_batch(sizes, seed)
    order = torch.randperm(len(batch["coords"]), generator=torch.Generator().manual_seed(seed))
    shuffled = {**batch, "coords": batch["coords"][order]}
    with torch.no_grad():
        together = model(batch)["embedding"]
        torch.testing.assert_close(model(shuffled)["embedding"], together, rtol=1e-4, atol=1e-5)
        for number in range(len(sizes)):
            rows = batch["coords"][batch["coords"][:, 0] == number].clone()
            rows[:, 0] = 0
            alone = model({"coords": rows, "features": torch.ones(len(rows), 1)})["embedding"]
            torch.testing.assert_close(together[number], alone[0], rtol=1e-4, atol=1e-5)


def test_gradients_of_a_batch_are_those_of_its_clouds():
    model = randomised(MinkLoc(planes=(8, 8), layers=(1, 1), feature_size=16)).double().eval()
    batch = random_batch([60, 1, 90, 30], spread=8)
    cotangent = torch.randn(4, 16, dtype=torch.float64)

    def gradients(rows, weights):
        features = torch.ones(len(rows), 1, dtype=torch.float64)
        out = model({"coords": rows, "features": features})["embedding"]
        return torch.autograd.grad((out * weights).sum(), list(model.parameters()), allow_unused=True)

    whole = gradients(batch["coords"], cotangent)
    parts = []
    for number in range(4):
        rows = batch["coords"][batch["coords"][:, 0] == number].clone()
        rows[:, 0] = 0
        parts.append(gradients(rows, cotangent[number : number + 1]))
    for mine, theirs in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(mine, sum(theirs))


@pytest.mark.parametrize("sizes", [[50, 0, 60], [50, 60, 0], [0, 50], [0, 0], [1], [1, 0]])
@pytest.mark.parametrize("training", [False, True])
def test_empty_and_tiny_clouds(sizes, training):
    model = randomised(MinkLoc()).train(training)
    embedding = model(random_batch(sizes))["embedding"]
    assert embedding.shape == (len(sizes), 128)
    assert torch.isfinite(embedding).all()
    for size, row in zip(sizes, embedding, strict=True):
        assert bool(row.any()) == (size > 0)
    embedding.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def test_an_empty_neighbour_changes_nothing():
    model = randomised(MinkLoc()).eval()
    with torch.no_grad():
        with_empty = model(random_batch([200, 0]))["embedding"][0]
        alone = model(random_batch([200]))["embedding"][0]
    torch.testing.assert_close(with_empty, alone)


def test_batch_size_sources():
    model = MinkLoc(planes=(4,), layers=(1,), num_top_down=0, feature_size=4).eval()
    batch = random_batch([20, 20])
    coords = {"coords": batch["coords"], "features": batch["features"]}
    assert len(model(coords)["embedding"]) == 2
    assert len(model({**coords, "keys": ["a", "b", "c"]})["embedding"]) == 3
    assert len(model({**coords, "positives_mask": torch.zeros(4, 4, dtype=torch.bool)})["embedding"]) == 4
    assert len(model({**coords, "images": torch.zeros(5, 3, 2, 2)})["embedding"]) == 5
    with pytest.raises(UserError, match="batch numbers"):
        model({**coords, "keys": ["a"]})


@pytest.mark.parametrize(
    ("settings", "stride"),
    [
        ({"num_top_down": 0}, 8),
        ({"num_top_down": 3, "layers": (2, 1, 1)}, 1),
        ({"block": "BasicBlock", "layers": (1, 2, 1), "num_top_down": 2}, 2),
        ({"planes": (8, 16, 24, 32), "layers": (1, 1, 1, 1), "num_top_down": 4, "conv0_kernel_size": 3}, 1),
        ({"planes": (8,), "layers": (3,), "num_top_down": 1, "in_channels": 3}, 1),
    ],
)
def test_settings(settings, stride):
    model = MinkLoc(feature_size=32, **settings)
    batch = random_batch([150, 80], spread=8)
    batch["features"] = batch["features"].expand(-1, settings.get("in_channels", 1))
    strides = []
    model.backbone.register_forward_hook(lambda _m, _i, out: strides.append(out.stride))
    model(batch)["embedding"].square().sum().backward()
    assert strides == [stride]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert model.output_dim == 32
    branches = model.branch_parameters()
    assert branches["image"] == []
    assert {id(p) for p in branches["cloud"]} == {id(p) for p in model.parameters()}
    assert any("eca" in key for key in model.state_dict()) == (settings.get("block") != "BasicBlock")
    assert sum("downsample.0" in key for key in model.state_dict()) == len({*model_widths(settings)}) - 1


def model_widths(settings):
    return settings.get("planes", (32, 64, 64))


def test_the_last_lateral_is_the_stem():
    """At num_top_down = number of stages, the last lateral reads the stride-1 map after norm and ReLU."""
    torch.manual_seed(0)
    fpn = MinkFPN(1, 16, (8, 8), (1, 1), 2).eval()
    x = SparseTensor(torch.ones(40, 1), random_batch([60], spread=5)["coords"][:40])
    seen = {}
    fpn.tconvs[1].register_forward_hook(lambda _m, _i, out: seen.update(up=out))
    out = fpn(x)
    stem = torch.relu(fpn.bn0(fpn.conv0(x)).features)
    torch.testing.assert_close(out.features - seen["up"].features, stem @ fpn.conv1x1s[2].kernel, rtol=1e-4, atol=1e-5)


def test_keys_are_the_teachers_cloud_branch(golden):
    listed = golden("state_dict_keys.json")
    teacher = next(rows for name, rows in listed.items() if name.startswith("teacher_minklocmmcat"))
    wanted = {key.removeprefix("cloud_fe."): shape for key, shape, _ in teacher if key.startswith("cloud_fe.")}
    assert {key: list(value.shape) for key, value in MinkLoc().state_dict().items()} == wanted


def test_student():
    model = MinkLocOnly(output_dim=96)
    assert model.output_dim == 96
    assert model.requires == ("coords", "features")
    assert model(random_batch([50, 60]))["embedding"].shape == (2, 96)
    assert model.backbone.conv1x1s[0].kernel.shape == (128, 96)
    assert MinkLocOnly().output_dim == 384
    assert MinkLocOnly(feature_size=64).output_dim == 64


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_top_down": 4}, "0..3"),
        ({"num_top_down": -1}, "0..3"),
        ({"layers": (1, 1)}, "same stages"),
        ({"planes": (), "layers": ()}, "at least one"),
        ({"layers": (1, 0, 1)}, "positive"),
        ({"conv0_kernel_size": 4}, "odd"),
        ({"block": "Bottleneck"}, "ECABasicBlock"),
        ({"pooling": "NetVLAD"}, "GeM"),
        ({"backbone": "ResNet"}, "GeneralMinkFPN"),
        ({"feature_size": 0}, "positive"),
    ],
)
def test_refuses_impossible_settings(settings, reason):
    with pytest.raises(UserError, match=reason):
        MinkLoc(**settings)


def test_training_moves_the_loss():
    torch.manual_seed(0)
    model = MinkLoc(planes=(8, 16), layers=(1, 1), feature_size=16)
    batch = random_batch([200, 200, 200, 200], spread=15)
    target = torch.rand(4, 16)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = (model(batch)["embedding"] - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
