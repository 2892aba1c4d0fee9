"""What a run says of the machine, the code and the command."""

import json
import sys

from distilplace.engine.runs.environment import environment, told, training_facts
from distilplace.version import __version__


def test_the_environment_names_command_versions_and_commit(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--exp_name", "a b"])
    found = environment("cpu")
    lines = told(json.loads(json.dumps(found)))
    assert lines["command"] == "python train.py --exp_name 'a b'"
    assert lines["distilplace"] == __version__
    assert lines["python"] == sys.version.split()[0]
    assert {"torch", "commit", "device", "folder", "threads"} <= set(lines)
    assert told({**found, "commit": "c0ffee", "changed_files": 2})["commit"] == "c0ffee and changes in 2 files"
    assert told({**found, "commit": "c0ffee", "changed_files": 0})["commit"] == "c0ffee"


def test_weights_know_the_command_that_trained_them(tmp_path):
    assert training_facts(None) == training_facts(tmp_path) == {}
    (tmp_path / "env.json").write_text(json.dumps({"command": ["python", "train.py", "-x", "a b"], "commit": 40 * "c"}))
    assert training_facts(tmp_path) == {"trained by": f"python train.py -x 'a b' (commit {12 * 'c'})"}
    for damaged in ("", "[]", '{"commit": 3, "command": 4}'):
        (tmp_path / "env.json").write_text(damaged)
        assert training_facts(tmp_path) == {}
