"""JMESPaths as functions find what the library's interpreter finds, or fail as it does."""

from __future__ import annotations

from typing import Any

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jmespath.exceptions import JMESPathError

from tidewire.sources.declared.quick import quick

PATHS = [
    "a",
    "a.b",
    "a[0]",
    "a[-1].b",
    "a[1:3]",
    "a[::-1]",
    "a[*].b",
    "[a, b[0]]",
    "a == b",
    "a != `1`",
    "a < b",
    "to_number(a) >= `0`",
    "!a",
    "!a && b || `null`",
    "(a || b) && 'x'",
    "length(a)",
    "starts_with(a, 'x')",
    "join(' ', a[0:2])",
    "to_string(a)",
    "values(@)[0].b",
    "@",
    "a | [0]",
    "max_by(a, &b)",
    "a[?b == `1`].b",
    "{x: a}",
    "*.b",
    "a[].b",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(-2, 2)
    | st.sampled_from(["", "x", "xy", "0", "0.000", "8.75", "-"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=12,
)


def outcome(find: Any, value: Any) -> Any:
    try:
        return repr(find(value))
    except (JMESPathError, TypeError) as error:
        return type(error)


@pytest.mark.parametrize("path", PATHS)
@given(value=VALUES)
def test_it_finds_what_the_library_finds(path: str, value: Any) -> None:
    parsed = jmespath.compile(path)
    assert outcome(quick(parsed), value) == outcome(parsed.search, value)


def test_what_it_does_not_know_is_left_to_the_library() -> None:
    parsed = jmespath.compile("{x: a}")
    assert quick(parsed) == parsed.search
    assert quick(jmespath.compile("a.b")) != parsed.search
