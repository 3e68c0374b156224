"""What the pages list is what the code has: keys, codes, parameters, formats, files, links."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from docs.kit import PAGES, ROOT, SOURCE, Block, Running, blocks, cells, prose, text_of
from tidewire.collect import SourceConfig
from tidewire.errors import TidewireError
from tidewire.journal import JournalConfig, segment
from tidewire.records.batch import FATES
from tidewire.records.ops import CAUSES, STATES
from tidewire.runtime import cli
from tidewire.runtime.config import Config, load
from tidewire.runtime.pipe import PipeConfig
from tidewire.runtime.platform import Tidewire
from tidewire.sandbox.config import Faults
from tidewire.serve import openapi, pages, problems
from tidewire.serve.params import LATEST, READ
from tidewire.serve.platform import ServeConfig
from tidewire.serve.render import FORMATS
from tidewire.sources.binance.app import COLLECTORS
from tidewire.sources.binance.futures import FUTURES_COLLECTORS
from tidewire.store.config import StoreConfig

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
MIB = 1 << 20


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# -- configuration --------------------------------------------------------------------------------------------------


def leaves(section: type[msgspec.Struct], prefix: str) -> dict[str, Any]:
    """Every key of a section and its default; sections inside are followed."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(section):
        name = f"{prefix}{field.encode_name}"
        default = (
            "required"
            if field.required
            else field.default
            if field.default_factory is msgspec.NODEFAULT
            else field.default_factory()
        )
        inner = field.type
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            found |= leaves(inner, f"{name}.")
        else:
            found[name] = default
    return found


def shown(default: Any) -> str:
    if default == "required":
        return "required"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_every_key_is_documented_with_its_default() -> None:
    expected = leaves(Config, "") | leaves(SourceConfig, "")
    for name, collector in {**FUTURES_COLLECTORS, **COLLECTORS}.items():
        expected |= leaves(collector.Config, f"{name}.")
    rows = {row[0].strip("`"): row for row in cells(text_of("docs/configuration.md")) if row[0].startswith("`")}
    assert rows.keys() == expected.keys()
    for key, default in expected.items():
        assert rows[key][2] == shown(default), key


# -- API ------------------------------------------------------------------------------------------------------------


def test_every_parameter_code_and_format_is_documented() -> None:
    text = text_of("docs/api.md")
    rows = list(cells(text))
    first = {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    assert {*READ, *LATEST, "resample"} <= first
    assert set(problems.CODES) <= first
    assert {*FORMATS, *FORMATS.values()} <= {
        name for row in rows for cell in row[:2] for name in re.findall(r"`([^`]+)`", cell)
    }


def test_every_path_is_documented() -> None:
    text = text_of("docs/api.md") + text_of("docs/operations.md")
    plain = {
        path
        for path in openapi.document()["paths"]
        if path.count("/") < 2 or path in {"/v1/types", "/v1/sources", "/v1/audit"}
    }
    for path in {*plain, *pages.LINKS.values()}:
        assert f"`{path}`" in text or f"GET {path}`" in text, path


def test_statuses_are_those_of_the_code() -> None:
    statuses = {
        name: row[1]
        for row in cells(text_of("docs/api.md"))
        for name in re.findall(r"`([^`]+)`", row[0])
        if row[1].isdecimal()
    }
    for error in (cls for cls in _errors() if cls.code in statuses):
        made = error("") if error.__init__ is Exception.__init__ else None
        if made is not None:
            assert str(problems.status_of(made)) == statuses[error.code], error


def _errors() -> list[type[Any]]:
    from tidewire import errors

    return [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.TidewireError)]


def test_limits_are_those_of_the_code() -> None:
    serve, text = ServeConfig(), text_of("docs/api.md")
    for said in (
        f"At most {serve.connections} connections, {serve.channels:,}\n",
        f"up to {serve.queue_bytes // MIB} MiB for each connection",
        f"stays full for {serve.full_grace:g} s",
        f"pings (every {serve.ping_interval:g} s)",
        f"tick of {serve.tick * 1_000:g} ms",
    ):
        assert said in text, said


# -- data model, sandbox --------------------------------------------------------------------------------------------


def test_fates_causes_and_states_are_documented() -> None:
    text = text_of("docs/data-model.md")
    for name in (*FATES, *CAUSES):
        assert f"`{name}`" in "".join("".join(row[:1]) for row in cells(text)), name
    for name in STATES:
        assert name == "filling" or f"`{name}`" in text


def test_every_fault_is_documented() -> None:
    rows = {row[0].strip("`") for row in cells(text_of("docs/sandbox.md"))}
    assert set(Faults.__struct_fields__) <= rows


def test_metrics_that_are_named_exist() -> None:
    known = set(re.findall(r"`(tidewire_\w+)`", text_of("docs/metrics.md")))
    assert len(known) > 50
    for page in PAGES:
        for name in re.findall(r"`(tidewire_[a-z_]+)`", page.read_text(encoding="utf-8")):
            assert name in known, f"{page.name}: {name}"


# -- architecture ---------------------------------------------------------------------------------------------------


