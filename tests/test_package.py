"""One importable package: its namespace, its command, and what its import leaves alone."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from distilplace import cli

HEAVY = ("open3d", "timm", "torchvision", "faiss", "matplotlib", "MinkowskiEngine", "pytorch_metric_learning")
NO_TORCH = "import sys; sys.modules['torch'] = None; sys.meta_path.insert(0, type('No', (), {'find_spec': staticmethod("
NO_TORCH += "lambda name, path=None, target=None: None)})); import importlib.util as u; find = u.find_spec; "
NO_TORCH += "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"


def run(root, program):
    return subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)


IMPORTED = f"""
import sys
import distilplace.datasets, distilplace.models.image.network
from distilplace import losses, models
from distilplace.models import checkpoints, fused
losses.create_distiller("ours_rkdg", rkdgloss_weight=1)
losses.list_distillers()
assert not {set(HEAVY)} & set(sys.modules), {set(HEAVY)} & set(sys.modules)
models.create_model("resnet18")
assert "torchvision" in sys.modules
cloud = ("distilplace.models.cloud.minkloc", "distilplace.models.sparse")
assert not [name for name in sys.modules if name.startswith(cloud)]
"""


def test_rooms_are_imported_silently_and_every_library_where_it_is_used(root):
    """One process for all rooms: each costs seconds."""
    done = run(root, IMPORTED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_torch_the_package_is_imported_and_the_rooms_name_the_extra(root):
    done = run(root, NO_TORCH + "import distilplace.cli\nimport distilplace.models")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: distilplace.models needs PyTorch")
    assert "distilplace[train]" in done.stderr
    done = run(root, NO_TORCH + "import distilplace.cli, sys\nsys.exit(distilplace.cli.main(['train', '--help']))")
    assert done.returncode == 2
    assert done.stderr.startswith("error: distilplace train needs PyTorch")


def test_every_command_has_help(root, capsys, monkeypatch):
    for name in cli.COMMANDS:
        monkeypatch.setattr(sys, "argv", ["distilplace"])
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0, name
        assert f"usage: distilplace {name}" in capsys.readouterr().out, name


def test_unknown_commands_are_told_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err
    assert cli.main([]) == 2
    assert cli.main(["--version"]) == 0


@pytest.fixture(scope="module")
def project(root):
    """The ``[project]`` table."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def test_what_the_base_install_brings_is_small(project):
    """Below 250 MB with what it needs in turn, and no torch: as README says of a robot."""
    sizes, left = {}, [*project["dependencies"]]
    while left:
        wanted = Requirement(left.pop())
        if wanted.name in sizes or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found = metadata.distribution(wanted.name)
        paths = [found.locate_file(file) for file in found.files or ()]
        sizes[wanted.name] = sum(path.stat().st_size for path in paths if path.is_file())
        left += found.requires or []
    assert {"numpy", "onnxruntime"} <= set(sizes)
    assert "torch" not in sizes
    assert 100e6 < sum(sizes.values()) < 240e6, sizes


def test_the_workflow_runs_the_oldest_and_the_newest_that_the_project_names(root, project):
    jobs = yaml.safe_load((root / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    oldest, newest = jobs["test"]["strategy"]["matrix"]["include"]
    bounds = {each.name: str(each.specifier) for each in map(Requirement, project["optional-dependencies"]["train"])}
    locked = dict(re.findall(r"^(\w+)==(.*)$", (root / "requirements.lock").read_text(), flags=re.MULTILINE))
    for name in ("torch", "torchvision"):
        assert oldest[name] == bounds[name].removeprefix(">=") + ".0"
        assert newest[name] == locked[name]
    pythons = SpecifierSet(project["requires-python"])
    allowed = [f"3.{minor}" for minor in range(9, 20) if f"3.{minor}.0" in pythons]
    assert (oldest["python"], newest["python"]) == (allowed[0], allowed[-1])
