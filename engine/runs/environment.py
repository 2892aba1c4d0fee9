"""With what something was computed: the command, versions, the commit, the machine (``env.json`` of a run)."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from distilplace.version import __version__

NAME = "env.json"
PACKAGES = ("torch", "torchvision", "numpy", "pytorch-metric-learning", "lightning-fabric", "open3d", "safetensors")


def environment(device: str) -> dict[str, Any]:
    """What this process runs with, ready for ``json.dumps``; ``command`` is the whole command line, word by word."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "command": sys.orig_argv,
        "folder": str(Path.cwd()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "distilplace": __version__,
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "changed_files": len(_git("status", "--porcelain", "--untracked-files=no").splitlines()),
        "versions": versions,
    }


def told(found: Mapping[str, Any]) -> dict[str, str]:
    """An environment as lines of a report: the command as it would be typed, every version for itself."""
    lines = {"command": shlex.join(map(str, found.get("command", [])))}
    lines |= {name: str(value) for name, value in found.items() if name not in ("command", "versions", "changed_files")}
    if changed := found.get("changed_files"):
        lines["commit"] += f" and changes in {changed} file{'' if changed == 1 else 's'}"
    versions: Mapping[str, str] = found.get("versions", {})
    return lines | {name: version for name, version in versions.items() if version != "absent"}


def training_facts(run: Path | None) -> dict[str, str]:
    """How the weights of a run were made, in a line, as facts of a report; empty where nothing tells."""
    if run is None:
        return {}
    with suppress(OSError, ValueError, AttributeError, TypeError):
        found = json.loads((run / NAME).read_text())
        return {"trained by": f"{shlex.join(map(str, found['command']))} (commit {found['commit'][:12]})"}
    return {}


def _git(*words: str) -> str:
    """What git says of this code; nothing outside a checkout, or where git is not installed (an image)."""
    command = ["git", *words]
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return answer.stdout.strip()
