"""A real HTTP server on the test's event loop that does what it is told: answers, refuses, hangs, hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from rollspan.demo.http import HttpRequest, head, read_request


@dataclass(frozen=True)
class Says:
    """A JSON object with a status."""

    body: dict[str, Any] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True)
class Streams:
    """Events, and then the end of the connection, in the middle of the answer."""

    events: list[dict[str, Any]]


class Hangs:
    """Never answers."""


class HangsUp:
    """Closes the connection without an answer."""


Action = Says | Streams | Hangs | HangsUp


class Scripted:
    """Use as an async context manager. `actions` decides by path; what is not in there is answered with {}."""

    def __init__(
        self, actions: dict[str, Action | Callable[[HttpRequest], Action]] | None = None, port: int = 0
    ) -> None:
        self._port = port
        self.actions = actions or {}
        self.asked: list[HttpRequest] = []
        self.lost = 0
        """Connections that the client closed while it was to wait."""
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Scripted:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=4096)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def to(self, path: str) -> list[HttpRequest]:
        """Requests of this path so far."""
        return [request for request in self.asked if request.path == path]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        gone = (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError)
        with contextlib.suppress(*gone):
            while (request := await read_request(reader)) is not None:
                self.asked.append(request)
                action = self.actions.get(request.path, Says())
                if not isinstance(action, Action):
                    action = action(request)
                if isinstance(action, Says):
                    body = json.dumps(action.body).encode()
                    length = f"Content-Length: {len(body)}"
                    writer.write(head(HTTPStatus(action.status), "application/json", length) + body)
                    await writer.drain()
                    continue
                if isinstance(action, Streams):
                    writer.write(head(HTTPStatus.OK, "text/event-stream", "Transfer-Encoding: chunked"))
                    for event in action.events:
                        data = f"data: {json.dumps(event)}\n\n".encode()
                        writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                    await writer.drain()
                if isinstance(action, Hangs):
                    await reader.read()
                    self.lost += 1
                break
        writer.close()
        self._connections.discard(connection)


def generated(tokens: list[int], reason: str | None = "length", version: object = None) -> dict[str, Any]:
    """What SGLang answers to `/generate`."""
    return {
        "text": "",
        "output_ids": tokens,
        "meta_info": {
            "finish_reason": None if reason is None else {"type": reason},
            "prompt_tokens": 3,
            "completion_tokens": len(tokens),
            "cached_tokens": 0,
            "weight_version": version,
            "output_token_logprobs": [[-0.5, token, None] for token in tokens],
        },
    }


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so; half a minute at most."""

    async def look() -> None:
        while not condition():  # noqa: ASYNC110 - it is about more than we are told of
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), 30)
