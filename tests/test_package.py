"""One importable package: its namespace, its command, and what its import leaves alone."""

import subprocess
import sys

import pytest

from distilplace import cli

HEAVY = ("open3d", "timm", "torchvision", "faiss", "matplotlib", "MinkowskiEngine")
NO_TORCH = "import sys; sys.modules['torch'] = None; sys.meta_path.insert(0, type('No', (), {'find_spec': staticmethod("
NO_TORCH += "lambda name, path=None, target=None: None)})); import importlib.util as u; find = u.find_spec; "
NO_TORCH += "u.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"


def run(root, program):
    return subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)


def test_rooms_are_imported_silently_and_leave_heavy_libraries_out(root):
    program = "import sys, distilplace.models, distilplace.losses, distilplace.datasets\n"
    program += f"assert not set({HEAVY}) & set(sys.modules), set({HEAVY}) & set(sys.modules)"
    done = run(root, program)
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
