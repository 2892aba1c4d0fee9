"""What README and docs/ show exists: make targets, recipes, modules, options, links; their Python runs."""

import re
from importlib.util import find_spec

import pytest
import torch
import yaml

import distilplace
from distilplace.engine.options import EvaluateOptions, TrainOptions
from distilplace.engine.options.aliases import ALIASES
from distilplace.tools.docs.pages import pages as reference_pages
from tests.commands.test_readme_commands import BOREAS, OXFORD


@pytest.fixture(scope="module")
def pages(root) -> dict[str, str]:
    """README and written documentation, by path."""
    files = [root / "README.md", root / "CONTRIBUTING.md", root / "recipes" / "README.md", *root.glob("docs/**/*.md")]
    return {str(path.relative_to(root)): path.read_text() for path in files}


def test_commands_and_files_of_the_pages_exist(root, pages):
    text = "\n".join(pages.values())
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", re.sub(r"[a-z] make |it would make ", "", text))) <= targets
    named = re.findall(r"recipes/[\w/]+\.yaml", text)
    assert len(named) > 20
    assert all((root / name).is_file() for name in named if "x.yaml" not in name)
    assert all(find_spec(name) for name in re.findall(r"python -m ([\w.]+\w)", text))


def test_options_of_the_pages_exist(root, pages):
    tools = "\n".join(path.read_text() for path in root.glob("tools/**/*.py"))
    known = {
        *TrainOptions.model_fields,
        *EvaluateOptions.model_fields,
        "config",
        "help",
        "no_query_crop",
        *(alias for aliases in ALIASES.values() for alias in aliases),
    }
    theirs = re.sub(r"^\| [^|]*\|", "|", pages["docs/migration.md"], flags=re.MULTILINE)  # that column has their flags
    others = {"--strict", "--KLSC", "--recursive", "--nproc_per_node", "--max"}  # of mkdocs, SCKD, git, torchrun
    text = "\n".join({**pages, "docs/migration.md": theirs}.values())
    without_tools = re.sub(
        r"python (-m tools\.|main\.py)[^`\n]*|distilplace \w+ --help", "", text
    )  # these have their own
    found = set(re.findall(r"--[A-Za-z]\w*", without_tools)) - others
    assert len(found) > 60
    assert found <= {f"--{name}" for name in known} | {*re.findall(r'"(--[a-z]\w*)"', tools)}


def test_links_of_the_pages_resolve(root, pages):
    made = reference_pages()
    for page, text in pages.items():
        for link in re.findall(r"\]\(((?!http)[^)]+)\)", text):
            name, _, anchor = link.partition("#")
            target = (root / page).parent.joinpath(name).resolve() if name else root / page
            generated = made.get(str(target.relative_to(root / "docs"))) if target.is_relative_to(root / "docs") else ""
            assert target.exists() or generated, f"{page}: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", generated or target.read_text(), flags=re.MULTILINE)
                assert anchor in {re.sub(r"[^\w]+", "-", title.lower()).strip("-") for title in titles}, (
                    f"{page}: {link}"
                )


def test_every_written_page_is_in_the_navigation_and_every_generated_one(root, pages):
    named = set(re.findall(r"[\w/-]+\.md", (root / "mkdocs.yml").read_text()))
    written = {page.removeprefix("docs/") for page in pages if page.startswith("docs/")}
    assert named == written | set(reference_pages())


def test_the_readme_is_short_and_its_pictures_small(root, pages):
    assert len(pages["README.md"].splitlines()) <= 120
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", pages["README.md"]):
        assert (root / name).stat().st_size < 300_000


def test_no_page_names_documents_that_a_user_does_not_have(root):
    pattern = re.compile(r"\bshared/|spec-methods|spec-datasets|DESIGN\.md")
    found = [path for kind in ("py", "md", "yaml", "yml") for path in root.rglob(f"*.{kind}")]
    others = {".venv", "tests", "site", ".mypy_namespace"}
    own = [path for path in found if path.relative_to(root).parts[0] not in others]
    assert len(own) > 200
    assert [str(path) for path in own if pattern.search(path.read_text())] == []


def test_upstreams_commands_stand_in_the_tutorial_as_they_are_run_in_tests(pages):
    assert f"python {OXFORD}\n" in pages["docs/tutorials/distilvpr-oxford.md"]
    assert f"python {BOREAS}\n" in pages["docs/tutorials/distilvpr-oxford.md"]


def test_python_of_the_tutorial_is_a_method(pages):
    (block,) = re.findall(r"```python\n(.*?)```", pages["docs/tutorials/add-a-method.md"], flags=re.DOTALL)
    names: dict = {}
    exec(block, names)
    student, teacher = torch.rand(4, 8, requires_grad=True), torch.rand(4, 16, requires_grad=True)
    terms = names["Fancy"](2.0)({"embedding": student}, [{"embedding": teacher}], {})
    terms["fancy"].backward()
    assert terms["fancy"].item() == pytest.approx(2 * names["fancy"](student, teacher).item(), rel=1e-5)
    assert student.grad is not None
    assert teacher.grad is None


def test_the_citation_is_that_of_this_version(root, pages):
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    assert cited["version"] == distilplace.__version__
    assert f"version = {{{distilplace.__version__}}}" in pages["README.md"]
    assert cited["title"] in pages["README.md"]


def test_no_file_names_a_registry_and_the_lock_pins_everything(root):
    lock = (root / "requirements.lock").read_text()
    assert "://" not in lock
    assert all("==" in line for line in lock.split())


def test_no_pickle_is_opened_unsafely(root):
    pattern = re.compile(r"pickle\.load\(|allow_pickle=True|weights_only=False|^\s*except:", flags=re.MULTILINE)
    sources = [path for path in root.glob("*/**/*.py") if path.relative_to(root).parts[0] not in (".venv", "tests")]
    assert len(sources) > 50
    assert [str(path) for path in sources if pattern.search(path.read_text())] == []
