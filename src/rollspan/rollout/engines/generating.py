"""One generation, from its request to its answer: over pauses, weight updates and servers that are lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import rollspan
from rollspan.rollout.errors import EngineError
from rollspan.rollout.requests import ModelRequest, ModelResponse, Segment

from . import sse
from .gate import Gate
from .http import (
    JSON,
    REPEATABLE,
    Connections,
    LostError,
    RefusedError,
    backoff,
    encoded,
    message_of,
    refuse,
)
from .protocol import Dialect, Part, Piece
from .servers import Server, Servers, words_of

MOST_EMPTY_ABORTS: Final = 6
"""Answers cut off before their first token, one after the other, without a pause or an update from here."""
GRACE_S: Final = 5.0
"""How long a server that was told to abort may take to send what it has."""


@dataclass(frozen=True)
class Means:
    """What a generation uses of its engine."""

    dialect: Dialect
    connections: Connections
    servers: Servers
    gate: Gate
    version: Callable[[], int]
    pushed: Callable[[], bool]
    request_timeout: float
    retries: int
    stream: bool
    jitter: random.Random
    in_background: Callable[[Coroutine[Any, Any, Any]], None]


class Generating:
    """One call of `agenerate`."""

    def __init__(self, means: Means, request: ModelRequest) -> None:
        """Raises ValueError for a request that makes no sense or cannot be asked of such a server."""
        gconfig = request.gconfig
        self._most = gconfig.max_new_tokens
        if gconfig.max_tokens is not None:
            self._most = min(self._most, gconfig.max_tokens - len(request.input_ids))
        if self._most <= 0:
            raise ValueError(
                f"max_tokens is {gconfig.max_tokens!r} with a prompt of {len(request.input_ids)} tokens; "
                "expected room for at least one more"
            )
        means.dialect.check(request)
        self._means = means
        self._request = request
        self._begun = time.perf_counter()
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pieces = 0
        self._paused_s = 0.0
        self._first: Piece | None = None
        self._server: Server | None = None
        self._response = ModelResponse(input_tokens=list(request.input_ids), tokenizer=request.tokenizer)

    def give_up(self) -> None:
        """Have it end with what it has, with the stop reason `abort`."""
        if not self._given_up.done():
            self._given_up.set_result(None)

    async def run(self, span: Any) -> ModelResponse:
        """The answer, described on `span`. Raises EngineError where there is none."""
        response, means = self._response, self._means
        try:
            response.stop_reason = await self._until_done()
        finally:
            if self._server is not None:
                span.set_attributes({"server.address": self._server.host, "server.port": self._server.port})
        response.latency = time.perf_counter() - self._begun
        response.ttft = min(response.ttft, response.latency)
        first = self._first or Piece()
        described: dict[str, Any] = {
            "input_tokens": first.prompt_tokens if first.prompt_tokens is not None else response.input_len,
            "output_tokens": first.output_tokens
            if first.output_tokens is not None and not response.output_len
            else response.output_len,
            "cached_tokens": first.cached_tokens,
            "weight_version": response.output_versions or means.version(),
            "finish_reasons": [response.stop_reason],
            "prompt": self._request.messages,
            "completion": response.message or response.text or None,
        }
        if len(response.segments) > 1 or any(segment.paused_s for segment in response.segments):
            described["segments"] = response.segments
        rollspan.record_generation(**{key: value for key, value in described.items() if value is not None})
        return response

    async def _until_done(self) -> str:
        failures = empty = 0
        output, gate = self._response.output_tokens, self._means.gate
        avoid: list[Server] = []
        while True:
            if not gate.is_open:
                self._paused_s += await self._unless_given_up(gate.passed()) or 0.0
            if self._given_up.done():
                return "abort"
            if len(output) >= self._most:
                return "length"
            closings, version = gate.closings, self._means.version()
            piece, begun = Piece(), time.perf_counter()
            error = await self._ask(piece, avoid)
            grown = self._take(piece, version, begun, whole=error is None and piece.finish_reason != "abort")
            if self._given_up.done():
                return "abort"
            if error is None and piece.finish_reason != "abort":
                return piece.finish_reason or "stop"
            if grown or gate.closings != closings:
                failures = empty = 0
                avoid.clear()
            if error is not None:
                failures += 1
                self._may_repeat(error, failures, avoid)
            elif not grown and gate.closings == closings:
                empty += 1
                if empty > MOST_EMPTY_ABORTS:
                    raise EngineError(
                        f"{self._where()} aborted the generation {self._request.rid} {empty} times before its "
                        "first token, without a weight update from here; is it paused by somebody else?"
                    )
            if failures or empty:
                await self._unless_given_up(asyncio.sleep(backoff(failures or empty, self._means.jitter)))

    def _where(self) -> str:
        return self._server.address if self._server is not None else "no server"

    def _may_repeat(self, error: Exception, failures: int, avoid: list[Server]) -> None:
        """Raise EngineError unless the request may be sent once more."""
        if isinstance(error, RefusedError):
            if not error.may_pass:
                raise EngineError(f"{self._where()} refused a generation ({words_of(error)})") from error
        elif not isinstance(error, REPEATABLE):
            raise EngineError(
                f"{self._where()} answered with what cannot be read ({words_of(error)})"
            ) from error
        if failures > self._means.retries:
            raise EngineError(
                f"a generation failed {failures} times, last at {self._where()} with {words_of(error)}; servers: "
                f"{self._means.servers.told()}"
            ) from error
        if self._server is not None:
            avoid.append(self._server)

    async def _ask(self, piece: Piece, avoid: list[Server]) -> Exception | None:
        """Send one request and read its answer into `piece`; gives what went wrong."""
        means = self._means
        server = means.servers.choose(self._server, avoid)
        if server is None:
            raise EngineError(f"no server has the weights of this engine: {means.servers.told()}")
        self._server = server
        rid = f"{self._request.rid}-{self._pieces}"
        self._pieces += 1
        part = Part(
            self._request,
            rid,
            self._response.output_tokens,
            self._most - len(self._response.output_tokens),
            means.stream,
        )
        call = means.dialect.generation(part)
        content, headers = encoded(call.body), {**JSON, **rollspan.carrier()}
        server.under_way += 1
        complete = False
        try:
            await self._unless_given_up(
                self._exchange(server, call.path, content, headers, piece),
                timeout=means.request_timeout,
                ending=lambda: self._abort_at(server, rid),
            )
            complete = piece.finish_reason is not None
            if piece.other_weights and means.pushed():
                server.behind = f"is back with weights of version {piece.other_weights}"
                piece.tokens, piece.logprobs, piece.finish_reason = [], [], None
                return LostError(f"{server.address} {server.behind}, which were not pushed")
            if not complete and not self._given_up.done():
                return LostError("the answer ended before it was complete")
        except RefusedError as error:
            complete = True
            if error.is_servers:
                means.servers.failed(server, words_of(error))
            return error
        except asyncio.TimeoutError:
            return asyncio.TimeoutError(f"no answer within request_timeout={means.request_timeout} s")
        except (RuntimeError, *REPEATABLE) as error:
            if means.connections.generations.is_closed:
                raise EngineError("the engine was closed while it generated") from error
            if isinstance(error, RuntimeError):
                raise
            means.servers.failed(server, words_of(error))
            return error
        except (KeyError, IndexError, TypeError, ValueError) as error:
            return error
        finally:
            server.under_way -= 1
            if not complete and not self._given_up.done():
                self._abort_at(server, rid)
        return None

    async def _exchange(
        self, server: Server, path: str, content: bytes, headers: dict[str, str], piece: Piece
    ) -> None:
        read, connections = self._means.dialect, self._means.connections
        url = server.address + path
        async with (
            connections.slots,
            connections.generations.stream("POST", url, content=content, headers=headers) as response,
        ):
            if not response.is_success or "event-stream" not in response.headers.get("content-type", ""):
                await response.aread()
                refuse(response)
                read.read(sse.json_object(response.content), piece)
                return
            async for event in sse.events(response):
                if "error" in event:
                    error = event["error"]
                    status = error.get("code") if isinstance(error, dict) else None
                    raise RefusedError(status if isinstance(status, int) else 500, message_of(event))
                read.read_event(event, piece)
                if piece.first_at is None and (piece.tokens or piece.text):
                    piece.first_at = time.perf_counter()

    def _take(self, piece: Piece, version: int, begun: float, *, whole: bool) -> bool:
        """Add what a request brought to the answer; gives whether that was anything."""
        response, now = self._response, time.perf_counter()
        if not whole and not self._means.dialect.can_go_on(self._request) and not self._given_up.done():
            return False  # it begins again
        if piece.finish_reason is None and not piece.tokens:
            return False
        if piece.weight_version is not None:
            version = piece.weight_version
        if self._first is None:
            self._first = piece
            if piece.prompt_token_ids is not None:
                response.input_tokens = piece.prompt_token_ids
        if piece.first_at is not None:
            response.ttft = min(response.ttft, piece.first_at - self._begun)
        response.output_tokens += piece.tokens
        response.output_logprobs += piece.logprobs
        response.output_versions += [version] * len(piece.tokens)
        response.text += piece.text
        response.message = piece.message
        count = len(piece.tokens) if piece.tokens else piece.output_tokens or 0
        response.segments.append(Segment(version, count, now - begun, self._paused_s))
        self._paused_s = 0.0
        return bool(piece.tokens)

    def _abort_at(self, server: Server, rid: str) -> bool:
        """Tell the server, in the background, that nobody waits any more; gives whether there is a way to."""
        call = self._means.dialect.aborting(rid)
        if call is None:
            return False

        async def tell() -> None:
            with contextlib.suppress(Exception):  # it may be gone, or the engine closed
                await self._means.connections.ask(server, call, GRACE_S)

        self._means.in_background(tell())
        return True

    async def _unless_given_up(
        self,
        doing: Coroutine[Any, Any, Any],
        *,
        timeout: float | None = None,
        ending: Callable[[], bool] = lambda: False,
    ) -> Any:
        """What `doing` gives; None where the generation is given up before.

        `ending` asks the other side to come to an end, and gives whether it will. Raises asyncio.TimeoutError.
        """
        task = asyncio.ensure_future(doing)
        task.add_done_callback(_looked_at)
        try:
            await asyncio.wait({task, self._given_up}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and self._given_up.done() and ending():
                await asyncio.wait({task}, timeout=GRACE_S)
            if task.done():
                return task.result()
            if not self._given_up.done():
                raise asyncio.TimeoutError
            return None
        finally:
            task.cancel()  # closes its connection


def _looked_at(task: asyncio.Future[Any]) -> None:
    """Nobody waits for a task that was cancelled: what it raises on its way out is not asyncio's to report."""
    if not task.cancelled():
        task.exception()
