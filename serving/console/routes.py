"""The console's paths. Whatever takes files, SQLite or compression happens in one thread of its own; the event loop only asks.

Who may look: on loopback without a token file everybody on this machine; else whoever has a token for it. The page itself
and its scripts hold nothing worth hiding and are open. A browser that opens a link sends no ``authorization`` header, so the
page trades a token for a cookie that no script can read, and that goes to ``/console`` alone.
"""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from driftwheel.errors import InvalidRequestError, NotFoundError, OverloadedError, PermissionDeniedError
from driftwheel.names import is_name
from driftwheel.settings import Settings
from serving.access import Access, Role
from serving.console.history import History, read_history
from serving.console.ledger import LedgerReader
from serving.console.overview import Home
from serving.console.pages import PAGE, PAGE_POLICY, REPORT_POLICY, read_page_file
from serving.console.reports import read_report
from serving.security import is_loopback
from serving.transports.asgi import Headers
from serving.transports.http import encoded
from serving.transports.routing import JSON, Request, Response, Route

_MOST_WAITING = 32
"""Requests that may wait for the thread."""

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]{1,4096}=*")
"""What RFC 6750 lets a bearer token be; all of it may stand in a cookie."""

_PRIVATE: Headers = [(b"referrer-policy", b"no-referrer"), (b"cross-origin-resource-policy", b"same-origin")]


class Console:
    """``/console`` and what is below it.

    Args:
        access: Knows the tokens.
    """

    def __init__(self, settings: Settings, access: Access) -> None:
        self._access = access
        self._by_token = settings.security.token_file is not None
        self._local = is_loopback(settings.serving.host)
        # Cookies do not tell ports apart, and two servers may share a host.
        self._cookie = f"driftwheel_console_{settings.serving.port}".encode()
        self._attributes = b"; Path=/console; HttpOnly; SameSite=Strict" + (
            b"; Secure" if settings.security.tls else b""
        )
        self._home = Home(settings)
        self._ledger = LedgerReader(settings.ledger)
        self._reports = settings.reports
        self._looks = settings.looks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="console")
        self._waiting = 0

    def routes(self) -> list[Route]:
        """Not in the OpenAPI page: these are the page's own, and change with it."""
        return [
            Route("GET", "/console", self._page, role=None),
            Route("GET", "/console/{file}", self._file, role=None),
            Route("POST", "/console/session", self._sign_in, role=None),
            Route("DELETE", "/console/session", self._sign_out, role=None),
            Route("GET", "/console/api/overview", self._overview, role=None),
            Route("GET", "/console/api/models/{model}", self._model, role=None),
            Route("GET", "/console/reports/{model}/{file}", self._report, role=None),
        ]

    def close(self) -> None:
        """Give the thread back."""
        self._thread.shutdown(cancel_futures=True)

    async def _page(self, request: Request) -> Response:
        return await self._static(request, PAGE)

    async def _file(self, request: Request) -> Response:
        return await self._static(request, request.parts[0])

    async def _static(self, request: Request, name: str) -> Response:
        def work() -> Response:
            content, kind = read_page_file(name)
            return Response(content, content_type=kind, headers=[(b"content-security-policy", PAGE_POLICY)])

        return await self._in_thread(request, work)

    async def _overview(self, request: Request) -> Response:
        self._require(request)
        return await self._json(request, lambda: self._home.overview(signed_in=self._by_token))

    async def _model(self, request: Request) -> Response:
        self._require(request)
        (model,) = request.parts

        def work() -> History:
            if not is_name(model):
                raise NotFoundError(f"no model {model[:80]!r}")
            return read_history(self._ledger, self._reports, self._looks, model)

        return await self._json(request, work)

    async def _report(self, request: Request) -> Response:
        self._require(request)
        model, file = request.parts

        def work() -> Response:
            headers = [(b"content-security-policy", REPORT_POLICY)]
            content = read_report(self._reports, model, file)
            return Response(content, content_type=b"text/html; charset=utf-8", headers=headers)

        return await self._in_thread(request, work)

    async def _sign_in(self, request: Request) -> Response:
        """Trade a token, which comes as everywhere else, for a cookie."""
        if not self._by_token:
            self._require(request)
            return Response(b"", status=204)
        authorization = request.header(b"authorization")
        self._access.require(Role.CONSOLE, authorization)
        token = authorization.partition(b" ")[2].strip()
        if not _TOKEN.fullmatch(token):
            raise InvalidRequestError("the token holds characters that cannot stand in a cookie")
        cookie = self._cookie + b"=" + token + self._attributes
        return Response(b"", status=204, headers=[(b"set-cookie", cookie)])

    async def _sign_out(self, request: Request) -> Response:
        del request
        cookie = self._cookie + b"=" + self._attributes + b"; Max-Age=0"
        return Response(b"", status=204, headers=[(b"set-cookie", cookie)])

    def _require(self, request: Request) -> None:
        """Let those pass who may look.

        Raises:
            UnauthenticatedError, PermissionDeniedError: As ``Access.require``; or a network can reach the server, and there
                is no token file.
        """
        if self._by_token:
            self._access.require(Role.CONSOLE, request.header(b"authorization") or self._from_cookie(request))
        elif not self._local:
            raise PermissionDeniedError(
                "the console of a server that a network can reach needs a token: make one with "
                "`driftwheel token new --role console --name NAME` and start the server again"
            )

    def _from_cookie(self, request: Request) -> bytes:
        for name, value in request.headers:
            for pair in value.split(b";") if name == b"cookie" else ():
                key, _, token = pair.strip().partition(b"=")
                if key == self._cookie and token:
                    return b"Bearer " + token
        return b""

    async def _json(self, request: Request, work: Callable[[], Any]) -> Response:
        return await self._in_thread(request, lambda: Response(msgspec.json.encode(work()), content_type=JSON))

    async def _in_thread(self, request: Request, work: Callable[[], Response]) -> Response:
        """Make a whole answer, compressed where the browser likes that, beside the event loop.

        Raises:
            OverloadedError: Too many wait for the thread.
        """
        if self._waiting >= _MOST_WAITING:
            raise OverloadedError(f"{_MOST_WAITING} requests to the console are waiting already")
        accept = request.header(b"accept-encoding")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: _finished(work(), accept))
        finally:
            self._waiting -= 1


def _finished(response: Response, accept: bytes) -> Response:
    body, encoding = encoded(response, accept)
    headers = [*response.headers, *_PRIVATE, *encoding]
    return Response(body, response.status, response.content_type, headers, encoded=True)
