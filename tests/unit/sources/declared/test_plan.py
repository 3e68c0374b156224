"""What is asked for of one combination, in order."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tidewire.sources.declared.asking import templates
from tidewire.sources.declared.plan import plan
from tidewire.sources.declared.trial import address
from unit.sources.declared.samples import LIST, source_of

PAGES = "paginate: {page: pn, start: 1, size: {pz: 100}, total: data.total, parallel: 2, max: 100}"


@pytest.mark.parametrize(
    ("paginate", "expected"),
    [
        (PAGES, ["pn=1&pz=100", "pn=2&pz=100", "pn=3&pz=100"]),
        ("paginate: {offset: from, start: 0, size: {n: 50}}", ["from=0&n=50", "from=50&n=50", "from=100&n=50"]),
        ("", [""]),
    ],
)
def test_pages_are_counted(tmp_path: Path, paginate: str, expected: list[str]) -> None:
    source = source_of(tmp_path, LIST.replace(PAGES, paginate))
    steps = islice(plan(source, templates(source.declared, ""), {}), 3)
    assert [address(step.asked).partition("fid=f12")[2].removeprefix("&") for step in steps] == expected


def test_a_cursor_follows_from_what_came(tmp_path: Path) -> None:
    source = source_of(tmp_path, LIST.replace(PAGES, "paginate: {cursor: after, next: data.next, size: {n: 5}}"))
    steps = plan(source, templates(source.declared, ""), {})
    asked = [address(steps.send(None).asked), address(steps.send({"data": {"next": "x7"}}).asked)]
    assert [each.partition("fid=f12&")[2] for each in asked] == ["n=5", "n=5&after=x7"]
    with pytest.raises(StopIteration):
        steps.send({"data": {}})
