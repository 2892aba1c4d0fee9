"""YAML as it is read here: mappings of options, each named once, written out, not nested deeper than anyone needs."""

from pathlib import Path
from typing import Any

import yaml

from distilplace.common.errors import UserError

DEEPEST = 10
LARGEST = 1_000_000  # bytes


def read_yaml(path: Path, remedy: str = "") -> dict[str, Any]:
    """A YAML mapping with every scalar left as text; empty for an empty file.

    Raises:
        UserError: no such file, or one that is no plain mapping: an option twice, anchors and aliases, deep nesting.

    """
    return _read(path, _TextLoader, remedy)


def read_typed_yaml(path: Path, remedy: str = "") -> dict[str, Any]:
    """As :func:`read_yaml`, with numbers, truth values and null as such."""
    return _read(path, _TypedLoader, remedy)


def _read(path: Path, loader: Any, remedy: str) -> dict[str, Any]:
    end = f"; {remedy}" if remedy else ""
    try:
        if not path.is_file():
            path.stat()
            raise UserError(f"{path} is not a file{end or '; check the path'}")
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has more than {LARGEST // 1000} kB: no file of options{end}")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}{end or '; check the path'}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {_reason(error)}{end}") from None
    if content in (None, ""):
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold 'option: value' lines{end}")
    return content


def _reason(error: Exception) -> str:
    """The problem and the line, without the library's excerpt of the file."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and mark is not None:
        hint = "; indent with spaces, not tabs" if "'\\t'" in error.problem else ""
        return f"line {mark.line + 1}: {error.problem}{hint}"
    return str(error)


class _Strict(yaml.composer.Composer, yaml.constructor.BaseConstructor):
    """Refuses what a file of options does not need and what hides mistakes."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # type: ignore[attr-defined]
            raise _refused("aliases are not read here: write the value out", self.peek_event())  # type: ignore[attr-defined]
        self._depth += 1
        try:
            if self._depth > DEEPEST:
                raise _refused(f"nested deeper than {DEEPEST} levels", self.peek_event())  # type: ignore[attr-defined]
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key.value, str) else True:
                name = key.value if isinstance(key.value, str) else "a list or mapping"
                problem = "twice: keep one of them" if isinstance(key.value, str) else "as a name"
                raise _refused(f"{name} {problem}", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _TextLoader(_Strict, yaml.BaseLoader):
    """Scalars stay text."""


class _TypedLoader(_Strict, yaml.SafeLoader):
    """Scalars become what YAML takes them for."""


def _refused(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)
