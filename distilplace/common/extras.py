"""What an installed package lacks, and how it is got: the base install has no torch."""

from importlib.util import find_spec

TRAINING = "torch"


def missing_extra(what: str) -> str | None:
    """One line for a user whose install lacks what ``what`` needs; None where all is there."""
    if find_spec(TRAINING) is None:
        return f"{what} needs PyTorch, which the base install leaves out: pip install 'distilplace[train]'"
    return None


def require_training(what: str) -> None:
    """Raise :class:`ImportError` with the remedy where ``what`` cannot work."""
    if (reason := missing_extra(what)) is not None:
        raise ImportError(reason, name=TRAINING)
