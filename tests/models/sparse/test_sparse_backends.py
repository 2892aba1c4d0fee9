"""Choosing a sparse engine: by name, by what is installed, from the command line. No weights depend on it."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch

from distilplace import evaluate, train
from distilplace.common.errors import UserError
from distilplace.engine.options import TrainOptions
from distilplace.models import create_model
from distilplace.models.sparse import SparseTensor, backends
from distilplace.models.sparse.backends import available_backends, choose_backend, list_backends, minkowski
from distilplace.models.sparse.backends.minkowski import MinkowskiManager
from distilplace.models.sparse.backends.spconv import SpconvManager
from tests.commands.conftest import make_oxford

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def hide(monkeypatch, package):
    """Make ``package`` look as if it were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))


def test_auto_on_the_cpu_is_the_pytorch_engine():
    assert choose_backend("auto", "cpu").name == "torch"
    assert SparseTensor(torch.ones(1, 1), torch.zeros(1, 4, dtype=torch.int32)).manager.name == "torch"


def test_auto_never_prefers_an_engine_that_is_there_for_comparison():
    order = list_backends()
    assert all(order.index("torch") < order.index(name) for name in ("spconv", "minkowski"))
    assert "torch" in available_backends("cpu")


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(UserError, match="did you mean 'minkowski'"):
        choose_backend("minkowsky")
    with pytest.raises(UserError, match="known: auto, minkowski, spconv"):
        SparseTensor(torch.ones(1, 1), torch.zeros(1, 4, dtype=torch.int32), backend="nonsense")


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("minkowski", "MinkowskiEngine", "MinkowskiEngine is not installed: python -m tools.install_minkowski"),
        ("spconv", "spconv_triton", "spconv-triton is not installed: pip install spconv-triton"),
    ],
)
def test_an_absent_package_is_one_line_with_its_installation(name, package, install, monkeypatch):
    hide(monkeypatch, package)
    assert name not in available_backends("cpu")
    with pytest.raises(UserError) as refusal:
        choose_backend(name, "cpu")
    assert str(refusal.value) == f"--sparse_backend {name}: {install}"


def test_spconv_wants_a_gpu(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: SimpleNamespace())
    assert "CUDA devices only, not on cpu" in str(SpconvManager.unavailable(CPU))
    assert SpconvManager.unavailable(CUDA) is None


def test_builds_of_minkowski_engine_that_do_not_fit(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: SimpleNamespace())
    monkeypatch.setattr(minkowski, "_engine", lambda: SimpleNamespace(is_cuda_available=lambda: False))
    assert MinkowskiManager.unavailable(CPU) is None
    assert "without CUDA" in str(MinkowskiManager.unavailable(CUDA))
    monkeypatch.setattr(minkowski, "_engine", lambda: SimpleNamespace(is_cuda_available=lambda: True))
    assert MinkowskiManager.unavailable(CUDA) is None
    assert "does not run on meta" in str(MinkowskiManager.unavailable(torch.device("meta")))

    def broken():
        raise ImportError("undefined symbol: _ZN3c10")

    monkeypatch.setattr(minkowski, "_engine", broken)
    reason = str(MinkowskiManager.unavailable(CPU))
    assert "undefined symbol: _ZN3c10" in reason
    assert "tools.install_minkowski" in reason


@pytest.mark.minkowski
def test_minkowski_checks_its_input_as_the_others_do():
    if "minkowski" not in available_backends("cpu"):
        pytest.skip(str(MinkowskiManager.unavailable(CPU)))
    for bad, settings in (
        (torch.zeros(1, 3, dtype=torch.int32), {}),
        (torch.zeros(1, 4), {}),
        (torch.tensor([[2, 0, 0, 0]]), {"batch_size": 2}),
        (torch.tensor([[-1, 0, 0, 0]]), {}),
        (torch.tensor([[0, 2, 0, 0]]), {"base_stride": 4}),
    ):
        messages = []
        for name in ("torch", "minkowski"):
            with pytest.raises(UserError) as refusal:
                choose_backend(name, "cpu")(bad, **settings)
            messages.append(str(refusal.value))
        assert messages[0] == messages[1]


