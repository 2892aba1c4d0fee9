"""The shape of the source tree: which module may import which, and how large files and folders may grow.

Every import counts, wherever it stands: in a function, under TYPE_CHECKING, relative, or as "module:Name" in a table.
"""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "distilplace"
ROOMS = ("datasets", "models", "losses", "engine", "evaluation")
ENTRIES = ("tools", "train", "evaluate")
OURS = (*ROOMS, *ENTRIES, "common", "demoworld", "runtime")
TABLE_ENTRY = re.compile(r'"(distilplace(?:\.\w+)+):(\w+)"')  # what registries load when asked for
BARE = re.compile(rf"^[ \t]*(?:import|from)[ \t]+((?:{'|'.join(OURS)})\b[\w.]*)", re.MULTILINE)
LONGEST_FILE, FULLEST_FOLDER = 350, 20
# Who must not import whom. The first four rows are the rooms' arrows, the fifth is everybody below them.
FORBIDDEN = {
    "datasets": ("models", "losses", "engine", "evaluation", *ENTRIES),
    "models": ("datasets", "losses", "engine", "evaluation", *ENTRIES),
    "losses": ("datasets", "models", "engine", "evaluation", *ENTRIES),
    "evaluation": ("models", "losses", "engine", *ENTRIES),
    "engine": ENTRIES,
    "common": (*ROOMS, *ENTRIES, "demoworld", "runtime"),
    "demoworld": (*ROOMS, *ENTRIES, "runtime"),
    "runtime": (*ROOMS, *ENTRIES, "demoworld"),
}


@lru_cache(maxsize=1)
def files() -> tuple[str, ...]:
    """Paths of the repository's files; skips where git cannot tell."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return tuple(sorted({each for each in listed.stdout.splitlines() if (ROOT / each).is_file()}))


def module_name(path: str) -> str:
    """``models/sparse/__init__.py`` -> ``distilplace.models.sparse``."""
    parts = PurePosixPath(path).with_suffix("").parts
    parts = parts if parts[0] == PACKAGE else (PACKAGE, *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@lru_cache(maxsize=1)
def product() -> dict[str, str]:
    """Text of every module of the product by its name; ``NAME.__init__`` for a package's own file."""
    texts = {}
    for path in files():
        if path.endswith(".py") and not path.startswith("tests/"):
            package = path.endswith("__init__.py")
            texts[module_name(path) + ".__init__" * package] = (ROOT / path).read_text()
    return texts


def imported(name: str, text: str) -> Iterator[tuple[str, str]]:
    """What a module's text imports, anywhere in it: (``a.b``, "") or (``a.b``, ``c``) of ``from a.b import c``."""
    yield from ((source, member) for source, member in TABLE_ENTRY.findall(text) if source != name)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((each.name, "") for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".")[: -node.level] if node.level else []
            source = ".".join([*parents, *filter(None, [node.module])])
            yield from ((source, each.name) for each in node.names)


def arrows(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> modules that it imports.

    ``from a import b`` is an import of the module ``a.b`` where there is one, else of ``a``. It runs the ``__init__``
    of every package above ``a.b`` that the importing module does not lie in itself.
    """
    found: dict[str, set[str]] = {name: set() for name in texts}
    for name, text in texts.items():
        for source, member in imported(name, text):
            full = f"{source}.{member}" if member else source
            target = full if full in texts or f"{full}.__init__" in texts else source
            parts = target.split(".")
            above = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
            found[name] |= {each for each in [target] if each in texts}
            inits = [f"{each}.__init__" for each in above if each == target or not name.startswith(f"{each}.")]
            found[name] |= {each for each in inits if each in texts}
        found[name].discard(name)
    return found


@lru_cache(maxsize=1)
def product_arrows() -> dict[str, set[str]]:
    """:func:`arrows` of the product."""
    return arrows(product())


def circle(found: Mapping[str, set[str]]) -> str:
    """One circle of imports as ``a -> b -> a``, or nothing."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


def forbidden(found: Mapping[str, set[str]]) -> list[str]:
    """Imports against :data:`FORBIDDEN`, as ``importer -> imported``."""
    return [
        f"{name} -> {target}"
        for name, targets in found.items()
        for target in sorted(targets)
        if name.split(".")[1] in FORBIDDEN and target.split(".")[1] in FORBIDDEN[name.split(".")[1]]
    ]


def bare(texts: Mapping[str, str]) -> list[str]:
    """Imports of a room without the package's name, as ``importer: what``."""
    suspects = (name for name, text in texts.items() if BARE.search(text))  # a docstring's line may look like one
    return [
        f"{name}: {source}"
        for name in suspects
        for source, _ in imported(name, texts[name])
        if source.partition(".")[0] in OURS
    ]


def test_no_module_imports_itself_by_way_of_others():
    assert circle(product_arrows()) == ""


def test_imports_go_one_way_between_the_rooms():
    assert forbidden(product_arrows()) == []


def test_rooms_are_imported_by_the_packages_name():
    tests = {path: (ROOT / path).read_text() for path in files() if path.startswith("tests/") and path.endswith(".py")}
    assert bare({**product(), **tests}) == []


def test_no_file_is_too_long_and_no_folder_too_full():
    lines = {path: len((ROOT / path).read_text().splitlines()) for path in files() if path.endswith(".py")}
    assert {path: count for path, count in lines.items() if count > LONGEST_FILE} == {}
    folders = Counter(str(PurePosixPath(path).parent) for path in files())
    assert {folder: count for folder, count in folders.items() if count > FULLEST_FOLDER} == {}


def test_every_room_was_looked_at():
    assert set(OURS) <= {name.split(".")[1] for name in product()}


@pytest.mark.parametrize(
    "fault",
    [
        "from distilplace.models.two import thing",
        "def later():\n    from distilplace.models import two",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import distilplace.models.two",
        "from . import two",
        "from .two import thing",
        'TABLE = {"two": "distilplace.models.two:Two"}',
    ],
)
def test_a_circle_is_found_wherever_it_hides(fault):
    texts = {"distilplace.models.one": "", "distilplace.models.two": "from distilplace.models.one import x"}
    assert circle(arrows(texts)) == ""
    found = circle(arrows({**texts, "distilplace.models.one": fault}))
    assert set(found.split(" -> ")) == {"distilplace.models.one", "distilplace.models.two"}


def test_a_package_that_imports_back_makes_a_circle_but_its_own_parts_do_not():
    package = {"distilplace.a.__init__": "from distilplace.a.b import x", "distilplace.a.b": "", "distilplace.a.c": ""}
    assert circle(arrows({**package, "distilplace.a.b": "from distilplace.a.c import x"})) == ""
    assert circle(arrows({**package, "distilplace.a.b": "from distilplace.a import x"}))
    outside = {**package, "distilplace.a.b": "import distilplace.d", "distilplace.d": "import distilplace.a.c"}
    assert circle(arrows(outside))


def test_forbidden_and_bare_imports_are_found():
    hidden = "def f():\n    from distilplace.models.two import x"
    texts = {"distilplace.losses.one": hidden, "distilplace.models.two": ""}
    assert forbidden(arrows(texts)) == ["distilplace.losses.one -> distilplace.models.two"]
    assert bare({"one": "import datasets\nif 1:\n    from models.two import x\nimport distilplace.models"}) == [
        "one: datasets",
        "one: models.two",
    ]
    assert bare({"one": "import datasets_of_others\nx = '''\nfrom models\n'''"}) == []
