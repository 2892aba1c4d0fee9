"""MinkowskiEngine's installer: patches that fit or are refused, what is missing said before the build, the check."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.models.sparse.backends import choose_backend
from distilplace.tools import install_minkowski
from distilplace.tools.minkowski import build as minkowski_build
from distilplace.tools.minkowski import check as minkowski_check
from distilplace.tools.minkowski import machine as minkowski_machine
from distilplace.tools.minkowski.patches import PATCHES, Patch, apply_patches


def fake_sources(folder: Path) -> Path:
    """A tree that holds each patch's text once, between other lines."""
    for patch in PATCHES:
        path = folder / patch.file
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.exists() else "// first line\n"
        path.write_text(f"{before}{patch.old}// between\n")
    return folder


def test_patches_apply_once_and_change_nothing_else(tmp_path: Path) -> None:
    source = fake_sources(tmp_path)
    apply_patches(source)
    for patch in PATCHES:
        text = (source / patch.file).read_text()
        assert patch.new in text
        assert text.startswith("// first line\n")
        assert text.endswith("// between\n")
    assert "pip" not in (source / "setup.py").read_text()
    with pytest.raises(UserError, match="not those of MinkowskiEngine"):
        apply_patches(source)


@pytest.mark.parametrize("number", range(len(PATCHES)))
def test_sources_without_or_with_twice_the_text_are_refused_whole(tmp_path: Path, number: int) -> None:
    patch = PATCHES[number]
    for times, name in ((0, "absent"), (2, "twice")):
        source = fake_sources(tmp_path / name)
        path = source / patch.file
        path.write_text(path.read_text().replace(patch.old, patch.old * times))
        before = {each: each.read_bytes() for each in source.rglob("*") if each.is_file()}
        with pytest.raises(UserError, match=f"{path.name}: the text to patch .* is there {times} times"):
            apply_patches(source)
        assert {each: each.read_bytes() for each in before} == before
    (tmp_path / "absent" / patch.file).unlink()
    with pytest.raises(UserError, match="absent; the sources are not those"):
        apply_patches(tmp_path / "absent")


def test_another_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "MinkowskiEngine-0.5.4.tar.gz"
    with tarfile.open(archive, "w:gz") as package:
        package.add(fake_sources(tmp_path / "MinkowskiEngine-0.5.4"), arcname="MinkowskiEngine-0.5.4")
    with pytest.raises(
        UserError, match=r"sha256 is [0-9a-f]{64}, that of MinkowskiEngine-0.5.4.tar.gz on PyPI is b1879c"
    ):
        minkowski_build.verified(archive)
    with pytest.raises(UserError, match="no source package"):
        minkowski_build.verified(tmp_path / "nothing.tar.gz")


