"""Every guarantee names its proof, and every proof exists and runs where it counts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from docs.kit import ROOT, text_of

PROOF = re.compile(r"\[`(test_\w+)`\]\((tests/[\w/]+\.py)\)")
SLOW = ("tests/conformance", "tests/integration", "tests/crash")
SUITES = ("tests/unit", *SLOW)


def proofs() -> set[tuple[str, str]]:
    return set(PROOF.findall(text_of("GUARANTEES.md")))


def test_every_sentence_has_a_proof() -> None:
    promised = text_of("GUARANTEES.md").partition("## Not promised")[0]
    items = re.findall(r"^- .*(?:\n  .*)*", promised, re.MULTILINE)
    assert len(items) > 25
    for item in items:
        assert PROOF.search(item), item
    assert "exactly once" not in text_of("GUARANTEES.md").lower()


def test_every_proof_exists() -> None:
    for name, path in sorted(proofs()):
        assert (ROOT / path).is_file(), path
        assert re.search(rf"def {name}\(", (ROOT / path).read_text(encoding="utf-8")), f"{path} has no {name}"


def test_what_has_to_pass_runs_every_suite() -> None:
    assert re.search(r"^make .*\btest\b", text_of(".ci/run"), re.MULTILINE)
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", text_of("Makefile"), re.MULTILINE)
    assert recipe is not None
    for suite in SUITES:
        assert suite in recipe[1]
    assert {path.split("/")[1] for _, path in proofs()} <= {suite.split("/")[1] for suite in SUITES}


def test_every_proof_is_collected() -> None:
    """Suites that others inherit are collected where they are inherited; the rest in the file that is named."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=--import-mode=importlib", "--collect-only", "-q", *SLOW],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    collected = {(re.sub(r"\[.*", "", line.split("::")[-1]), line.split("::")[0]) for line in done.stdout.splitlines()}
    inherited = {name for name, path in collected if path.startswith("tests/conformance/")}
    for name, path in sorted(proofs()):
        if not path.startswith(SLOW):  # a file of unit tests is collected by its name
            assert Path(path).name.startswith("test_")
            continue
        suite = path.startswith("tests/conformance/")
        assert (name, path) in collected or (suite and name in inherited), f"{path}::{name} does not run"
