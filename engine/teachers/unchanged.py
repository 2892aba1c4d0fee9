"""That a run which goes on learns from the very teachers that it began with."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from distilplace.common.errors import UserError
from distilplace.engine.teachers.sources import TeacherSource


class TeacherDigests:
    """What a checkpoint knows of the teachers: a hash of each one's weights, or of its stored outputs.

    Args:
        names: of the teachers, for messages.
        sources: as many; none where the run distils nothing.

    """

    def __init__(self, names: Sequence[str], sources: Sequence[TeacherSource]) -> None:
        self._names, self._sources = names, sources

    @cached_property
    def _digests(self) -> list[str]:
        return [source.digest() for source in self._sources]

    def state_dict(self) -> dict[str, Any]:
        """The hashes."""
        return {"digests": self._digests}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare with those of a checkpoint. Raises :class:`UserError` naming a teacher that is another."""
        for name, before, now in zip(self._names, state["digests"], self._digests, strict=False):
            if before != now:
                raise UserError(
                    f"teacher {name} is not the one that this run began with (its weights or stored outputs have "
                    "another hash): put those back, or choose another --exp_name to start over with the new ones"
                )
