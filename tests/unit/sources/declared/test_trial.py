"""The tests in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidewire.sources.declared import load_declared, run_tests
from tidewire.sources.declared.trial import payload_of
from unit.sources.declared.samples import LIST, file_of

TESTS = """
tests:
  - name: one page
    responses:
      - rc: 0
        data:
          total: 1
          diff: [{f2: 10.47, f5: 805221, f12: "000001", f124: 1783409697}]
    requests: ["https://push2.eastmoney.com/api/qt/clist/get?np=1&fltt=2&fid=f12&pn=1&pz=100"]
    rows: [{instrument: 000001.SZ, last: 10.47, volume: 80522100, event_time: "2026-07-07T07:34:57Z"}]
"""


def problems(tmp_path: Path, old: str = "", new: str = "") -> list[str]:
    text = LIST + TESTS.replace(old, new, 1)
    (verdict,) = run_tests(load_declared(file_of(tmp_path, text)))
    return list(verdict.problems)


def test_a_test_that_passes(tmp_path: Path) -> None:
    assert problems(tmp_path) == []


def test_a_reply_that_is_no_text_stands_in_base64() -> None:
    assert payload_of("UEsDBA==", "base64") == b"PK\x03\x04"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("last: 10.47", "last: 10.48", "rows[0].last: 10.48 expected, '10.47' came"),
        ("last: 10.47", "lasts: 1", "there is no such column"),
        ("f2: 10.47", "f2: ten", "not taken: last: not exact"),
        ("pn=1", "pn=2", "requests[0]"),
        ("rows: [", "rows: [{}, ", "2 rows expected, 1 came"),
        ("rc: 0", "rc: 1", "1 rows expected, 0 came"),
        ("f124: 1783409697", "f124: 17834096970", "event_time"),
        ("    rows:", "    wrong: [x]\n    rows:", "should not have been taken: x"),
        ("    rows:", "    skipped: 1\n    rows:", "1 rows to be left out by `where`, 0 were"),
    ],
)
def test_what_differs_is_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert any(said in problem for problem in problems(tmp_path, old, new)), problems(tmp_path, old, new)
