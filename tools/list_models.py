"""``python -m tools.list_models [NAME ...]``: all networks, or what one is and which checkpoint keys it expects."""

import argparse
import sys
from collections.abc import Sequence

import torch

from distilplace.common.home import program
from distilplace.engine.program import exit_code
from distilplace.models import create_model, list_models, model_settings
from distilplace.models.checkpoints import expected_keys


def described(name: str) -> list[str]:
    """Settings, sizes and checkpoint keys of a network, as lines. It is built without memory for its weights."""
    settings = {"pretrained": "none"} if "pretrained" in model_settings(name) else {}
    with torch.device("meta"):
        network = create_model(name, **settings)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    reads = ", ".join(network.requires)
    keys = expected_keys(network)
    return [
        f"{name}: reads {reads}; embedding of {network.output_dim} numbers; {parameters:,} parameters",
        f"settings: {', '.join(model_settings(name)) or 'none'}",
        f"checkpoint keys ({len(keys)}):",
        *(f"  {key}" for key in keys),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 for an unknown network."""
    parser = argparse.ArgumentParser(program("tools.list_models"), description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks to describe; none: list all")
    chosen = parser.parse_args(arguments).names

    def work() -> None:
        lines = [line for name in chosen for line in described(name)] or [*list_models(), "timm:<any network of timm>"]
        print("\n".join(lines))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
