"""``docker/run.sh`` against a ``docker`` that only notes what it is asked; the steps and their refusals."""

import itertools
import os
import subprocess
from pathlib import Path

import pytest

TOOLS = ("bash", "cat", "dirname", "env", "grep", "id", "mkdir", "realpath")


class Host:
    """A machine with a fake docker: ``calls`` are its command lines, in order, one argument a line."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in TOOLS:
            (self.bin / name).symlink_to(_which(name))

    def command(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def docker(self, image_exists: bool = True) -> None:
        record = f'printf "%s\\n" "$@" > "{self.folder}/call-$1"'
        self.command("docker", f'{record}\n[ "$1" != image ] || exit {0 if image_exists else 1}')

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(self.root / "docker" / "run.sh"), *arguments]
        variables = {"PATH": str(self.bin), "HOME": str(self.folder), **environment}
        return subprocess.run(
            command,
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def call(self, name: str) -> list[str]:
        path = self.folder / f"call-{name}"
        return path.read_text().splitlines() if path.exists() else []


def _which(name: str) -> str:
    return subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def host(tmp_path: Path, root: Path) -> Host:
    made = Host(tmp_path, root)
    made.docker()
    return made


def pairs(call: list[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(call))


def test_a_command_runs_as_the_caller_with_data_logs_and_shared_memory(host) -> None:
    done = host.run("train.py", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    call = host.call("run")
    assert call[:2] == ["run", "--rm"]
    assert call[-4:] == ["distilplace:auto", "train.py", "--epochs", "3"]
    expected = [
        ("--user", f"{os.getuid()}:{os.getgid()}"),
        ("--volume", f"{host.folder}/data:/data"),
        ("--volume", f"{host.folder}/logs:/logs"),
        ("--volume", f"{host.root}/teacher_weights:/opt/distilplace/teacher_weights:ro"),
        ("--shm-size", "8g"),
    ]
    assert set(expected) <= set(pairs(call))
    assert "--gpus" not in call
    assert "--tty" not in call
    assert (host.folder / "data").is_dir()
    assert (host.folder / "logs").is_dir()
    assert host.call("build") == []


def test_gpus_folders_and_settings_are_handed_on(host) -> None:
    host.command("nvidia-smi", "echo 'GPU 0: NVIDIA H100'")
    settings = {"DATA": "elsewhere", "LOGS": "out", "SHM_SIZE": "2g", "DISTILPLACE_DATASET": "boreas"}
    assert host.run("evaluate.py", SPARSE_BACKEND="triton", **settings).returncode == 0
    call = pairs(host.call("run"))
    assert ("--gpus", "all") in call
    assert ("--volume", f"{host.folder}/elsewhere:/data") in call
    assert ("--volume", f"{host.folder}/out:/logs") in call
    assert ("--shm-size", "2g") in call
    assert ("--env", "DISTILPLACE_DATASET") in call
    assert ("distilplace:triton", "evaluate.py") in call
    assert host.run("evaluate.py", GPUS="none").returncode == 0
    assert "--gpus" not in host.call("run")
    assert host.run("evaluate.py", GPUS="device=1").returncode == 0
    assert ("--gpus", "device=1") in pairs(host.call("run"))


def test_no_gpu_is_asked_for_where_the_driver_sees_none(host) -> None:
    for answer in ("echo 'NVIDIA-SMI has failed'; exit 9", "echo 'No devices were found'"):
        host.command("nvidia-smi", answer)
        assert host.run("train.py").returncode == 0
        assert "--gpus" not in host.call("run")


@pytest.mark.parametrize(
    ("environment", "image", "arguments"),
    [
        ({}, "distilplace:auto", ["SPARSE_BACKEND=auto"]),
        ({"SPARSE_BACKEND": "minkowski"}, "distilplace:minkowski-cpu", ["SPARSE_BACKEND=minkowski"]),
        (
            {"SPARSE_BACKEND": "minkowski", "MINKOWSKI_BUILD": "cuda"},
            "distilplace:minkowski-cuda",
            ["MINKOWSKI_BUILD=cuda", "BUILD_BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04", "BASE=ubuntu:24.04"],
        ),
        ({"STUDENT": "1", "TORCH_INDEX": "some/index"}, "distilplace-student", ["TORCH_INDEX=some/index"]),
        ({"IMAGE": "mine:1"}, "mine:1", ["SPARSE_BACKEND=auto"]),
    ],
)
def test_a_missing_image_is_built_first(host, root, environment, image, arguments) -> None:
    host.docker(image_exists=False)
    assert host.run("train.py", **environment).returncode == 0
    build = host.call("build")
    assert build[-1] == str(root)
    file = "student.Dockerfile" if "STUDENT" in environment else "Dockerfile"
    expected = [("--tag", image), ("--file", f"{root}/docker/{file}"), *(("--build-arg", each) for each in arguments)]
    assert set(expected) <= set(pairs(build))
    text = (root / "docker" / file).read_text()
    assert all(f"ARG {each.split('=')[0]}" in text for flag, each in pairs(build) if flag == "--build-arg")
    assert (image, "train.py") in pairs(host.call("run"))


def test_a_failed_build_runs_nothing(host) -> None:
    host.command("docker", f'[ "$1" = version ] || echo "$1" >> {host.folder}/order; [ "$1" = version ]')
    assert host.run("train.py").returncode != 0
    assert (host.folder / "order").read_text().split() == ["image", "build"]


def test_the_selftest_is_the_last_step(host, root) -> None:
    assert host.run("selftest").returncode == 0
    call = host.call("run")
    position = call.index("--entrypoint")
    assert call[position + 1 :] == ["docker/steps/40-selftest.sh", "distilplace:auto", "/logs/selftest"]
    assert os.access(root / call[position + 1], os.X_OK)


@pytest.mark.parametrize(
    ("arguments", "environment", "line"),
    [
        ([], {}, "what shall run?"),
        (["train.py"], {"SPARSE_BACKEND": "cuda"}, "SPARSE_BACKEND=cuda: it is auto, torch"),
        (["selftest"], {"STUDENT": "1"}, "the self-test trains a teacher"),
    ],
)
def test_mistakes_are_one_line(host, arguments, environment, line) -> None:
    done = host.run(*arguments, **environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert line in done.stderr
    assert host.call("run") == host.call("build") == []


def test_docker_that_is_absent_or_asleep_is_said(host) -> None:
    host.command("docker", "echo Cannot connect >&2; exit 1")
    assert "its daemon does not answer" in host.run("train.py").stderr
    (host.bin / "docker").unlink()
    done = host.run("train.py")
    assert done.returncode == 2
    assert done.stderr.startswith("error: docker is not installed")


def step(root: Path, name: str, path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(root / "docker" / "steps" / name), *arguments]
    variables = {"PATH": str(path), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("present", [True, False])
def test_system_packages_are_only_installed_when_missing_and_as_root(host, root, present) -> None:
    host.command("dpkg-query", f"echo {'installed' if present else 'config-files'}")
    host.command("python3", "exit 0")
    host.command("id", "echo 1000")
    done = step(root, "10-system.sh", host.bin, SPARSE_BACKEND="minkowski")
    if present:
        assert (done.returncode, done.stdout) == (0, "system packages: all there\n")
        return
    assert done.returncode == 2
    assert "error: needs root: sudo apt-get install libgl1 libegl1 libx11-6 libusb-1.0-0" in done.stderr
    assert "libopenblas0 g++ libopenblas-dev\n" in done.stderr
    host.command("id", "echo 0")
    host.command("apt-get", f'echo "$@" >> {host.folder}/apt')
    assert step(root, "10-system.sh", host.bin, "run", SPARSE_BACKEND="torch").returncode == 0
    update, install = (host.folder / "apt").read_text().splitlines()
    assert update == "update"
    assert install.split()[:3] == ["install", "--yes", "--no-install-recommends"]
    assert {"libgl1", "libgomp1"} <= set(install.split())
    assert not {"gcc", "g++", "libopenblas-dev", "python3"} & set(install.split())
    host.command("python3", "exit 1")
    assert step(root, "10-system.sh", host.bin, "build", SPARSE_BACKEND="triton").returncode == 0
    assert (host.folder / "apt").read_text().splitlines()[-1].split()[3:] == ["python3", "python3-venv", "python3-dev"]


def test_an_unknown_engine_is_refused_by_the_engine_step(host, root) -> None:
    done = step(root, "30-engine.sh", host.bin, SPARSE_BACKEND="spconf")
    assert done.returncode == 2
    assert "SPARSE_BACKEND=spconf: it is auto, torch, triton, spconv or minkowski" in done.stderr


def test_the_engine_step_installs_what_was_chosen(host, root) -> None:
    venv = host.folder / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").write_text(f'#!/bin/bash\necho "$@" >> {host.folder}/python\n')
    (venv / "python").chmod(0o755)
    known = {"VENV": str(venv.parent)}
    for engine in ("auto", "torch", "triton"):
        assert step(root, "30-engine.sh", host.bin, SPARSE_BACKEND=engine, **known).returncode == 0
    assert not (host.folder / "python").exists()
    assert step(root, "30-engine.sh", host.bin, SPARSE_BACKEND="minkowski", **known).returncode == 0
    known_kind = known | {"MINKOWSKI_BUILD": "cuda"}
    assert step(root, "30-engine.sh", host.bin, SPARSE_BACKEND="minkowski", **known_kind).returncode == 0
    assert step(root, "30-engine.sh", host.bin, SPARSE_BACKEND="spconv", **known).returncode == 0
    asked = (host.folder / "python").read_text().splitlines()
    assert asked[:2] == ["-m tools.install_minkowski", "-m tools.install_minkowski --cuda"]
    assert asked[2].endswith("--constraint requirements.lock spconv-triton==1.0.0")
