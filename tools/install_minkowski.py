"""Build MinkowskiEngine 0.5.4 from its PyPI source package, install it into this environment, and check it.

The source package is compared with its known hash and patched (``tools/minkowski/patches.py``); it is compiled in a
temporary environment, so that this one only receives the finished wheel. Wheels are kept (``--wheel-folder``), by
PyTorch, Python and kind, and a second call installs at once. The build takes 6 to 10 minutes on 2 cores (CPU).

``--check`` compares the installed MinkowskiEngine with the PyTorch engine: four kinds of layers, output and gradients.
Its last line is "MinkowskiEngine 0.5.4 (CPU build): true" (exit 0), or "... false" with the reason (exit 1).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from distilplace.common.errors import UserError
from distilplace.common.home import home, program
from distilplace.engine.program import exit_code
from distilplace.models.sparse.backends import choose_backend
from distilplace.tools.minkowski.build import build_wheel, cache_key, cached_wheel, default_cache, run_logged
from distilplace.tools.minkowski.check import TOLERANCE, compare
from distilplace.tools.minkowski.machine import check_machine, find_nvcc


def install(*, cuda: bool, source: Path | None, wheels: Path, jobs: int) -> None:
    """Install from the kept wheels, or build one first.

    Raises:
        UserError: the machine lacks something, another source package was given, or a step failed (with its log).

    """
    if find_spec("pip") is None:
        raise UserError(f"this Python ({sys.executable}) has no pip: run {sys.executable} -m ensurepip")
    target = wheels / cache_key(cuda)
    with tempfile.TemporaryDirectory(prefix="minkowski-") as work:
        wheel = cached_wheel(target)
        if wheel is None:
            check_machine(cuda)
            wheel = build_wheel(Path(work), target, cuda=cuda, source=source, jobs=jobs)
            print(f"kept: {wheel}")
        else:
            print(f"built earlier: {wheel}")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--force-reinstall"]
        run_logged([*pip, str(wheel)], target / "install.log", "installing the wheel")


def check() -> bool:
    """Print what was compared and the verdict, the last line; whether all agrees."""
    try:
        version = metadata.version("MinkowskiEngine")
    except metadata.PackageNotFoundError:
        print("MinkowskiEngine: false (not installed: python -m tools.install_minkowski)")
        return False
    devices = ["cpu"]
    try:
        choose_backend("minkowski", "cpu")
        from MinkowskiEngine import is_cuda_available

        cuda = is_cuda_available()
        if cuda and torch.cuda.is_available():
            devices.append("cuda")
        title = f"MinkowskiEngine {version} ({'CUDA' if cuda else 'CPU'} build)"
        agrees = True
        for device in devices:
            for name, difference in compare(torch.device(device)).items():
                agrees = agrees and difference <= TOLERANCE
                print(f"{device}: {name}: differs from the torch engine by {difference:.1e} (at most {TOLERANCE:.0e})")
    except (UserError, ImportError, RuntimeError) as error:
        print(f"MinkowskiEngine {version}: false ({' '.join(str(error).split())})")
        return False
    print(f"{title}: {'true' if agrees else 'false'}")
    return agrees


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 1 when the check fails, 2 with one line when something is missing."""
    parser = argparse.ArgumentParser(
        prog=program("tools.install_minkowski"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--cuda", action="store_true", help="build for CUDA (default: when a GPU and nvcc are here)")
    kind.add_argument("--cpu", action="store_true", help="build for the CPU only")
    parser.add_argument("--source", type=Path, help="the source package, instead of downloading it")
    parser.add_argument("--wheel-folder", type=Path, default=default_cache(), help="where wheels are kept")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="files compiled at a time (1-2 GB each)")
    parser.add_argument("--check", action="store_true", help="only check the MinkowskiEngine that is installed")
    chosen = parser.parse_args(arguments)
    if chosen.check:
        return 0 if check() else 1

    def work() -> None:
        if chosen.jobs < 1:
            raise UserError(f"--jobs {chosen.jobs}: must be at least 1")
        cuda = chosen.cuda or (not chosen.cpu and torch.cuda.is_available() and find_nvcc() is not None)
        install(cuda=cuda, source=chosen.source, wheels=chosen.wheel_folder, jobs=chosen.jobs)

    if status := exit_code(work):
        return status
    # Another process: this one may hold an older MinkowskiEngine.
    return subprocess.run(
        [sys.executable, "-m", "distilplace.tools.install_minkowski", "--check"], cwd=home(), check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
