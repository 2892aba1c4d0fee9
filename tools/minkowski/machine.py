"""Whether this machine can build MinkowskiEngine: said in one line, before anything is downloaded or compiled."""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

from distilplace.common.errors import UserError

PYTHONS = ((3, 11), (3, 13))
BLAS_PROBE = "#include <cblas.h>\nint main() { float x = 0; return (int)cblas_isamax(1, &x, 1); }\n"


def check_machine(cuda: bool) -> None:
    """Everything that the build wants and that a package manager supplies.

    Raises:
        UserError: what is missing, with the ``apt install`` command.

    """
    check_python(sys.version_info[:2], platform.system())
    if shutil.which(compiler()) is None:
        raise UserError(f"no C++ compiler ({compiler()}) on PATH: apt install g++ (or set CXX)")
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        name = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
        raise UserError(f"no Python headers ({headers / 'Python.h'}): apt install {name}")
    if not has_openblas():
        raise UserError("no OpenBLAS headers and library (cblas.h, -lopenblas): apt install libopenblas-dev")
    if cuda:
        check_cuda()


def check_python(version: tuple[int, int], system: str) -> None:
    """Python 3.11 to 3.13 on Linux, as DistilPlace itself."""
    if system != "Linux":
        raise UserError(f"MinkowskiEngine is built on Linux only, not on {system}; the torch engine needs no build")
    if not PYTHONS[0] <= version <= PYTHONS[1]:
        raise UserError(f"Python {version[0]}.{version[1]}: MinkowskiEngine is built here with Python 3.11 to 3.13")


def compiler() -> str:
    """The C++ compiler: ``$CXX``, or g++."""
    return os.environ.get("CXX") or "g++"


def has_openblas() -> bool:
    """Whether a program that calls OpenBLAS compiles and links."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(BLAS_PROBE)
        command = [compiler(), str(source), "-o", f"{folder}/probe", "-lopenblas"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def check_cuda() -> None:
    """A CUDA build of PyTorch, the toolkit of the same major version, and a GPU or a list of architectures."""
    wanted = torch.version.cuda
    if wanted is None:
        raise UserError(f"--cuda: this PyTorch ({torch.__version__}) is a CPU build; install a CUDA one, or use --cpu")
    nvcc = find_nvcc()
    if nvcc is None:
        apt = f"apt install cuda-toolkit-{wanted.replace('.', '-')}"
        raise UserError(f"--cuda: no nvcc on PATH or in $CUDA_HOME: {apt} (NVIDIA's repository), or use --cpu")
    answer = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"release (\d+)\.(\d+)", answer)
    if found is None or found[1] != wanted.split(".")[0]:
        said = f"CUDA {found[1]}.{found[2]}" if found else "no version"
        raise UserError(f"--cuda: {nvcc} says {said}, PyTorch was built with CUDA {wanted}: the majors must agree")
    if not torch.cuda.is_available() and not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        raise UserError('--cuda: no GPU here to build for; name them: TORCH_CUDA_ARCH_LIST="8.0 9.0+PTX"')


def find_nvcc() -> Path | None:
    """CUDA's compiler in ``$CUDA_HOME`` or on PATH, or None."""
    home = os.environ.get("CUDA_HOME")
    found = Path(home) / "bin" / "nvcc" if home else shutil.which("nvcc")
    return Path(found) if found and Path(found).is_file() else None
