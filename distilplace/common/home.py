"""Where the recipes lie, the folder that ``paths.yaml`` is looked for in, and how a command was called."""

import sys
from pathlib import Path

import distilplace

_PACKAGE = Path(distilplace.__file__).resolve().parent


def is_checkout() -> bool:
    """Does the package run from a clone of the repository, not installed?"""
    return not (_PACKAGE / "recipes").is_dir()


def home() -> Path:
    """The folder of ``train.py`` in a checkout, else the current one: ``paths.yaml`` and ``data/`` lie there."""
    return _PACKAGE.parent if is_checkout() else Path.cwd()


def recipe(name: str) -> Path:
    """The recipe ``name`` (without ``.yaml``) that comes with the package.

    Raises:
        FileNotFoundError: there is none of that name.

    """
    found = sorted(_recipes().rglob(f"{name}.yaml"))
    if not found:
        raise FileNotFoundError(f"no recipe {name} in {_recipes()}")
    return found[0]


def named_recipe(written: str) -> Path:
    """The file that ``--config`` names: a path, or the bare name of a recipe that comes with the package."""
    path = Path(written)
    if not path.exists() and path.parent in (Path("."), Path("recipes")):
        return next(iter(sorted(_recipes().rglob(f"{path.name.removesuffix('.yaml')}.yaml"))), path)
    return path


def program(module: str) -> str:
    """How help names the command that ``module`` is: ``python -m tools.demo``, or ``distilplace demo``."""
    return sys.argv[0] if sys.argv[0].startswith("distilplace ") else f"python -m {module}"


def _recipes() -> Path:
    return (_PACKAGE.parent if is_checkout() else _PACKAGE) / "recipes"
