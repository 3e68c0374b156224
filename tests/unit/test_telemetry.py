from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
from yarl import URL

from tidewire import telemetry

SECRET = "hunter2"
FORMS: tuple[Literal["json", "console"], ...] = ("json", "console")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    configured, before = structlog.is_configured(), structlog.get_config()
    yield
    structlog.configure(**before) if configured else structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_json_lines_carry_room_level_time_and_what_was_bound() -> None:
    out = io.StringIO()
    telemetry.configure("info", "json", out)
    with telemetry.bound(trace_id="t1", source="binance"):
        telemetry.log("collect").warning("slow", seconds=1.5, symbols=["币", "b"])
    telemetry.log("store").info("idle")
    first, second = lines(out)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "room": "collect",
        "level": "warning",
        "event": "slow",
        "trace_id": "t1",
        "source": "binance",
        "seconds": 1.5,
        "symbols": ["币", "b"],
    }
    assert "trace_id" not in second


def test_console_lines_have_no_colours_in_a_file() -> None:
    out = io.StringIO()
    telemetry.configure("info", "console", out)
    telemetry.log("collect").info("started", source="binance")
    assert "started" in out.getvalue()
    assert "source=binance" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_levels_below_the_configured_one_are_silent() -> None:
    out = io.StringIO()
    telemetry.configure("warning", "json", out)
    telemetry.log("collect").info("quiet")
    telemetry.log("collect").error("loud")
    assert [line["event"] for line in lines(out)] == ["loud"]


def test_a_logger_made_before_follows_the_configuration() -> None:
    logger = telemetry.log("collect")
    out = io.StringIO()
    telemetry.configure("info", "json", out)
    logger.info("hello")
    assert lines(out)[0]["event"] == "hello"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "facts",
    [
        {"api_key": SECRET},
        {"apiKey": SECRET},
        {"api_secret": SECRET},
        {"password": SECRET},
        {"Authorization": f"Bearer {SECRET}"},
        {"token": SECRET},
        {"cookie": SECRET},
        {"key": SECRET},
        {"url": f"https://x/y?a=1&signature={SECRET}&b=2"},
        {"url": URL(f"https://x/y?apiKey={SECRET}")},
        {"event_text": f"GET /y?token={SECRET} failed"},
        {"error": ValueError(f"/y?access_token={SECRET}")},
        {"headers": {"Cookie": SECRET, "Host": "x"}},
        {"urls": [f"https://x?secret={SECRET}"]},
        {"requests": [{"params": {"signature": SECRET}}]},
        {"password": 12345678},
    ],
)
def test_no_secret_reaches_a_line(form: Literal["json", "console"], facts: dict[str, Any]) -> None:
    out = io.StringIO()
    telemetry.configure("info", form, out)
    telemetry.log("collect").info("fetched", **facts)
    assert SECRET not in out.getvalue()
    assert "12345678" not in out.getvalue()
    assert "***" in out.getvalue()


@pytest.mark.parametrize("form", FORMS)
def test_no_secret_reaches_a_line_with_an_exception(form: Literal["json", "console"]) -> None:
    def fetch(local: str) -> None:
        raise ValueError("GET /y?signature=" + local)

    out = io.StringIO()
    telemetry.configure("info", form, out)
    try:
        fetch(SECRET)
    except ValueError:
        telemetry.log("collect").exception("failed")
    assert "GET /y?signature=***" in out.getvalue()
    assert "in fetch" in out.getvalue()
    assert SECRET not in out.getvalue()


def test_what_is_no_secret_stays() -> None:
    facts = {"url": "https://x/y?symbol=A&limit=5", "n": 3, "ok": True, "what": None, "token": "", "rate": 0.5}
    assert telemetry.redact(None, "info", dict(facts)) == facts


def test_metrics_are_named_by_convention_and_can_be_read() -> None:
    rows = telemetry.counter("unit_rows", "Rows.", ["source"])
    size = telemetry.gauge("unit_size_bytes", "Size.")
    took = telemetry.histogram("unit_took_seconds", "Time.", buckets=[0.1, 1])
    try:
        assert telemetry.value("tidewire_unit_rows_total", source="a") == 0
        rows.labels("a").inc(3)
        size.set(7)
        took.observe(0.5)
        assert telemetry.value("tidewire_unit_rows_total", source="a") == 3
        assert telemetry.value("tidewire_unit_size_bytes") == 7
        assert telemetry.value("tidewire_unit_took_seconds_bucket", le="0.1") == 0
        assert telemetry.value("tidewire_unit_took_seconds_bucket", le="1.0") == 1
        text = telemetry.exposition().decode()
        assert "# HELP tidewire_unit_rows_total Rows.\n# TYPE tidewire_unit_rows_total counter\n" in text
        assert 'tidewire_unit_rows_total{source="a"} 3.0' in text
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            telemetry.counter("unit_rows", "Rows again.")
    finally:
        for metric in (rows, size, took):
            telemetry.REGISTRY.unregister(metric)
