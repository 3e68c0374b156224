"""Bytes to documents, in every form and charset, and what is refused."""

from __future__ import annotations

import gzip
import io
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.errors import ParseError
from tidewire.sources.declared.decode import DECODERS, decoder

ATOM = b"""<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><entry><title>A</title>
<link href="https://example.com/a"/><!-- note --></entry></feed>"""
RSS = """<?xml version="1.0" encoding="gbk"?><rss><channel><title>feed</title><item>
<title><![CDATA[央行 <b>公告</b>]]></title>
<pubDate>Fri, 03 Jul 2026 10:13:29 GMT</pubDate></item></channel></rss>""".encode("gbk")


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "a\n1\n")
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "charset", "data", "expected"),
    [
        ("json", "", b'{"a": 840465778.05, "b": 12345678901234567890.123, "c": 7}', None),
        ("json", "", b"\xef\xbb\xbf[1]", [1]),
        ("json", "gbk", '["中"]'.encode("gbk"), ["中"]),
        ("jsonp", "", b'jQuery1_2({"a": [1]});', {"a": [1]}),
        ("jsonp", "", b'/*<script>*/\n=({"a": "x(y);"});', {"a": "x(y);"}),
        ("jsonp", "", b'{"a": "f(1)"}', {"a": "f(1)"}),
        ("jsonp", "", b'[{"a": "f(1)"}]', [{"a": "f(1)"}]),
        ("js", "", b"var x = {a: 'b', c: [1, 2.50]};", {"a": "b", "c": [1, "2.50"]}),
        ("js", "", b'var ajaxResult={"LivesList":[1.5]}', {"LivesList": ["1.5"]}),
        ("js", "gbk", '[{symbol:"sh600000",name:"浦"}]'.encode("gbk"), [{"symbol": "sh600000", "name": "浦"}]),
        ("csv", "gb18030", '代码,名\r\n000001,"平,安"\r\n'.encode("gb18030"), [{"代码": "000001", "名": "平,安"}]),
        ("text", "gbk", "浦".encode("gbk"), "浦"),
        ("bytes", "", b"\xff", b"\xff"),
        ("rss", "", RSS, [{"title": "央行 <b>公告</b>", "pubDate": "Fri, 03 Jul 2026 10:13:29 GMT"}]),
        ("rss", "", ATOM, [{"title": "A", "link": "https://example.com/a"}]),
        ("rss", "", b"<rss><channel/></rss>", []),
    ],
)
def test_what_is_decoded(kind: str, charset: str, data: bytes, expected: Any) -> None:
    found = decoder(kind, charset, unzip=False)(data)
    if expected is None:
        assert found == {"a": "840465778.05", "b": "12345678901234567890.123", "c": 7}
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("json", b"<html>blocked</html>"),
        ("json", b""),
        ("jsonp", b"<html>f(1)</html>"),
        ("js", b"<html></html>"),
        ("csv", b"a,b\n1\n"),
        ("csv", b"a,b\n1,2,3\n"),
        ("text", b"\xff\xfe\xfa"),
        ("html", b""),
        ("xml", b"<a>"),
        ("rss", b"<html><body/></html>"),
        ("xlsx", b"PK nothing"),
    ],
)
def test_what_is_not_what_the_file_says_is_refused(kind: str, data: bytes) -> None:
    with pytest.raises(ParseError):
        decoder(kind, "", unzip=False)(data)


def test_packed_replies() -> None:
    unzip = decoder("csv", "", unzip=True)
    assert unzip(zipped("a.csv")) == unzip(gzip.compress(b"a\n1\n")) == [{"a": "1"}]
    for bad in (zipped("a.csv", "b.csv"), b"a\n1\n", gzip.compress(b"a")[:-4]):
        with pytest.raises(ParseError):
            unzip(bad)


def test_a_feed_cannot_read_files() -> None:
    bomb = b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/hostname">]><rss><item><title>&x;</title></item></rss>'
    assert decoder("rss", "", unzip=False)(bomb) == [{"title": "&x;"}]


@pytest.mark.parametrize("kind", sorted(DECODERS))
@given(data=st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(kind: str, data: bytes) -> None:
    for unzip in (False, True):
        try:
            decoder(kind, "", unzip=unzip)(data)
        except ParseError:
            continue
