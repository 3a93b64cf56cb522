"""The OpenAPI page of the routes, made from the routes and from the structs that their handlers read and write: what it says
cannot differ from what is served.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from serving.about import server_version
from serving.access import Role
from serving.codes import INTERNAL
from serving.transports.http import Doc, Request, Response, Route
from serving.transports.routing import LARGEST_NUMBER, LONGEST_TIMEOUT_MS, TIMEOUT_HEADER, Fault
from serving.versions import ARM_HEADER

Json = dict[str, Any]

_ABOUT = """\
One port speaks the Open Inference Protocol (with Triton's extensions), TorchServe's inference API, and typed JSON; and
gRPC, which is not on this page. Bodies may come, and answers go, as gzip or deflate. Unknown query parameters are ignored."""

_TAGS = {
    "Typed JSON": "For people and for programs without a client library.",
    "Open Inference Protocol": "Version 2, as KServe, Triton and MLServer speak it. Tensors have shape `[rows]`.",
    "Triton's extensions": "What Triton's clients ask beyond the protocol.",
    "TorchServe's API": "For those who move from TorchServe: their clients need another address and nothing else.",
    "Health and metrics": "Open to everybody, for load balancers and monitors.",
    "About": "This page.",
}

_REASONS = {
    400: "The request cannot be used; the message names the field, what was expected and what came.",
    401: "A token is needed, or it is not known.",
    403: "The token's role does not reach that far, or a page of another site sent the request.",
    404: "No such model or version.",
    413: "Too many rows or bytes.",
    415: "The body's content type or encoding is not one that is read.",
    429: "The queue is full; `Retry-After` says when to come again.",
    500: "The model failed on this request.",
    503: "Not ready: loading, or shutting down.",
    504: "The deadline passed before the answer.",
}

_VARIABLES: dict[str, Json] = {
    "model": {
        "description": "A model's name.",
        "schema": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,63}$"},
        "example": "mf",
    },
    "version": {
        "description": "One of its loaded versions.",
        "schema": {"type": "string", "minLength": 1},
        "example": "1",
    },
}

METRICS_DOC = Doc(summary="Metrics for Prometheus", tag="Health and metrics", media="text/plain")

_TIMEOUT: Json = {
    "name": TIMEOUT_HEADER.decode(),
    "in": "header",
    "description": "How many milliseconds the caller will wait; what expires before it runs is not run.",
    "schema": {"type": "integer", "minimum": 0, "maximum": LONGEST_TIMEOUT_MS},
}

_ARM: Json = {
    "name": ARM_HEADER.decode(),
    "in": "header",
    "description": "Who is to answer, whatever the split says: `candidate`, `control`, `stable` or a version. A version in the "
    "path or the body goes before it.",
    "schema": {"type": "string", "pattern": "^(candidate|control|stable|[0-9]{1,9})$"},
}

_JSON_LENGTH: Json = {
    "name": "inference-header-content-length",
    "in": "header",
    "description": "The length of the JSON in a body that has tensors as bytes behind it.",
    "schema": {"type": "integer", "minimum": 1},
}


class FaultJson(msgspec.Struct):
    """Why a request was not answered."""

    error: str


class OpenApi:
    """The document of a set of routes. Those without a ``doc`` stay unmentioned."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = [(route, route.doc) for route in routes if route.doc is not None]
        self._faults = {route.fault_body: type(route.fault_body(Fault(INTERNAL, ""))) for route in routes}
        schemas, self._components = _schemas(self._types())
        self._schemas = dict(zip(map(_key, self._types()), schemas, strict=True))

    def document(self) -> Json:
        """OpenAPI 3.1, as JSON."""
        paths: dict[str, Json] = {}
        for route, doc in self._routes:
            paths.setdefault(route.path, {})[route.method.lower()] = self._operation(route, doc)
        used = [tag for tag in _TAGS if any(doc.tag == tag for _, doc in self._routes)]
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Driftwheel",
                "version": server_version(),
                "description": _ABOUT,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": tag, "description": _TAGS[tag]} for tag in used],
            "paths": paths,
            "components": {
                "schemas": self._components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }

    def _types(self) -> list[Any]:
        bodies = [kind for _, doc in self._routes for kind in (doc.body, doc.answer) if kind is not None]
        return [*bodies, FaultJson, *(_fault_type(kind) for kind in self._faults.values())]

    def _operation(self, route: Route, doc: Doc) -> Json:
        operation: Json = {
            "tags": [doc.tag],
            "summary": doc.summary,
            "operationId": _operation_id(route),
            "security": _security(route.role),
            "parameters": _parameters(route, doc),
            "responses": self._responses(route, doc),
        }
        if doc.body is not None:
            operation["requestBody"] = self._request_body(doc)
        return {name: value for name, value in operation.items() if value != []}

    def _request_body(self, doc: Doc) -> Json:
        media: Json = {"schema": self._schemas[_key(doc.body)]}
        if doc.example is not None:
            media["example"] = doc.example
        body: Json = {"required": doc.body_required, "content": {"application/json": media}}
        if doc.any_body:
            body["description"] = doc.any_body
        if doc.binary:
            body["description"] = (
                "Tensors may come as bytes behind the JSON, as Triton's binary tensor extension has it: each says how many "
                "with its parameter `binary_data_size`, and `inference-header-content-length` says how long the JSON is."
            )
        return body

    def _responses(self, route: Route, doc: Doc) -> Json:
        schema = {"type": "string"} if doc.answer is None else self._schemas[_key(doc.answer)]
        content: Json = {doc.media: {"schema": schema}}
        if doc.binary:
            content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
        responses: Json = {"200": {"description": "The answer.", "content": content}}
        own = self._schemas[_key(_fault_type(self._faults[route.fault_body]))]
        for status in sorted({*doc.statuses, *_implied(route, doc)}):
            shapes = [own]
            if status == 400 and own != (front_door := self._schemas[_key(FaultJson)]):
                shapes.append(front_door)  # what is refused before the route is known
            if status == 503 and route.method == "GET":
                shapes.append(schema)
            described = {"application/json": {"schema": {"anyOf": shapes} if len(shapes) > 1 else own}}
            responses[str(status)] = {"description": _REASONS[status], "content": described}
            if status == 429:
                seconds = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
                responses["429"]["headers"] = {"Retry-After": seconds}
        return responses


def _schemas(types: list[Any]) -> tuple[tuple[Json, ...], Json]:
    return msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")


def _key(kind: Any) -> str:
    return repr(kind)


def _fault_type(kind: Any) -> Any:
    return FaultJson if kind is dict else kind


def _implied(route: Route, doc: Doc) -> set[int]:
    """The codes that follow from what a route takes and from who may call it."""
    implied = {403}
    if route.role is not None:
        implied.add(401)
    if "{" in route.path:
        implied |= {400, 404}
    if doc.body is not None:
        implied |= {400, 413, 415}
    return implied


def _security(role: Role | None) -> list[Json]:
    """Admin methods want a token always, the others where the server has a token file."""
    if role is None:
        return []
    return [{"token": []}] if role is Role.ADMIN else [{"token": []}, {}]


def _parameters(route: Route, doc: Doc) -> list[Json]:
    names = re.findall(r"{(\w+)}", route.path)
    path = [{"name": name, "in": "path", "required": True, **_VARIABLES[name]} for name in names]
    query = [
        {
            "name": name,
            "in": "query",
            "description": what,
            "schema": {"type": "integer", "minimum": 0, "maximum": LARGEST_NUMBER},
        }
        for name, what in doc.query
    ]
    return [*path, *query, *([_TIMEOUT, _ARM] if 504 in doc.statuses else []), *([_JSON_LENGTH] if doc.binary else [])]


def _operation_id(route: Route) -> str:
    words = re.findall(r"\w+", route.path)
    return "_".join([route.method.lower(), *words])


class AboutPages:
    """The document, and the page that people read."""

    def __init__(self, routes: Sequence[Route]) -> None:
        from serving.transports.docs_page import CONTENT_SECURITY_POLICY, page

        self._routes = self._own_routes()
        document = OpenApi([*routes, *self._routes]).document()
        self._json = msgspec.json.encode(document)
        self._html = page(document).encode()
        self._policy = CONTENT_SECURITY_POLICY.encode()

    def routes(self) -> list[Route]:
        """Their paths."""
        return self._routes

    def _own_routes(self) -> list[Route]:
        described = Doc(summary="This page as OpenAPI 3.1", tag="About", answer=dict[str, Any])
        shown = Doc(summary="This page", tag="About", media="text/html")
        return [
            Route("GET", "/openapi.json", self._document, role=None, doc=described),
            Route("OPTIONS", "/", self._document, role=None, doc=described),
            Route("GET", "/docs", self._page, role=None, doc=shown),
            Route("GET", "/", self._page, role=None, doc=shown),
        ]

    async def _document(self, request: Request) -> Response:
        del request
        return Response(self._json)

    async def _page(self, request: Request) -> Response:
        del request
        headers = [(b"content-security-policy", self._policy), (b"referrer-policy", b"no-referrer")]
        return Response(self._html, content_type=b"text/html; charset=utf-8", headers=headers)
