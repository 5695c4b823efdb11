"""Connections to servers, and the rule of what may be repeated."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Mapping
from typing import Any, Final

import httpx
import orjson

from .protocol import Call
from .servers import Server

NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""No connection came about: the server knows nothing of the request."""
CONNECT_TIMEOUT_S: Final = 10.0
POOLS: Final = 32
# Common servers close idle connections after five seconds.
KEPT: Final = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0)
FIRST_BACKOFF_S: Final = 0.1
LONGEST_BACKOFF_S: Final = 5.0
OVERLOADED: Final = (408, 429)


class RefusedError(Exception):
    """A server answered with a status that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status

    @property
    def is_servers(self) -> bool:
        """Whether the server is to blame, not the request."""
        return self.status >= 500

    @property
    def may_pass(self) -> bool:
        """Whether the same request may find an answer later or elsewhere."""
        return self.is_servers or self.status in OVERLOADED


class LostError(Exception):
    """The answer ended before it was complete."""


REPEATABLE: Final = (httpx.TransportError, LostError, asyncio.TimeoutError)
"""What ends a request of which nobody knows what became; repeated only where that has no side effect."""


class SpreadTransport(httpx.AsyncBaseTransport):
    """Many small pools in the place of a large one, asked in turn.

    A pool looks through all of its connections at every request, and again at its end: with thousands at once that
    costs more than everything else.
    """

    def __init__(self) -> None:
        verify = httpx.create_ssl_context(trust_env=False)
        self._pools = [
            httpx.AsyncHTTPTransport(verify=verify, limits=KEPT, trust_env=False) for _ in range(POOLS)
        ]
        self._turn = itertools.cycle(self._pools)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it by the next pool."""
        return await next(self._turn).handle_async_request(request)

    async def aclose(self) -> None:
        """Close all."""
        for pool in self._pools:
            await pool.aclose()


class Connections:
    """Connections for generations, and others for what has a side effect.

    Of the second kind none is kept open: a connection that a server closes in the moment in which it is used again
    would leave it unknown whether the request had arrived.
    """

    def __init__(self, *, max_connections: int, trust_env: bool, headers: Mapping[str, str]) -> None:
        def client(**options: Any) -> httpx.AsyncClient:
            timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
            return httpx.AsyncClient(
                timeout=timeout, trust_env=trust_env, headers=headers, follow_redirects=False, **options
            )

        self.slots = asyncio.Semaphore(max_connections)
        """One for each generation that is under way."""
        # httpx looks for proxies only where it makes the pool.
        self.generations = client(limits=KEPT) if trust_env else client(transport=SpreadTransport())
        self._single = client(limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))

    async def ask(self, server: Server, call: Call, timeout: float) -> dict[str, Any]:
        """Send one request over a connection of its own, and give the JSON object answered, {} where it is none.

        Raises RefusedError for a status that is no success, asyncio.TimeoutError, and httpx's errors.
        """
        return await asyncio.wait_for(self._ask(server, call), timeout)

    async def _ask(self, server: Server, call: Call) -> dict[str, Any]:
        response = await self._single.request(
            call.method,
            server.address + call.path,
            content=encoded(call.body) if call.method == "POST" else None,
            headers=JSON,
        )
        refuse(response)
        answer = parsed(response)
        if answer.get("success") is False:
            raise RefusedError(response.status_code, str(answer.get("message", "success is false")))
        return answer

    async def aclose(self) -> None:
        """Close all."""
        await self.generations.aclose()
        await self._single.aclose()


JSON: Final = {"Content-Type": "application/json"}


def encoded(body: Mapping[str, Any]) -> bytes:
    """A request's body. Raises ValueError for what cannot be JSON."""
    try:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise ValueError(f"a request cannot be written as JSON: {error}") from error


def parsed(response: httpx.Response) -> dict[str, Any]:
    """The JSON object in a response that has been read, {} where it holds none."""
    try:
        answer = orjson.loads(response.content)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def refuse(response: httpx.Response) -> None:
    """Raise RefusedError unless the status of a response that has been read is a success."""
    if not response.is_success:
        raise RefusedError(response.status_code, message_of(parsed(response)) or response.text[:500])


def message_of(answer: Mapping[str, Any]) -> str:
    """What an answer says of an error, in the ways in which servers say it; empty where it says nothing."""
    error = answer.get("error") or answer.get("detail") or answer.get("message") or ""
    return str(error.get("message", error) if isinstance(error, dict) else error)


def backoff(attempt: int, jitter: random.Random) -> float:
    """Seconds to wait before the repetition `attempt` (1, 2, ...): twice as long each time, half of it by chance."""
    longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (attempt - 1))
    return longest * (0.5 + 0.5 * jitter.random())
