"""Tells every server something that has a side effect: pause, resume, new weights. None of it is sent twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from rollspan.rollout.errors import EngineError

from .http import NOT_SENT, Connections, RefusedError, backoff
from .protocol import Call
from .servers import Server, words_of


class Outcome:
    """What became of a call at each server."""

    def __init__(self) -> None:
        self.took: list[Server] = []
        self.refused: dict[Server, str] = {}
        """Did not take it, for certain."""
        self.unknown: dict[Server, str] = {}
        """May have taken it."""

    @property
    def failed(self) -> dict[Server, str]:
        """Those that are not known to have taken it."""
        return {**self.refused, **self.unknown}

    def check(self, what: str) -> None:
        """Raise EngineError unless every server took it."""
        if self.failed:
            raise EngineError(f"{what} failed: {told(self.failed)}")


def told(why: dict[Server, str]) -> str:
    """Addresses and reasons, in words."""
    return "; ".join(f"{server.address}: {reason}" for server, reason in why.items())


async def tell_all(
    servers: Sequence[Server],
    call: Call,
    connections: Connections,
    *,
    retries: int,
    timeout: float,
    jitter: random.Random,
    outcome: Outcome,
) -> None:
    """Send `call` to every server at the same time, and note in `outcome` what came of it.

    It is repeated only where no connection came about. Where this is cancelled, servers that have not answered
    are noted as unknown.
    """

    async def tell(server: Server) -> None:
        attempt = 0
        while True:
            try:
                await connections.ask(server, call, timeout)
            except NOT_SENT as error:
                attempt += 1
                if attempt > retries:
                    outcome.refused[server] = words_of(error)
                    return
                await asyncio.sleep(backoff(attempt, jitter))
            except RefusedError as error:
                outcome.refused[server] = words_of(error)
                return
            except asyncio.TimeoutError:
                outcome.unknown[server] = f"no answer within {timeout} s"
                return
            except asyncio.CancelledError:
                outcome.unknown[server] = "cancelled before it answered"
                raise
            except Exception as error:  # noqa: BLE001 - the connection was lost
                outcome.unknown[server] = words_of(error)
                return
            else:
                outcome.took.append(server)
                return

    await asyncio.gather(*(tell(server) for server in servers))