@pytest.fixture
def no_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded or compiled: whoever tries fails the test."""

    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("a build was started")

    monkeypatch.setattr(install_minkowski, "build_wheel", refuse)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CUDA_HOME", raising=False)


def complaint(capsys: pytest.CaptureFixture[str], wheels: Path, *flags: str) -> str:
    """The one line of a refused installation."""
    assert install_minkowski.main(["--wheel-folder", str(wheels), *flags]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.usefixtures("no_build")
def test_a_missing_compiler_is_said_before_the_build(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C++ compiler (g++) on PATH: apt install g++" in complaint(capsys, tmp_path / "w", "--cpu")


@pytest.mark.usefixtures("no_build")
def test_missing_headers_are_said_before_the_build(tmp_path, monkeypatch, capsys) -> None:
    fake_compiler(tmp_path, status=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    headers = tmp_path / "include"
    headers.mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(headers))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt install python{version}-dev" in complaint(capsys, tmp_path / "w", "--cpu")
    (headers / "Python.h").touch()
    assert "apt install libopenblas-dev" in complaint(capsys, tmp_path / "w", "--cpu")


def fake_compiler(folder: Path, status: int) -> None:
    path = folder / "g++"
    path.write_text(f"#!/bin/sh\nexit {status}\n")
    path.chmod(0o755)


@pytest.mark.usefixtures("no_build")
def test_what_a_cuda_build_lacks_is_said_before_it(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(install_minkowski, "check_machine", lambda cuda: minkowski_machine.check_cuda())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is a CPU build" in complaint(capsys, tmp_path, "--cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "apt install cuda-toolkit-13-0" in complaint(capsys, tmp_path, "--cuda")
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 12.8, V12.8.93\n")
    nvcc.chmod(0o755)
    assert "says CUDA 12.8, PyTorch was built with CUDA 13.0" in complaint(capsys, tmp_path, "--cuda")
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 13.2, V13.2.1\n")
    assert "TORCH_CUDA_ARCH_LIST" in complaint(capsys, tmp_path, "--cuda")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    minkowski_machine.check_cuda()


@pytest.mark.parametrize(
    ("version", "system", "line"),
    [((3, 10), "Linux", "Python 3.10"), ((3, 14), "Linux", "Python 3.14"), ((3, 11), "Darwin", "not on Darwin")],
)
def test_the_wrong_python_or_system_is_refused(version, system, line) -> None:
    with pytest.raises(UserError, match=line):
        minkowski_machine.check_python(version, system)
    minkowski_machine.check_python((3, 13), "Linux")


@pytest.mark.parametrize("flags", [["--cuda", "--cpu"], ["--jobs", "many"], ["--wheel", "x"], ["check"]])
def test_wrong_flags_are_refused(flags, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        install_minkowski.main(flags)
    assert stop.value.code == 2
    assert "install_minkowski" in capsys.readouterr().err


@pytest.mark.usefixtures("no_build")
def test_no_job_at_a_time_is_refused(tmp_path, capsys) -> None:
    assert "--jobs 0: must be at least 1" in complaint(capsys, tmp_path, "--cpu", "--jobs", "0")


@pytest.mark.usefixtures("no_build")
def test_a_kept_wheel_is_installed_without_a_build(tmp_path, monkeypatch) -> None:
    folder = tmp_path / minkowski_build.cache_key(cuda=False)
    folder.mkdir()
    wheel = folder / "MinkowskiEngine-0.5.4-cp311-cp311-linux_x86_64.whl"
    wheel.touch()
    ran = []
    monkeypatch.setattr(install_minkowski, "run_logged", lambda command, *rest: ran.append(command))
    install_minkowski.install(cuda=False, source=None, wheels=tmp_path, jobs=1)
    assert [command[-1] for command in ran] == [str(wheel)]
    assert {"--no-deps", "install"} <= set(ran[0])


def test_a_wheel_serves_one_torch_one_kind_and_one_set_of_patches(monkeypatch) -> None:
    keys = {minkowski_build.cache_key(cuda=True), minkowski_build.cache_key(cuda=False)}
    assert all(f"torch{torch.__version__}-cp{sys.version_info.major}" in key for key in keys)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    keys.add(minkowski_build.cache_key(cuda=True))
    assert minkowski_build.cache_key(cuda=False) in keys
    monkeypatch.setattr(minkowski_build, "PATCHES", (Patch("a", "b", "c"),))
    keys.add(minkowski_build.cache_key(cuda=False))
    assert len(keys) == 4


def test_a_failed_step_names_its_log_and_shows_progress(tmp_path, capsys) -> None:
    log = tmp_path / "build.log"
    with pytest.raises(UserError, match=f"compiling failed .exit 3.; its output: {log}"):
        minkowski_build.run_logged(["sh", "-c", "echo '[2/13] c++ -c'; echo bad; exit 3"], log, "compiling")
    assert "  2 of 13 files (" in capsys.readouterr().out
    assert log.read_text().endswith("[2/13] c++ -c\nbad\n")


def run_check(python: str, root: Path, **environment: str) -> tuple[int, list[str]]:
    command = [python, "-m", "tools.install_minkowski", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines()


def test_check_without_minkowskiengine_is_false(monkeypatch, capsys) -> None:
    def absent(name: str) -> str:
        raise install_minkowski.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(install_minkowski.metadata, "version", absent)
    assert install_minkowski.main(["--check"]) == 1
    out = capsys.readouterr().out
    assert out == "MinkowskiEngine: false (not installed: python -m tools.install_minkowski)\n"


def test_check_of_a_package_that_does_not_load_is_false(root, tmp_path) -> None:
    package = tmp_path / "MinkowskiEngine"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('undefined symbol: abc')\n")
    (tmp_path / "MinkowskiEngine-0.5.4.dist-info").mkdir()
    (tmp_path / "MinkowskiEngine-0.5.4.dist-info" / "METADATA").write_text("Name: MinkowskiEngine\nVersion: 0.5.4\n")
    status, lines = run_check(sys.executable, root, PYTHONPATH=str(tmp_path))
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith("MinkowskiEngine 0.5.4: false (")
    assert "undefined symbol: abc" in lines[0]


def test_the_comparison_sees_a_difference(monkeypatch) -> None:
    """One engine twice is equal; with two offsets of its kernel swapped it is not."""
    real = minkowski_check._run
    monkeypatch.setattr(minkowski_check, "_run", lambda case, backend, device: real(case, "torch", device))
    assert set(minkowski_check.compare(torch.device("cpu")).values()) == {0.0}
    manager = choose_backend("torch")
    forward = manager.convolution

    def swapped(self, features, kernel, *rest):
        return forward(self, features, kernel[[1, 0, *range(2, len(kernel))]], *rest)

    def one_swapped(case, backend, device):
        with monkeypatch.context() as patch:
            if backend == "minkowski":
                patch.setattr(manager, "convolution", swapped)
            return real(case, "torch", device)

    monkeypatch.setattr(minkowski_check, "_run", one_swapped)
    assert min(minkowski_check.compare(torch.device("cpu")).values()) > 1e-2


@pytest.mark.parametrize(("difference", "verdict"), [(9e-5, "true"), (2e-4, "false"), (float("inf"), "false")])
def test_the_verdict_follows_the_largest_difference(monkeypatch, capsys, difference, verdict) -> None:
    monkeypatch.setattr(install_minkowski.metadata, "version", lambda name: "0.5.4")
    monkeypatch.setattr(install_minkowski, "choose_backend", lambda *names: None)
    monkeypatch.setattr(install_minkowski, "compare", lambda device: {"one": difference, "two": 0.0})
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", SimpleNamespace(is_cuda_available=lambda: False))
    assert install_minkowski.main(["--check"]) == (0 if verdict == "true" else 1)
    assert capsys.readouterr().out.splitlines()[-1] == f"MinkowskiEngine 0.5.4 (CPU build): {verdict}"


@pytest.mark.minkowski
def test_check_of_the_installed_package_is_true(root) -> None:
    pytest.importorskip("MinkowskiEngine")
    status, lines = run_check(sys.executable, root)
    assert status == 0
    assert lines[-1].startswith("MinkowskiEngine 0.5.4 (")
    assert lines[-1].endswith("build): true")


@pytest.mark.slow
@pytest.mark.minkowski
@pytest.mark.timeout(3600)
def test_the_source_package_builds_installs_and_is_equal(root, tmp_path) -> None:
    """The real build (6 to 10 minutes on 2 cores), into an environment of its own that borrows this one's packages."""
    if shutil.which("g++") is None or not minkowski_machine.has_openblas():
        pytest.skip("g++ and libopenblas-dev are not installed")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (environment / "lib" / version / "site-packages" / "borrowed.pth").write_text("\n".join(borrowed))
    python = str(environment / "bin" / "python")
    command = [python, "-m", "tools.install_minkowski", "--cpu", "--wheel-folder", str(tmp_path / "wheels")]
    first = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "  13 of 13 files (" in first.stdout
    assert first.stdout.splitlines()[-1] == "MinkowskiEngine 0.5.4 (CPU build): true"
    again = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "built earlier" in again.stdout
