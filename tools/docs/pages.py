"""Reference pages made from the code itself, so that they cannot be out of date."""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel

from distilplace import cli
from distilplace.common.registry import imported
from distilplace.datasets import DATASETS, dataset_settings
from distilplace.engine import options
from distilplace.engine.options.aliases import ALIASES
from distilplace.engine.options.flags import GROUPS
from distilplace.losses import (
    distiller_reads,
    implementation,
    list_distillers,
    list_task_losses,
    task_loss_settings,
)
from distilplace.losses.terms import TERMS, load_term
from distilplace.models import list_models, model_class, model_requires, model_settings
from distilplace.tools.docs.markdown import code, docstring, rows, summary

API = (
    "distilplace:load",
    "distilplace.runtime:Student",
    "distilplace.runtime:PlaceMap",
    "distilplace.runtime:open_map",
    "distilplace.runtime:Localiser",
    "distilplace.models:create_model",
    "distilplace.models:list_models",
    "distilplace.models:model_settings",
    "distilplace.models.checkpoints:load_weights",
    "distilplace.models.checkpoints:save_weights",
    "distilplace.datasets:create_dataset",
    "distilplace.datasets:list_datasets",
    "distilplace.losses:create_distiller",
    "distilplace.losses:list_distillers",
    "distilplace.losses:create_task_loss",
    "distilplace.losses.distiller:Distiller",
    "distilplace.datasets.base:PlaceData",
    "distilplace.evaluation.retrieval.runs:evaluate_runs",
    "distilplace.models.sparse:SparseTensor",
    "distilplace.models.sparse:quantize",
)
"""The public names, as module:name."""


def pages() -> dict[str, str]:
    """Path below the documentation folder -> Markdown."""
    made: dict[str, Callable[[], str]] = {
        "options": option_page,
        "losses": loss_page,
        "models": model_page,
        "data-sets": dataset_page,
        "commands": command_page,
        "api": api_page,
    }
    return {f"reference/{name}.md": make() for name, make in made.items()}


def option_page() -> str:
    """Every option of train.py and evaluate.py."""
    text = ["# Options", "", "Options of `train.py` and `evaluate.py`, group by group. `--help` shows the same."]
    text += ["Later beats earlier: defaults, `paths.yaml`, environment, recipe, flags.", ""]
    own = {name: field for name, field in options.EvaluateOptions.model_fields.items() if _is_new(name)}
    for title, group in GROUPS.items():
        text += [f"## {title.capitalize()}", "", *_option_rows(group.model_fields), ""]
    return "\n".join([*text, "## evaluate.py alone", "", *_option_rows(own), ""])


def _is_new(name: str) -> bool:
    return not any(name in group.model_fields for group in GROUPS.values())


def _option_rows(fields: dict[str, Any]) -> list[str]:
    def default(field: Any) -> str:
        return "required" if field.is_required() else code(field.get_default(call_default_factory=True))

    return rows(
        ("option", "default", "meaning"),
        (
            (", ".join(code(f"--{each}") for each in (name, *ALIASES.get(name, ()))), default(field), field.description)
            for name, field in fields.items()
        ),
    )


def loss_page() -> str:
    """Methods, terms and task losses."""
    text = ["# Losses", "", "What each method does: [Methods](../guide/methods.md).", "", "## Distillation methods", ""]
    own = [name for name in list_distillers() if name not in TERMS or implementation(name) is not load_term(name)]
    methods = ((code(name), summary(implementation(name)), _names(distiller_reads(name))) for name in own)
    text += [*rows(("`--distil_method`", "what it is", "settings it reads"), methods), ""]
    text += ["## Terms of `--kd`", "", "Each is also a method: that term alone.", ""]
    terms = ((code(name), summary(load_term(name)), kind.reads) for name, kind in TERMS.items())
    text += [*rows(("name", "what it is", "reads"), terms), "", "## Task losses", ""]
    losses = (
        (code(name), summary(implementation(name)), _names(task_loss_settings(name))) for name in list_task_losses()
    )
    return "\n".join([*text, *rows(("`--loss`", "what it is", "settings"), losses), ""])


def model_page() -> str:
    """Every network by name."""
    text = ["# Models", "", "Names of `--model` and `--student_model`; and `timm:<name>` for any network of timm.", ""]
    text += ["`python -m tools.list_models NAME` tells sizes and checkpoint keys.", ""]
    lines = (
        (code(name), summary(model_class(name)), _names(model_requires(name)), _names(model_settings(name)))
        for name in list_models()
    )
    return "\n".join([*text, *rows(("name", "what it is", "reads", "settings"), lines), ""])


def dataset_page() -> str:
    """Every data set by name."""
    text = ["# Data sets", "", "Names of `--dataset`. What the folders hold: [Data sets](../guide/data-sets.md).", ""]
    lines = ((code(name), summary(DATASETS.load(name)), _names(dataset_settings(name))) for name in DATASETS)
    return "\n".join([*text, *rows(("name", "what it is", "settings"), lines), ""])


def command_page() -> str:
    """Every sub-command of the console script."""
    text = ["# Commands", "", "`distilplace COMMAND --help` tells the options. In a checkout without installing:"]
    text += ["`python train.py`, `python evaluate.py`, `python -m tools.NAME`.", ""]
    lines = ((code(f"distilplace {name}"), command.does) for name, command in cli.COMMANDS.items())
    return "\n".join([*text, *rows(("command", "what it does"), lines), ""])


def api_page() -> str:
    """The public functions and classes with their docstrings."""
    text = ["# Python API", ""]
    for target in API:
        found, (module, name) = imported(target), target.split(":")
        shown = "" if isinstance(found, type) and issubclass(found, BaseModel) else _signature(found)
        text += [f"## {name}", "", "```python", f"from {module} import {name}", f"{name}{shown}", "```", ""]
        text += [docstring(found), ""]
        if module.startswith("distilplace.runtime"):
            for method, described in _methods(found).items():
                text += [f"### {name}.{method}", "", "```python", f"{method}{_signature(described)}", "```", ""]
                text += [docstring(described), ""]
    return "\n".join(text)


def _signature(found: Any) -> str:
    shown = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(inspect.signature(found)))
    return re.sub(r"^\(self(, )?", "(", shown)


def _methods(found: Any) -> dict[str, Any]:
    """Public methods of a class in the order in which its bases and it name them, each as it is first described."""
    methods: dict[str, Any] = {}
    for owner in reversed(inspect.getmro(found) if isinstance(found, type) else ()):
        for name, value in vars(owner).items():
            if inspect.isfunction(value) and not name.startswith("_") and value.__doc__:
                methods.setdefault(name, value)
    return methods


def _names(names: Iterable[str]) -> str:
    return ", ".join(code(name) for name in names)
