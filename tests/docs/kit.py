"""The pages of the project and the blocks of code in them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SOURCE = ROOT / "src" / "tidewire"

NO_PROXY = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the name after it if there is one, and where it stands."""

    page: Path
    line: int
    language: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Running:
    """Where the platform and its upstream are."""

    url: str
    sandbox_url: str
    data: Path
    replayed: Path

    def here(self, text: str) -> str:
        """An example with this platform in place of the one it names."""
        for written, meant in (
            ("http://127.0.0.1:8700", self.url),
            ("ws://127.0.0.1:8700", self.url.replace("http", "ws")),
            ("http://127.0.0.1:8701", self.sandbox_url),
            ("tidewire-demo/data", str(self.data)),
            ("tidewire-demo/replayed", str(self.replayed)),
            (".venv/bin/tidewire", f"{sys.executable} -m tidewire"),
        ):
            text = text.replace(written, meant)
        return text

    @property
    def environment(self) -> dict[str, str]:
        """For processes that run examples: loopback is never asked through a proxy."""
        return {**os.environ, **NO_PROXY, "TERM": "dumb"}


def text_of(name: str) -> str:
    """A page, by its path in the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(*languages: str, page: Path | None = None) -> list[Block]:
    """Every block in one of these languages."""
    every: list[Block] = []
    for path in PAGES if page is None else [page]:
        text = path.read_text(encoding="utf-8")
        for found in _FENCE.finditer(text):
            language, _, name = found["info"].strip().partition(" ")
            if language in languages:
                line = text.count("\n", 0, found.start()) + 1
                every.append(Block(path, line, language, name.strip(), found["text"]))
    return every


def commands(block: Block) -> list[str]:
    """The commands of a console block: lines after ``$``, joined where they end in a backslash."""
    lines = block.text.replace("\\\n", "").splitlines()
    return [" ".join(line.removeprefix("$ ").split("  #")[0].split()) for line in lines if line.startswith("$ ")]


def prose(text: str) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", text)


def cells(text: str) -> Iterator[list[str]]:
    """The rows of every table of a page."""
    for line in prose(text).splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
