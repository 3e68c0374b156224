"""Two small pages for people: the landing page and the API's reference. They work offline and run no script."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#222;background:#fff}"
    "code{background:#f2f2f2;padding:.1em .3em}table{border-collapse:collapse;width:100%}"
    "td,th{border-bottom:1px solid #ddd;padding:.2em .6em;text-align:left;vertical-align:top}"
    "summary{cursor:pointer;padding:.2em 0}"
)

LINKS = {
    "types": "/v1/types",
    "sources": "/v1/sources",
    "gaps": "/v1/gaps",
    "quarantine": "/v1/quarantine",
    "audit": "/v1/audit",
    "stream": "/v1/stream",
    "openapi": "/openapi.json",
    "docs": "/docs",
    "livez": "/livez",
    "readyz": "/readyz",
    "metrics": "/metrics",
}

EXAMPLES = (
    "/v1/trade?symbol=BTC-USDT.BINANCE&limit=5&order=desc",
    "/v1/kline/latest?interval=1m",
    "/v1/trade?symbol=BTC-USDT.BINANCE&resample=1m&format=csv",
    "/v1/gaps?state=open",
)


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>"
    )


def _link(path: str) -> str:
    return f'<a href="{escape(path)}"><code>{escape(path)}</code></a>'


def landing(version: str) -> str:
    """Where to go from here."""
    links = "".join(f"<li>{escape(name)}: {_link(path)}</li>" for name, path in LINKS.items())
    examples = "".join(f"<li>{_link(path)}</li>" for path in EXAMPLES)
    return _page(f"Tidewire {version}", f"<ul>{links}</ul><h2>Try</h2><ul>{examples}</ul>")


def reference(document: dict[str, Any]) -> str:
    """The OpenAPI document as a page."""
    parts = [f"<p>The same for machines: {_link('/openapi.json')}</p>"]
    for path, methods in document["paths"].items():
        for method, what in methods.items():
            rows = "".join(
                f"<tr><td><code>{escape(p['name'])}</code></td><td>{escape(p['description'])}</td></tr>"
                for p in what.get("parameters", ())
            )
            table = f"<table><tr><th>parameter</th><th>about</th></tr>{rows}</table>" if rows else ""
            parts.append(
                f"<details><summary><b>{escape(method.upper())}</b> <code>{escape(path)}</code> "
                f"{escape(what['summary'])}</summary><p>{escape(what.get('description', ''))}</p>{table}"
                f"<p>{_link(path)}</p></details>"
            )
    return _page("Tidewire API", "".join(parts))
