"""The description of the API for people: one page without scripts or anything from elsewhere."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from html import escape
from typing import Any, Final

from aiohttp import web

from opencode_lifecycle.api.responses import JSON

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h2{margin-top:2.5rem;border-bottom:1px solid #d0d7de}h3{margin:2rem 0 .25rem}
code,pre{font:14px/1.45 ui-monospace,monospace;background:#f4f6f8;border-radius:4px}
code{padding:.1em .3em}pre{padding:.75rem;overflow:auto}
td:first-child{width:11rem}.contents td:first-child{width:5rem;font-weight:600}.contents td{padding-bottom:0}
table{border-collapse:collapse;width:100%;margin:.5rem 0}td,th{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0}
.method{display:inline-block;min-width:4.5rem;font-weight:600}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}code,pre{background:#161b22}h2{border-color:#30363d}a{color:#58a6ff}}
"""
_CODE: Final = re.compile(r"`([^`]+)`")


class DocumentationHandlers:
    """Serves the description and its page. Both are made once, when somebody asks: no start waits for them."""

    def __init__(self, describe: Callable[[], Mapping[str, Any]]) -> None:
        self._describe = describe
        digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
        self._headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": (
                f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
                "frame-ancestors 'none'"
            ),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }

    async def description(self, request: web.Request) -> web.Response:
        del request
        json_of_all, _ = await asyncio.to_thread(lambda: self._made)
        return web.Response(body=json_of_all, headers={"Content-Type": JSON})

    async def documentation(self, request: web.Request) -> web.Response:
        del request
        _, page_of_all = await asyncio.to_thread(lambda: self._made)
        return web.Response(body=page_of_all, headers=self._headers)

    @cached_property
    def _made(self) -> tuple[bytes, bytes]:
        description = self._describe()
        return json.dumps(description, separators=(",", ":")).encode(), page(description).encode()


def page(description: Mapping[str, Any]) -> str:
    """Render the whole page. Everything that is put into it is escaped."""
    info = description["info"]
    operations = [
        (method, path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    calls = [_call(*each) for each in operations]
    shapes = [
        f'<h3 id="shape-{escape(name)}">{escape(name)}</h3><pre>{escape(json.dumps(schema, indent=2))}</pre>'
        for name, schema in sorted(description["components"]["schemas"].items())
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])}</h1><p>Version {escape(info['version'])}. {_prose(info['description'])} "
        'For machines: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{_contents(operations)}"
        f'<h2 id="calls">Calls</h2>{"".join(calls)}<h2 id="problems">Problems</h2>{_problems(description["x-problem-codes"])}'
        f'<h2 id="shapes">Shapes</h2>{"".join(shapes)}</body></html>'
    )


def _contents(operations: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    rows = [
        f"<tr><td>{escape(method.upper())}</td>"
        f'<td><a href="#{escape(operation["operationId"])}"><code>{escape(path)}</code></a></td>'
        f"<td>{_prose(operation['summary'])}</td></tr>"
        for method, path, operation in operations
    ]
    return (
        f'<nav><h2>Contents</h2><table class="contents">{"".join(rows)}</table>'
        '<p><a href="#problems">Problems</a>: what each <code>code</code> means. '
        '<a href="#shapes">Shapes</a>: what is sent and answered.</p></nav>'
    )


def _call(method: str, path: str, operation: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['in'])}</td>"
        f"<td>{_prose(parameter.get('description', ''))}</td></tr>"
        for parameter in operation["parameters"]
    ]
    takes = operation.get("requestBody", {}).get("content", {}).get(JSON, {}).get("schema")
    answers = [
        f"<tr><td>{escape(status)}</td><td>{_prose(answer.get('description', 'A problem.'))}</td>"
        f"<td>{_shape(answer.get('content', {}).get(JSON, {}).get('schema'))}</td></tr>"
        for status, answer in operation["responses"].items()
    ]
    return (
        f'<h3 id="{escape(operation["operationId"])}"><span class="method">{escape(method.upper())}</span>'
        f"<code>{escape(path)}</code></h3><p>{_prose(operation['summary'])}. {_prose(operation['description'])}</p>"
        + (f"<p>Body: {_shape(takes)}</p>" if takes else "")
        + (f"<table>{''.join(rows)}</table>" if rows else "")
        + f"<table>{''.join(answers)}</table>"
    )


def _shape(schema: Mapping[str, Any] | None) -> str:
    if schema is None:
        return ""
    if "oneOf" in schema:
        return " or ".join(_shape(choice) for choice in schema["oneOf"])
    name = escape(schema["$ref"].rpartition("/")[2])
    return f'<a href="#shape-{name}">{name}</a>'


def _problems(codes: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        f'<tr id="problem-{escape(entry["code"])}"><td><code>{escape(entry["code"])}</code></td>'
        f"<td>{entry['status']}</td><td>{escape(entry['title'])}</td></tr>"
        for entry in codes
    ]
    return f"<table>{''.join(rows)}</table>"


def _prose(text: str) -> str:
    """Escape *text* and show what stands between backticks as code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))
