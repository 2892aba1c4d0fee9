"""An option that a data set, network, loss or method takes under its own name has the default of the constructor."""

import inspect
from collections.abc import Iterator

from distilplace import datasets, losses, models
from distilplace.common.registry import Registry, parameters
from distilplace.engine.options import TrainOptions

DEFAULTS = {name: field.get_default(call_default_factory=True) for name, field in TrainOptions.model_fields.items()}
MEANT = {
    "pretrained": "a command starts from ImageNet's weights; Python downloads nothing unasked",
    "gem_p": "the option's None means each network's own",
    "seed": "one seed for the whole run",
}
REGISTRIES = (datasets.DATASETS, models._MODELS, losses._METHODS, losses._TASK_LOSSES)


def taken() -> Iterator[tuple[str, str, object]]:
    """Name of an owner, of its setting, and the setting's default."""
    for registry in REGISTRIES:
        for name in registry:
            accepted = Registry.settings(registry, name)
            for key, parameter in parameters(registry.load(name)).items():
                if key in accepted and parameter.default is not inspect.Parameter.empty:
                    yield name, key, parameter.default


def test_options_have_the_defaults_of_what_they_set():
    compared, different = 0, set()
    for owner, key, default in taken():
        if key in DEFAULTS and key not in MEANT:
            compared += 1
            if plain(DEFAULTS[key]) != plain(default):
                different.add((owner, key, str(DEFAULTS[key]), str(default)))
    assert compared > 100
    assert not different


def plain(value: object) -> object:
    """A default as both write it: a list joined by "_" is one of numbers, and of one value that value."""
    if value in ([], {}):
        return None  # nothing was said
    if isinstance(value, str) and value.replace("_", "").replace(".", "").isdigit():
        value = [float(part) for part in value.split("_")]
    if isinstance(value, list | tuple):
        return [plain(each) for each in value] if len(value) != 1 else plain(value[0])
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
