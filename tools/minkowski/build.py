"""MinkowskiEngine 0.5.4's wheel from its PyPI source package, in an environment of its own.

The build environment is a new venv that holds the build tools (setuptools below 70, wheel, ninja) and sees the running
environment's PyTorch through a ``.pth`` file; the running environment only receives the finished wheel.
"""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path, sha256
from distilplace.tools.minkowski.machine import compiler
from distilplace.tools.minkowski.patches import PATCHES, apply_patches

VERSION = "0.5.4"
SHA256 = "b1879c00d0b0b1d30ba622cce239886a7e3c78ee9da1064cdfe2f64c2ab15f94"
# Later setuptools no longer run "setup.py bdist_wheel" with what this setup.py imports.
BUILD_TOOLS = ("setuptools==69.5.1", "wheel==0.45.1", "ninja==1.13.0")
PROGRESS = re.compile(r"^\[(\d+)/(\d+)\] ")


def default_cache() -> Path:
    """Where finished wheels are kept: ``~/.cache/distilplace/minkowski``, or below ``$XDG_CACHE_HOME``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distilplace" / "minkowski"


def cache_key(cuda: bool) -> str:
    """What a wheel depends on: PyTorch, Python, CPU or CUDA (which GPUs), and the patches."""
    gpus = os.environ.get("TORCH_CUDA_ARCH_LIST", "these GPUs") if cuda else ""
    patched = hashlib.sha256(repr((PATCHES, gpus)).encode()).hexdigest()[:8]
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return f"torch{torch.__version__}-{python}-{'cuda' if cuda else 'cpu'}-{patched}"


def cached_wheel(folder: Path) -> Path | None:
    """The finished wheel in a folder of the cache, if there is one."""
    return next(iter(sorted(folder.glob("MinkowskiEngine-*.whl"))), None)


def build_wheel(work: Path, target: Path, *, cuda: bool, source: Path | None, jobs: int) -> Path:
    """Build in the empty folder ``work``, log in ``target``/build.log; the finished wheel, in ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    log = target / "build.log"
    log.write_text("")
    python, environment = make_environment(work, log)
    archive = verified(source) if source else download(work, python, environment, log)
    unpacked = unpack(archive, work)
    apply_patches(unpacked)
    command = [str(python), "setup.py", "bdist_wheel", "-d", str(work / "dist"), "--blas=openblas"]
    command.append("--force_cuda" if cuda else "--cpu_only")
    settings = {**environment, "CC": compiler(), "CXX": compiler(), "MAX_JOBS": str(jobs)}
    run_logged(command, log, "compiling MinkowskiEngine", cwd=unpacked, env=settings)
    built = cached_wheel(work / "dist")
    if built is None:
        raise UserError(f"the build ended without a wheel; its output: {log}")
    with atomic_path(target / built.name) as path:
        path.write_bytes(built.read_bytes())
    return target / built.name


def make_environment(work: Path, log: Path) -> tuple[Path, dict[str, str]]:
    """The build environment: its Python, and the environment variables to run it with."""
    home = work / "environment"
    python = home / "bin" / "python"
    hint = f"apt install python{sys.version_info.major}.{sys.version_info.minor}-venv"
    run_logged([sys.executable, "-m", "venv", str(home)], log, "making a build environment", hint=hint)
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", *BUILD_TOOLS]
    run_logged(install, log, "installing the build tools")
    outer = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    packages = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "running_environment.pth").write_text("\n".join(outer) + "\n")
    # setup.py calls "pip uninstall", already when pip reads the package's name: this pip does nothing.
    idle = work / "idle" / "pip"
    idle.parent.mkdir()
    idle.write_text("#!/bin/sh\n")
    idle.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    search = os.pathsep.join([str(idle.parent), str(python.parent), os.environ.get("PATH", "")])
    return python, {**inherited, "PATH": search}


def download(work: Path, python: Path, environment: Mapping[str, str], log: Path) -> Path:
    """The source package from the package index; pip compares its hash before it runs any of it."""
    wanted = work / "source.txt"
    wanted.write_text(f"MinkowskiEngine=={VERSION} --hash=sha256:{SHA256}\n")
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "download", "--require-hashes", "--no-deps"]
    command += ["--no-binary", ":all:", "--no-build-isolation", "-d", str(work), "-r", str(wanted)]
    run_logged(command, log, "downloading the source package", env=environment, hint="or give it with --source FILE")
    return verified(work / f"MinkowskiEngine-{VERSION}.tar.gz")


def verified(archive: Path) -> Path:
    """The archive itself.

    Raises:
        UserError: absent, or not byte for byte the package that the patches were written for.

    """
    if not archive.is_file():
        raise UserError(f"no source package {archive}")
    if (found := sha256(archive)) != SHA256:
        raise UserError(f"{archive}: sha256 is {found}, that of MinkowskiEngine-{VERSION}.tar.gz on PyPI is {SHA256}")
    return archive


def unpack(archive: Path, work: Path) -> Path:
    """The folder of the unpacked sources."""
    with tarfile.open(archive) as package:
        package.extractall(work)  # its hash is known, so nothing in it points elsewhere; Python 3.11.2 has no filter
    return work / f"MinkowskiEngine-{VERSION}"


def run_logged(
    command: list[str],
    log: Path,
    title: str,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    hint: str = "",
) -> None:
    """Run a command with all its output in ``log``; its steps (ninja's "[3/13]") also on the console.

    Raises:
        UserError: the command failed; names the log.

    """
    print(f"{title} ...", flush=True)
    start = time.perf_counter()
    with log.open("a") as kept:
        kept.write(f"$ {' '.join(command)}\n")
        with subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                kept.write(line)
                if step := PROGRESS.match(line):
                    print(f"  {step[1]} of {step[2]} files ({time.perf_counter() - start:.0f} s)", flush=True)
    if process.returncode != 0:
        raise UserError(f"{title} failed (exit {process.returncode}); its output: {log}{f' ({hint})' if hint else ''}")
