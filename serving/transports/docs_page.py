"""The OpenAPI document as one HTML page: no script, nothing from elsewhere, readable on a phone."""

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

Json = Mapping[str, Any]

_STYLE = """\
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5b6878;--line:#dfe4ea;--card:#fff;--page:#f6f7f9;--code:#f1f3f6;
--link:#0b62c4;--get:#0b62c4;--post:#1a7f4b;--put:#a15c00;--options:#6b5bb0}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ef;--soft:#9aa7b6;--line:#2c3743;--card:#171e26;--page:#0f141a;
--code:#0f151c;--link:#7db5ff;--get:#7db5ff;--post:#63c995;--put:#e0a458;--options:#b3a5f0}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.2rem;margin:2.4rem 0 .2rem}h3{font-size:.8rem;margin:1.1rem 0 .35rem;
color:var(--soft);text-transform:uppercase;letter-spacing:.05em}
p{margin:.35rem 0}.soft{color:var(--soft)}a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
nav{margin:.9rem 0;display:flex;flex-wrap:wrap;gap:.4rem 1rem}
details{background:var(--card);border:1px solid var(--line);border-radius:.5rem;margin:.45rem 0}
summary{cursor:pointer;padding:.6rem .8rem;display:flex;flex-wrap:wrap;gap:.1rem .7rem;align-items:baseline;list-style:none}
summary::-webkit-details-marker{display:none}
summary:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:.5rem}
.method{font:700 .75rem/1.4 ui-monospace,Menlo,Consolas,monospace;min-width:4.2rem}
.path{font:.92rem/1.4 ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere;font-weight:600}
.what{color:var(--soft);flex:1 1 16rem}
.GET{color:var(--get)}.POST{color:var(--post)}.PUT{color:var(--put)}.OPTIONS{color:var(--options)}
.body{padding:.1rem .8rem .9rem;border-top:1px solid var(--line)}
code{font:.87em ui-monospace,Menlo,Consolas,monospace;background:var(--code);padding:.1em .3em;border-radius:.25em;
overflow-wrap:anywhere}
pre{background:var(--code);border-radius:.4rem;padding:.7rem .8rem;overflow-x:auto;margin:.3rem 0}
pre code{background:none;padding:0;white-space:pre-wrap;overflow-wrap:anywhere}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.93rem}
td{border-top:1px solid var(--line);padding:.35rem .9rem .35rem 0;vertical-align:top}tr:first-child td{border-top:0}
td:first-child{white-space:nowrap;width:1%}
@media(max-width:40rem){td{display:block;border:0;padding:.1rem 0}td:first-child{width:auto;border-top:1px solid var(--line);
padding-top:.35rem}.method{min-width:0}}
"""

_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but this very style."""

_SHOWN_WITH_TYPE = ("200", "400")
"""All errors of an operation look alike."""


def page(document: Json) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    tags = [tag["name"] for tag in document["tags"]]
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in [*tags, "Types"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(info["title"])} API</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(info["title"])} <span class="soft">{escape(info["version"])}</span></h1>
<p>{_text(info["description"])} For programs: <a href="/openapi.json">openapi.json</a>.</p>
<nav>{links}</nav>
{"".join(_section(tag, document) for tag in document["tags"])}
{_types(document)}
</main>
</body>
</html>
"""


