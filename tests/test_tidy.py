"""The habits of this code base that a machine can see."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MOST_LINES = 500
MOST_FUNCTION_LINES = 60
CLOCK = ROOT / "src/tidewire/records/clock.py"

# What reads the wall clock, waits or draws chance; only records/clock.py may.
FORBIDDEN_CALLS = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.sleep",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "random.random",
    "random.uniform",
    "random.choice",
    "random.randint",
    "random.shuffle",
    "uuid.uuid4",
    "secrets.token_hex",
    "os.urandom",
}


def _ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", SOURCES, ids=_ids)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    long = [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in _functions(ast.parse(text))
        if node.end_lineno and node.end_lineno - node.lineno + 1 > MOST_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("path", [path for path in SOURCES if path != CLOCK], ids=_ids)
def test_time_and_chance_come_from_the_injected_clock(path: Path) -> None:
    tree = ast.parse(path.read_text())
    found = [f"line {node.lineno}: {name}" for name, node in _calls(tree) if name in FORBIDDEN_CALLS]
    # asyncio.sleep(0) only yields to other tasks; anything else waits on the wall.
    found += [
        f"line {node.lineno}: asyncio.sleep"
        for name, node in _calls(tree)
        if name == "asyncio.sleep" and not ast.unparse(node.args[0]).startswith("0")
    ]
    assert not found


@pytest.mark.parametrize("path", SOURCES, ids=_ids)
def test_every_module_and_public_class_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    undocumented = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not undocumented


def test_only_runtime_reads_the_environment() -> None:
    # http.py asks urllib for the proxies of the environment, which is where a user sets them.
    allowed = {"src/tidewire/runtime/config.py"}
    found = {
        _ids(path)
        for path in SOURCES
        if re.search(r"\bos\.(environ|getenv)\b", path.read_text()) and _ids(path) not in allowed
    }
    assert not found


def test_exported_names_exist() -> None:
    for path in SOURCES:
        if path.name != "__init__.py":
            continue
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = ast.literal_eval(node.value)
                bound = {
                    alias.asname or alias.name
                    for statement in tree.body
                    if isinstance(statement, ast.ImportFrom)
                    for alias in statement.names
                }
                assert set(names) <= bound | {t.id for t in ast.walk(tree) if isinstance(t, ast.Name)}, path


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of a machine, no name of a package index in what is tracked."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    here = {Path(__file__).resolve(), (ROOT / "LICENSE").resolve()}
    pattern = re.compile(rb"(?<![\w.-])/(work|root)/|pypi\.org|pythonhosted|registry\.npmjs|deb\.debian")
    found: list[str] = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file() and path.resolve() not in here and pattern.search(path.read_bytes()):
            found.append(name)
    assert not found


def test_every_lint_exception_has_its_reason() -> None:
    bare = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"#\s*noqa(?!:)", line) or re.search(r"type:\s*ignore(?!\[)", line):
                bare.append(f"{_ids(path)}:{number}")
    assert not bare
