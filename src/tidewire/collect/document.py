"""Reading a file people write: YAML without guesses, or JSON, and errors with file and line."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml

from tidewire.collect.config import kind_of
from tidewire.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: ``no`` and ``1:30`` and ``2024-01-01`` and ``000001`` stay text; a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"0|-?[1-9][0-9]*", "-0123456789"),
    ("float", r"-?(0|[1-9][0-9]*)\.[0-9]+([eE][-+]?[0-9]+)?", "-0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def read_document(path: Path, hint: str = "") -> dict[str, Any]:
    """Keys and values of a YAML or JSON file; `ConfigError` names file, line and what is wrong.

    ``hint``: what to do where there is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file." + (f" {hint}" if hint else "")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}.") from None
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader with fewer guesses
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_line_of(error)}: not YAML: {_problem_of(error)}.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values, found {kind_of(data)}.")
    return {str(key): value for key, value in cast("dict[Any, Any]", data).items()}


def _line_of(error: yaml.YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return f":{mark.line + 1}" if mark is not None else ""


def _problem_of(error: yaml.YAMLError) -> str:
    """What is wrong, without the text around it: that may hold a secret."""
    if isinstance(error, yaml.MarkedYAMLError):
        return ", ".join(part for part in (error.context, error.problem) if part)
    return "a character that is not allowed" if isinstance(error, yaml.reader.ReaderError) else type(error).__name__
