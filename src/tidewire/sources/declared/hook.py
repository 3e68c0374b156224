"""Python beside a file, for what the file cannot say: other requests, other rows. Everything else stays the file's."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tidewire.collect import Request
from tidewire.errors import ConfigError, ParseError, TerminalError
from tidewire.sources.declared.select import Select

CLASS = "Source"
"""The name of the class."""

Makes = Callable[[Mapping[str, Any], Mapping[str, Any]], Request]
"""The file's own request, of names and of more parameters."""


class DeclaredSource:
    """Base of the class ``Source`` in ``site.name.py`` beside ``site.name.yaml``, which says ``use: python``.

    One is made of it when the file is read. It keeps nothing between two calls: `rows` must give the same for the same
    document, now and in every replay.
    """

    def __init__(self, makes: Makes, select: Select) -> None:
        self._makes = makes
        self._select = select

    def request(self, names: Mapping[str, Any], **more: Any) -> Request:
        """The file's own request, with ``more`` parameters where its pages would be counted."""
        return self._makes(names, more)

    def requests(self, names: Mapping[str, Any]) -> Iterable[Request]:
        """What is asked for, one after the other, in place of the file's request and its pages.

        ``names``: the values of ``for_each``, ``since`` and ``until``. A generator gets the document of each reply
        (``document = yield self.request(names)``), and ends when there is no more.
        """
        raise NotImplementedError  # never called: who does not say it is asked for as its file says

    def rows(self, document: Any) -> Sequence[Any]:
        """The raw rows of a decoded reply, in place of ``select``: what ``where`` and ``fields`` look at."""
        return self._select(document)


class Hook:
    """A class beside a file, called so that its errors name file and line."""

    def __init__(self, path: Path, made: DeclaredSource) -> None:
        self._path = path
        self._made = made
        self.asks = type(made).requests is not DeclaredSource.requests

    def rows(self, document: Any) -> list[Any]:
        """Its rows of a document; `ParseError` where it fails."""
        try:
            return list(self._made.rows(document))
        except ParseError:
            raise
        except Exception as error:
            raise ParseError(_told(self._path, error)) from error

    def requests(self, names: Mapping[str, Any]) -> Generator[Request, Any]:
        """What it asks for; takes the document of each reply. `TerminalError` where it fails."""
        try:
            found = iter(self._made.requests(names))
            send = getattr(found, "send", None)
            document: Any = None
            while True:
                asked = next(found) if send is None else send(document)
                if not isinstance(asked, Request):
                    raise TypeError(f"requests gave {type(asked).__name__}, not a Request: use self.request(names)")
                document = yield asked
        except StopIteration:
            return
        except Exception as error:
            raise TerminalError(_told(self._path, error)) from error


def hook_of(path: Path, makes: Makes, select: Select) -> Hook:
    """The class beside a file; `ConfigError` with file and line for code that does not load."""
    if not path.is_file():
        raise ConfigError(f"{path.with_suffix('.yaml')}: use: python: there is no {path} beside it.")
    name = f"tidewire_beside_{path.stem.replace('.', '_')}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look there for their module
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))  # noqa: S102 - a plugin is code
        found = vars(module).get(CLASS)
        if not (isinstance(found, type) and issubclass(found, DeclaredSource)):
            raise ConfigError(f"{path}: write class {CLASS}(DeclaredSource), of tidewire.sources.declared.")
        return Hook(path, found(makes, select))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(_told(path, error)) from error


def _told(path: Path, error: Exception) -> str:
    """What went wrong, with the last line of the file that had to do with it."""
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}: {type(error).__name__}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"{path}:{lines[-1]}" if lines else str(path)
    return f"{where}: {type(error).__name__}: {error}"