@pytest.mark.minkowski
@pytest.mark.parametrize("batch_size", [None, 3])
def test_minkowski_holds_an_empty_batch(batch_size):
    if "minkowski" not in available_backends("cpu"):
        pytest.skip(str(MinkowskiManager.unavailable(CPU)))
    results = []
    for name in ("torch", "minkowski"):
        manager = choose_backend(name, "cpu")(torch.zeros(0, 4, dtype=torch.int32), batch_size=batch_size)
        features = torch.zeros(0, 3, requires_grad=True)
        kernel = torch.ones(27, 3, 2, requires_grad=True)
        down = manager.convolution(features, kernel, 0, 3, 2, 1)
        up = manager.transposed_convolution(down @ torch.ones(2, 3), kernel, 1, 3)
        up.sum().backward()
        results.append([manager.rows, manager.coordinates(1), manager.counts(1), manager.sum_rows(down.detach(), 1)])
        results[-1] += [down.detach(), up.detach(), features.grad, kernel.grad]
    for mine, theirs in zip(*results, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)


def test_the_option_names_every_engine():
    description = TrainOptions.model_fields["sparse_backend"].description
    assert all(name in description for name in ("auto", *list_backends()))


def test_the_command_line_refuses_before_it_reads_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--sparse_backend", "minkowsky"]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()  # not the missing data set: that comes later
    assert line.startswith("error: unknown sparse backend 'minkowsky': did you mean 'minkowski'?")
    assert list(tmp_path.iterdir()) == []

    hide(monkeypatch, "MinkowskiEngine")
    assert train.main(["--sparse_backend", "minkowski", "--accelerator", "cpu"]) == 2
    assert "python -m tools.install_minkowski" in capsys.readouterr().err.strip().splitlines()[-1]
    assert evaluate.main(["--weights", "x", "--sparse_backend", "torhc"]) == 2
    assert "did you mean 'torch'?" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("model", ["minkloc", "minkloconly", "minklocmmcat"])
def test_weights_do_not_depend_on_the_engine(model):
    settings = {"pretrained": "none"} if model == "minklocmmcat" else {}
    states = []
    for name in list_backends():  # whether installed here or not
        torch.manual_seed(1)
        states.append(create_model(model, sparse_backend=name, **settings).state_dict())
    for state in states[1:]:
        assert list(state) == list(states[0])
        assert all(torch.equal(state[key], states[0][key]) for key in state)


@pytest.mark.parametrize(
    "other", [pytest.param("double", marks=pytest.mark.slow), pytest.param("minkowski", marks=pytest.mark.minkowski)]
)
def test_a_run_evaluates_with_another_engine(other, tmp_path, monkeypatch, capsys):
    """``double`` stands in where no second engine is installed: it records that it was used."""
    used = []

    class Double(backends.choose_backend("torch")):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            used.append(self)

    if other == "double":
        monkeypatch.setitem(backends._BACKENDS, other, f"{__name__}:Double")
        known = backends._BACKENDS.load
        monkeypatch.setattr(backends._BACKENDS, "load", lambda name: Double if name == other else known(name))
    elif other not in available_backends("cpu"):
        pytest.skip(str(MinkowskiManager.unavailable(CPU)))
    world = make_oxford(tmp_path / "oxford", submaps=8)
    flags = [*world.flags, "--epochs", "1", "--logdir", str(tmp_path / "logs"), "--accelerator", "cpu"]
    learn = ["--train_mode", "train_teacher", "--model", "minkloc", "--sparse_backend", "torch"]
    assert train.main([*flags, *learn, "--exp_name", "run"]) == 0
    weights = str(tmp_path / "logs" / "run" / "models" / "best.safetensors")
    scores = []
    for engine in ("torch", other):
        report = tmp_path / engine
        line = ["--weights", weights, "--sparse_backend", engine, "--report", str(report), "--accelerator", "cpu"]
        assert evaluate.main(line) == 0
        capsys.readouterr()
        [path] = report.rglob("*.json")
        scores.append(json.loads(path.read_text()))
    assert other != "double" or used
    [[first], [second]] = (list(score.values()) for score in scores)
    assert first["recall"] == second["recall"]
    assert first["top1_similarity"] == pytest.approx(second["top1_similarity"], abs=1e-6)
