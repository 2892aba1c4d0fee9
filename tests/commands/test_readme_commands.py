"""DistilVPR's two README commands, as they stand, as subprocesses; and students where no cloud file is left."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distilplace import train
from distilplace.models import create_model
from tests.goldens import load_golden

OXFORD_TEACHER = (
    "teacher_weights/oxford__T:minklocmmcat__resnet18__img256__pc128__32_64_64__1_1_1__1__allstgF__b128__trainteacher"
    "/models/r1_best_ep57_97.24.pth"
)
BOREAS_TEACHER = (
    "teacher_weights/boreas__T:minklocmmcat__resnet18__img256__pc128__32_64_64__1_1_1__1__allstgF__b128__trainteacher"
    "/models/r1_best_ep48_93.05.pth"
)
WEIGHTS = " ".join(f"--crosslogit{term}loss_weight_st2ss 0.1" for term in ("dist", "sim", "geodist"))
OXFORD = f"train.py --model minklocmmcat --teacher_weights_path {OXFORD_TEACHER} --rkdgloss_weight 10 {WEIGHTS}"
BOREAS = (
    f"train.py --model minklocmmcat --teacher_weights_path {BOREAS_TEACHER} --tryid 0 --rkdgloss_weight 1 {WEIGHTS}"
)


def upstream_state(key_lists) -> dict[str, torch.Tensor]:
    """A teacher's state under upstream's key names, its unused layers included."""
    torch.manual_seed(3)
    state = dict(create_model("minklocmmcat", pretrained="none").state_dict())
    for name, shape, _ in key_lists:
        state.setdefault(name, torch.zeros(shape))
    return state


def run_as_it_stands(command: str, teacher: str, data, name: str, root: Path, folder: Path):
    """Run in a folder that holds train.py (a link), the teacher's weights under their path, and paths.yaml's values."""
    weights = folder / teacher
    weights.parent.mkdir(parents=True)
    keys = load_golden("state_dict_keys.json")["teacher_minklocmmcat_resnet18_256_128"]
    torch.save(upstream_state(keys), weights)
    (folder / "train.py").symlink_to(root / "train.py")
    lines = [f"dataset: {name}", f"dataset_folder: {data.folder}", f"image_path: {data.images}", "pretrained: none"]
    (folder / "mine.yaml").write_text("\n".join([*lines, "epochs: 2", "train_batch_size: 16"]))
    environment = {**os.environ, "DISTILPLACE_PATHS": str(folder / "mine.yaml"), "OMP_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, *command.split()], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["oxford", "boreas"])
def test_upstreams_readme_command_runs_as_it_stands(name, request, root, tmp_path):
    command, teacher = (OXFORD, OXFORD_TEACHER) if name == "oxford" else (BOREAS, BOREAS_TEACHER)
    done = run_as_it_stands(command, teacher, request.getfixturevalue(name), name, root, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "student resnet18 (ours_rkdg)" in done.stdout
    (run,) = (path for path in (tmp_path / "logs").iterdir() if path.name != "teacher_stores")
    assert run.name.startswith(f"0{name}__T-minklocmmcat__S-resnet18_384__b16__ours_rkdg__")
    assert (run / "models" / "best.safetensors").is_file()
    logged = (run / "metrics.jsonl").read_text()
    terms = ("rkdg", "crosslogitdist_st2ss", "crosslogitsim_st2ss", "crosslogitgeodist_st2ss")
    assert all(f"train/loss_{term}" in logged for term in terms)


CLOUDLESS = """
import sys, train, evaluate
arguments = sys.argv[1:]
weights = arguments[arguments.index("--logdir") + 1] + "/s/models/best.safetensors"
code = train.main(arguments) or evaluate.main(["--weights", weights])
loaded = [name for name in sys.modules if name.split(".")[0] in ("open3d", "MinkowskiEngine", "libusb_package")]
loaded += [name for name in sys.modules if name.startswith(("distilplace.models.sparse", "distilplace.models.cloud"))]
print("LOADED", loaded)
sys.exit(code)
"""


@pytest.mark.slow
def test_a_student_on_a_store_opens_no_cloud_and_loads_no_engine(oxford, teacher_run, tmp_path, root):
    weights = str(teacher_run / "models" / "best.safetensors")
    taught = ["--teacher_weights_path", weights, "--rkdgloss_weight", "1"]
    assert train.main([*oxford.flags, *taught, "--logdir", str(tmp_path), "--exp_name", "first"]) == 0
    bare, store = tmp_path / "bare", next((tmp_path / "teacher_stores").iterdir())
    shutil.copytree(oxford.folder, bare)
    for cloud in bare.rglob("*.bin"):
        cloud.unlink()
    flags = ["--teacher_store", str(store), "--logdir", str(tmp_path), "--exp_name", "s"]
    flags = [*oxford.flags, *taught, "--dataset_folder", str(bare), *flags]
    done = subprocess.run(
        [sys.executable, "-c", CLOUDLESS, *flags], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stdout
