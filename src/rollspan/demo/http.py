"""A small HTTP server: requests with JSON in, JSON or events (SSE) out, and it notices when a client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from opentelemetry import propagate, trace

from rollspan.demo.generation import BadRequestError


@dataclass(frozen=True)
class HttpRequest:
    """One request; `body` is {} where it had none, `query` what stood behind the question mark."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    query: Mapping[str, str]


Reply: TypeAlias = "dict[str, Any] | AsyncGenerator[dict[str, Any], None]"
"""A JSON object, or a generator of those that are sent as events."""
Handler: TypeAlias = Callable[[HttpRequest], Awaitable[Reply]]
Routes: TypeAlias = Mapping[tuple[str, str], Handler]
"""By method and path."""

_GONE = (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError)


class HttpServer:
    """Answers the requests of connections by its routes."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other, until the client leaves."""
        with contextlib.suppress(*_GONE, asyncio.CancelledError):  # asyncio logs handlers that end cancelled
            first = b""
            while (request := await read_request(reader, first)) is not None:
                answering = asyncio.ensure_future(self._answer(request, writer))
                looking = asyncio.ensure_future(reader.read(1))
                try:
                    await asyncio.wait({answering, looking}, return_when=asyncio.FIRST_COMPLETED)
                    if looking.done() and not looking.result():  # nobody is there who would read it
                        break
                    await answering
                    first = await looking
                finally:
                    for task in (answering, looking):
                        task.cancel()
                    await asyncio.wait({answering, looking})
                    if not answering.cancelled():
                        answering.exception()
        writer.close()

    async def _answer(self, request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        with _span(request):
            handler = self._routes.get((request.method, request.path))
            status = HTTPStatus.OK
            reply: Reply
            try:
                if handler is None:
                    status = HTTPStatus.NOT_FOUND
                    reply = {"error": {"message": f"there is no {request.method} {request.path}"}}
                else:
                    reply = await handler(request)
            except BadRequestError as error:
                status, reply = HTTPStatus.BAD_REQUEST, {"error": {"message": str(error)}}
            if isinstance(reply, dict):
                payload = json.dumps(reply).encode()
                writer.write(head(status, "application/json", f"Content-Length: {len(payload)}") + payload)
                await writer.drain()
            else:
                await _send_events(reply, writer)


async def _send_events(events: AsyncGenerator[dict[str, Any], None], writer: asyncio.StreamWriter) -> None:
    writer.write(head(HTTPStatus.OK, "text/event-stream", "Transfer-Encoding: chunked"))
    async with contextlib.aclosing(events):  # where the client has left, whoever makes them is told now
        async for event in events:
            writer.write(_chunk(json.dumps(event)))
            await writer.drain()
    writer.write(_chunk("[DONE]") + b"0\r\n\r\n")
    await writer.drain()


def _chunk(data: str) -> bytes:
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


def head(status: HTTPStatus, content_type: str, length: str) -> bytes:
    """The lines before a reply's body."""
    return f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n{length}\r\n\r\n".encode()


async def read_request(reader: asyncio.StreamReader, first: bytes = b"") -> HttpRequest | None:
    """The next request, of which `first` was read before; None when it is no HTTP request that we know."""
    lines = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    parts = (header.partition(":") for header in lines[1:])
    headers = {name.lower(): value.strip() for name, _, value in parts}
    try:
        method, target, _ = lines[0].split(" ")
        length = int(headers.get("content-length", 0))
        body = json.loads(await reader.readexactly(length)) if length else {}
    except ValueError:
        return None
    path, _, query = target.partition("?")
    return (
        HttpRequest(method, path, headers, body, dict(parse_qsl(query))) if isinstance(body, dict) else None
    )


def _span(request: HttpRequest) -> AbstractContextManager[Any]:
    """The server's own part of its caller's trace, exported where an SDK is set up: `opentelemetry-instrument`."""
    return trace.get_tracer("rollspan.demo").start_as_current_span(
        f"{request.method} {request.path}",
        context=propagate.extract(request.headers),
        kind=trace.SpanKind.SERVER,
        attributes={"http.request.method": request.method, "url.path": request.path},
    )