def test_files_that_are_named_exist() -> None:
    for page in PAGES:
        if page.parent.name == "docs" and page.name == "add-a-source.md":
            continue
        for name in re.findall(
            r"`((?:[\w-]+/)+[a-z][\w-]*\.(?:py|seg|lock|md))`", prose(page.read_text(encoding="utf-8"))
        ):
            assert (ROOT / name).exists() or (SOURCE / name).exists(), f"{page.name}: {name}"


def test_the_segment_tables_are_those_of_the_code() -> None:
    rows = [row for row in cells(text_of("ARCHITECTURE.md")) if len(row) == 4 and row[0].isdecimal()]
    lines = re.findall(r"^(\d+)\s+(\d+ byte|\d+ b|[ui]\d+)\s+(\w+)\s+(\S.*)$", segment.__doc__ or "", re.MULTILINE)
    assert len(lines) == 21
    assert [[offset, kind, name, about.replace("``", "`")] for offset, kind, name, about in lines] == rows[:-1]


def test_bounds_are_those_of_the_code() -> None:
    journal, pipe, serve, store = JournalConfig(), PipeConfig(), ServeConfig(), StoreConfig()
    text = text_of("ARCHITECTURE.md")
    for said in (
        f"| {journal.pending_bytes // MIB} MiB not accepted yet |",
        f"| {journal.recent_bytes // MIB} MiB of accepted frames in memory |",
        f"| {pipe.queue} batches waiting, {pipe.queue} taken and not done |",
        f"| {serve.connections} streams, {serve.requests} others |",
        f"| {store.readers} at once, {store.read_queue} waiting |",
        f"| {serve.renders} |",
        f"high-water marks of {store.max_series:,}",
        f"{pipe.pump.parse_ms:g} ms have passed or {pipe.pump.parse_frames} frames wait",
        f"{pipe.pump.unheard_ms:g} ms or {pipe.pump.step_frames // 2:,} frames apart (`pipe.unheard_ms`)",
        f"takes at most {pipe.pump.step_frames:,} frames. Every {pipe.pump.mark_ms:g} ms",
        f"after {pipe.store_ms:g} ms or {pipe.store_rows:,} rows",
        f"at most {journal.commit_ms:g} ms after receipt",
    ):
        assert said in text, said


# -- links and words ------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"[`*]", "", title).lower()
        kept = "".join(c for c in plain if c in " -_" or unicodedata.category(c)[0] in "LN")
        found.add(kept.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for plain, picture in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        target, _, anchor = (plain or picture).partition("#")
        if target.startswith("https://"):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}#{anchor}"


def test_both_readmes_show_the_same_commands() -> None:
    def shown_in(name: str) -> list[str]:
        found = blocks("console", "python", "yaml", page=ROOT / name)
        return [re.sub(r"  +#.*", "", block.text) for block in found]

    assert shown_in("README.md") == shown_in("README.zh-CN.md")


# -- troubleshooting ------------------------------------------------------------------------------------------------

MISTAKES = {
    "key": "source: {type: market, name: binance}\ncolectors: {}\n",
    "collector": "source: {type: market, name: binance}\ncollectors: {trad: {symbols: [BTCUSDT]}}\n",
    "source": "source: {type: market, name: binanse}\n",
    "pool": """
proxies: {cheap: {list: ["127.0.0.1:3128"]}}
sources:
  - {source: {type: declared, name: eastmoney.a_share_quotes}, api: {proxy: "pool:chep"}}
""",
    "variable": 'source: {type: market, name: binance}\napi: {key: "${NOPE}"}\n',
}
MESSAGES = {block.name: block for block in blocks("message", page=ROOT / "docs" / "troubleshooting.md")}


def said_by(arguments: list[str]) -> str:
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exception is not None, done.output
    return " ".join(str(done.exception).split())


def is_told(block: Block, said: str) -> None:
    place = 0
    for part in " ".join(block.text.split()).split("…"):
        place = said.find(part.strip(), place)
        assert place >= 0, f"{block}: {said!r}"


@pytest.mark.parametrize("name", MISTAKES)
def test_a_typo_is_told_like_this(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tidewire.yaml").write_text(MISTAKES[name])
    is_told(MESSAGES[name], said_by(["check"]))


def test_other_mistakes_are_told_like_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: Running) -> None:
    monkeypatch.chdir(tmp_path)
    is_told(MESSAGES["nofile"], said_by(["check"]))
    data = str(platform.data)
    is_told(MESSAGES["symbol"], said_by(["query", "trade", "--symbol", "XYZ", "--data", data]))
    is_told(MESSAGES["type"], said_by(["query", "trad", "--data", data]))
    port = platform.url.rpartition(":")[2]
    Path("tidewire.yaml").write_text(f"listen: {{port: {port}}}\n")
    is_told(MESSAGES["port"], refused())
    Path("tidewire.yaml").write_text(f"data_dir: {data}\nlisten: {{port: 0}}\n")
    is_told(MESSAGES["locked"], refused())
    assert MESSAGES.keys() == {*MISTAKES, "nofile", "symbol", "type", "port", "locked"}


def refused() -> str:
    """Why a platform with ``tidewire.yaml`` does not start."""
    with pytest.raises(TidewireError) as caught:
        asyncio.run(Tidewire(load(None, {})).start())
    return " ".join(str(caught.value).split())