def _section(tag: Json, document: Json) -> str:
    operations = [
        _operation(method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag["name"] in operation["tags"]
    ]
    heading = (
        f'<h2 id="{_anchor(tag["name"])}">{escape(tag["name"])}</h2><p class="soft">{_text(tag["description"])}</p>'
    )
    return heading + "".join(operations)


def _operation(method: str, path: str, operation: Json) -> str:
    parts = [
        _access(operation.get("security", [])),
        _parameters(operation.get("parameters", [])),
        _request(method, path, operation),
        _answers(operation["responses"]),
    ]
    return (
        f'<details><summary><span class="method {method}">{method}</span><span class="path">{escape(path)}</span>'
        f'<span class="what">{_text(operation["summary"])}</span></summary><div class="body">{"".join(parts)}</div></details>'
    )


def _access(security: list[Json]) -> str:
    if not security:
        return ""
    needs = "wants one where the server has a token file" if {} in security else "always wants one"
    return f'<p class="soft">Token: {needs} (<code>authorization: Bearer TOKEN</code>).</p>'


def _parameters(parameters: list[Json]) -> str:
    rows = [
        (f"<code>{escape(one['name'])}</code> <span class='soft'>{escape(one['in'])}</span>", _text(one["description"]))
        for one in parameters
    ]
    return _table("Parameters", rows)


def _request(method: str, path: str, operation: Json) -> str:
    body = operation.get("requestBody")
    if body is None:
        return ""
    media = body["content"]["application/json"]
    shown = f"<h3>Body</h3><p>{_type(media['schema'])}{'' if body['required'] else ', optional'}</p>"
    shown += f"<p>{_text(body['description'])}</p>" if "description" in body else ""
    if "example" in media:
        example = path.replace("{model}", "mf").replace("{version}", "1")
        verb = "" if method == "POST" else f" -X {method}"
        data = shlex.quote(json.dumps(media["example"]))
        shown += f"<pre><code>{escape(f'curl -s{verb} localhost:8080{example} -d {data}')}</code></pre>"
    return shown


def _answers(responses: Json) -> str:
    rows: list[tuple[str, ...]] = []
    for status, response in responses.items():
        shown = [_content(kind, media["schema"]) for kind, media in response["content"].items()]
        types = " or ".join(shown) if status in _SHOWN_WITH_TYPE else ""
        rows.append((f"<code>{status}</code>", f"{_text(response['description'])} {types}"))
    return _table("Answers", rows)


def _content(kind: str, schema: Json) -> str:
    return _type(schema) if kind == "application/json" else f"{_type(schema)} <span class='soft'>{escape(kind)}</span>"


def _types(document: Json) -> str:
    shown = [
        f'<details id="{_anchor(name)}" open><summary><span class="path">{escape(name)}</span>'
        f'<span class="what">{_text(schema.get("description", ""))}</span></summary>'
        f'<div class="body">{_table("", _fields(schema))}</div></details>'
        for name, schema in sorted(document["components"]["schemas"].items())
    ]
    return f'<h2 id="{_anchor("Types")}">Types</h2>{"".join(shown)}'


def _fields(schema: Json) -> list[tuple[str, ...]]:
    required = schema.get("required", [])
    rows: list[tuple[str, ...]] = []
    for name, field in schema.get("properties", {}).items():
        unless = "" if name in required else " <span class='soft'>optional</span>"
        if field.get("default") not in (None, {}, [], ""):
            unless = f" <span class='soft'>{escape(json.dumps(field['default']))} unless told otherwise</span>"
        rows.append((f"<code>{escape(name)}</code>", _type(field) + unless))
    return rows or [(_type(schema) if "enum" in schema else "<span class='soft'>no fields</span>",)]


def _type(schema: Json) -> str:
    """A schema in a few words; those with a name link to it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{_anchor(name)}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    return _plain_type(schema)


def _plain_type(schema: Json) -> str:
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema['items'])}" if schema.get("items") else "list"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, Mapping) and values else "object"
    return "bytes" if schema.get("format") == "binary" else escape(str(kind))


def _table(title: str, rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    heading = f"<h3>{title}</h3>" if title else ""
    return f'{heading}<div class="scroll"><table>{body}</table></div>'


def _text(text: str) -> str:
    """Prose, with code between backticks."""
    pieces = escape(text).replace("``", "`").split("`")
    return "".join(f"<code>{piece}</code>" if position % 2 else piece for position, piece in enumerate(pieces))


def _anchor(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())
