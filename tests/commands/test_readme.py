"""What the README shows exists: make targets, recipes, modules, options, and upstream's commands as they are tested."""

import re
from importlib.util import find_spec

from distilplace.engine.options import EvaluateOptions, TrainOptions
from distilplace.engine.options.aliases import ALIASES
from tests.commands.test_readme_commands import BOREAS, OXFORD


def test_commands_and_files_of_the_readme_exist(root):
    text = (root / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", text)) <= targets
    assert all((root / name).is_file() for name in re.findall(r"recipes/\w+\.yaml", text) if "x.yaml" not in name)
    assert all(find_spec(name) for name in re.findall(r"python -m ([\w.]+)", text))
    known = {
        *TrainOptions.model_fields,
        *EvaluateOptions.model_fields,
        "config",
        "help",
        "no_query_crop",
        *(alias for aliases in ALIASES.values() for alias in aliases),
    }
    before, coming = text.split("\n## Coming from")
    table, after = coming.split("\n## ", 1)
    text = before + re.sub(r"^\| [^|]*\|", "|", table, flags=re.MULTILINE) + after  # their column has their flags
    without_tools = re.sub(r"python -m tools\.[^`\n]*", "", text)  # these have flags of their own
    assert set(re.findall(r"--([A-Za-z_0-9]+)", without_tools)) <= known
    assert all((root / name).exists() for name in re.findall(r"\]\(((?!http)[^)]+)\)", text))


def test_upstreams_commands_stand_in_the_readme_as_they_are_run_in_tests(root):
    text = (root / "README.md").read_text()
    assert f"python {OXFORD}\n" in text
    assert f"python {BOREAS}\n" in text


def test_no_file_names_a_registry_and_the_lock_pins_everything(root):
    lock = (root / "requirements.lock").read_text()
    assert "://" not in lock
    assert all("==" in line for line in lock.split())


def test_no_pickle_is_opened_unsafely(root):
    pattern = re.compile(r"pickle\.load\(|allow_pickle=True|weights_only=False|^\s*except:", flags=re.MULTILINE)
    sources = [path for path in root.glob("*/**/*.py") if path.relative_to(root).parts[0] not in (".venv", "tests")]
    assert len(sources) > 50
    assert [str(path) for path in sources if pattern.search(path.read_text())] == []
