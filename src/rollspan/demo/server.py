"""Serves the policy over HTTP as SGLang does: `python -m rollspan.demo.server`.

`POST /generate`, `/update_weights_from_tensor` and `/abort_request`, `GET /health` and `/get_model_info`. It
listens on the loopback interface alone, prints `{"port": ...}` when it is ready, and leaves when its standard input
closes, so that it never outlives the program that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Any

import torch
from opentelemetry import propagate, trace

from rollspan.demo.config import DemoConfig
from rollspan.demo.engine import BadRequestError, Engine
from rollspan.demo.policy import Policy

MODEL = "rollspan-demo"


class Server:
    """Reads requests, asks the engine, writes replies."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[HTTPStatus, Any]:
        """The status and the JSON reply to one request."""
        try:
            if (method, path) == ("GET", "/health"):
                return HTTPStatus.OK, {}
            if (method, path) == ("GET", "/get_model_info"):
                version = self.engine.weight_version
                return HTTPStatus.OK, {"model_path": MODEL, "is_generation": True, "weight_version": version}
            if (method, path) == ("POST", "/generate"):
                return HTTPStatus.OK, await self.engine.generate(body)
            if (method, path) == ("POST", "/abort_request"):
                return HTTPStatus.OK, self._abort(body)
            if (method, path) == ("POST", "/update_weights_from_tensor"):
                return HTTPStatus.OK, self._update_weights(body)
        except BadRequestError as error:
            return HTTPStatus.BAD_REQUEST, {"error": {"message": str(error)}}
        return HTTPStatus.NOT_FOUND, {"error": {"message": f"there is no {method} {path}"}}

    def _abort(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("abort_all"):
            self.engine.abort()
        elif body.get("rid"):
            self.engine.abort(str(body["rid"]))
        else:
            raise BadRequestError("give the rid of the request to abort, or abort_all=true")
        return {}

    def _update_weights(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            (encoded,) = body["serialized_named_tensors"]
            data = base64.b64decode(encoded, validate=True)
            version = str(body["weight_version"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequestError(
                f"expected serialized_named_tensors (one base64 string) and weight_version: {error!r}"
            ) from error
        self.engine.update_weights(data, version, abort_all=bool(body.get("abort_all_requests", False)))
        return {"success": True, "message": f"weight version {version} is in use"}

    @staticmethod
    def _span(method: str, path: str, headers: dict[str, str]) -> AbstractContextManager[Any]:
        """The server's own part of its caller's trace, exported where an SDK is set up: `opentelemetry-instrument`."""
        return trace.get_tracer("rollspan.demo").start_as_current_span(
            f"{method} {path}",
            context=propagate.extract(headers),
            kind=trace.SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": path},
        )

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other, until the client leaves."""
        gone = (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError)
        with contextlib.suppress(*gone, asyncio.CancelledError):  # asyncio logs handlers that end cancelled
            while (request := await read_request(reader)) is not None:
                method, path, headers, body = request
                with self._span(method, path, headers):
                    status, reply = await self.answer(method, path, body)
                payload = json.dumps(reply).encode()
                head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
                writer.write(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
                await writer.drain()
        writer.close()


async def read_request(
    reader: asyncio.StreamReader,
) -> tuple[str, str, dict[str, str], dict[str, Any]] | None:
    """Method, path, headers and JSON body of the next request; None when it is no HTTP request that we know."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head.split("\r\n")
    parts = (header.partition(":") for header in rest)
    headers = {name.lower(): value.strip() for name, _, value in parts}
    try:
        method, path, _ = line.split(" ")
        length = int(headers.get("content-length", 0))
        body = json.loads(await reader.readexactly(length)) if length else {}
    except ValueError:
        return None
    return (method, path, headers, body) if isinstance(body, dict) else None


async def until_told_to_leave() -> None:
    """Return when standard input closes or a signal asks us to end."""
    loop = asyncio.get_running_loop()
    leave = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave.set)

    def on_input() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            leave.set()

    with contextlib.suppress(ValueError, OSError):  # a standard input that cannot be watched
        loop.add_reader(sys.stdin.fileno(), on_input)
    await leave.wait()


async def serve(seed: int, hidden_size: int) -> None:
    """Serve until told to leave."""
    engine = Engine(Policy(hidden_size, seed), seed)
    generating = asyncio.create_task(engine.run())
    server = await asyncio.start_server(Server(engine).serve_connection, "127.0.0.1", 0)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    leaving = asyncio.create_task(until_told_to_leave())
    await asyncio.wait({generating, leaving}, return_when=asyncio.FIRST_COMPLETED)
    server.close()
    if generating.done():
        generating.result()  # an engine that broke says why


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=DemoConfig.seed)
    parser.add_argument("--hidden-size", type=int, default=DemoConfig.hidden_size)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    asyncio.run(serve(arguments.seed, arguments.hidden_size))


if __name__ == "__main__":
    main()
