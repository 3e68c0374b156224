"""The table of checks in the pages is the one in the code."""

from __future__ import annotations

from docs.kit import cells, text_of
from tidewire.process.checks import RULES


def test_every_check_is_documented_with_its_severity_and_numbers() -> None:
    rows = {
        row[0].strip("`"): row
        for row in cells(text_of("docs/data-model.md"))
        if row[0].startswith(("`ticker.", "`kline."))
    }
    assert list(rows) == [rule.name for rule in RULES]
    for rule in RULES:
        numbers = ", ".join(f"`{name}` {value:g}" for name, value in rule.numbers.items())
        assert (rows[rule.name][1], rows[rule.name][3]) == (rule.severity, numbers)
