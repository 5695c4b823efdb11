"""The servers behind one engine: which is asked next, and which is left out until it is healthy again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

Balance = Literal["round_robin", "least_loaded"]
BALANCES: Final = ("round_robin", "least_loaded")


@dataclass(eq=False)
class Server:
    """One address, and what is known of it."""

    address: str
    """`http://host:port`, without a slash at its end."""
    host: str
    port: int
    under_way: int = 0
    """Generations that are at it, from here."""
    last_error: str = ""
    """Why it is left out or was, in words; empty where it never failed."""
    healthy: bool = True
    behind: str = ""
    """Why its weights are not the engine's; empty where they are, as far as is known."""

    @property
    def usable(self) -> bool:
        """Whether it is to be asked."""
        return self.healthy and not self.behind


@dataclass(eq=False)
class Servers:
    """All of them. A server that fails is probed until it is healthy, by a task on the engine's loop."""

    all: Sequence[Server]
    balance: Balance
    probe_interval: float
    probe: Callable[[Server], Awaitable[None]]
    """Raises where the server is not healthy."""
    _turn: itertools.count[int] = field(default_factory=itertools.count)
    _probing: dict[Server, asyncio.Task[None]] = field(default_factory=dict)

    def choose(self, stay_with: Server | None = None, avoid: Collection[Server] = ()) -> Server | None:
        """The server to ask: `stay_with` where that is well, none of `avoid` where there is another.

        Where none is healthy an unhealthy one: it may be back. None where all are behind.
        """
        current = [s for s in self.all if not s.behind]
        for fit in (
            [s for s in current if s.healthy and s not in avoid],
            [s for s in current if s.healthy],
            [s for s in current if s not in avoid],
            current,
        ):
            if stay_with in fit:
                return stay_with
            if fit:
                return self._next_of(fit)
        return None

    def _next_of(self, fit: Sequence[Server]) -> Server:
        turn = next(self._turn)
        if self.balance == "round_robin":
            return fit[turn % len(fit)]
        fewest = min(server.under_way for server in fit)
        equal = [server for server in fit if server.under_way == fewest]
        return equal[turn % len(equal)]

    def failed(self, server: Server, why: str) -> None:
        """Leave it out, and look every `probe_interval` seconds whether it is back."""
        server.last_error = why
        server.healthy = False
        if server not in self._probing:
            self._probing[server] = asyncio.get_running_loop().create_task(self._until_healthy(server))

    async def _until_healthy(self, server: Server) -> None:
        try:
            while not server.healthy:
                await asyncio.sleep(self.probe_interval)
                try:
                    await self.probe(server)
                except Exception as error:  # noqa: BLE001 - it is not back, whatever it says
                    server.last_error = words_of(error)
                else:
                    server.healthy = True
        finally:
            self._probing.pop(server, None)

    def told(self) -> str:
        """Each address and what is wrong with it, in words."""
        return "; ".join(
            f"{server.address}: {server.behind or server.last_error or 'healthy'}" for server in self.all
        )

    async def aclose(self) -> None:
        """Probe no more."""
        probing = list(self._probing.values())
        for task in probing:
            task.cancel()
        if probing:
            await asyncio.wait(probing)


def servers_at(addresses: str | Sequence[str]) -> list[Server]:
    """The servers at `host:port` or `http://host:port`. Raises ValueError that names the address that is wrong."""
    if isinstance(addresses, (bytes, Mapping)) or not isinstance(addresses, Iterable):
        raise ValueError(
            f"addresses is {addresses!r}; expected host:port or http://host:port, or a list of such"
        )
    given = [addresses] if isinstance(addresses, str) else list(addresses)
    if not given:
        raise ValueError("addresses is empty; expected at least one, as http://host:port")
    made = [_server_at(address) for address in given]
    if len({server.address for server in made}) < len(made):
        raise ValueError(f"addresses names a server twice: {', '.join(given)}")
    return made


def _server_at(address: object) -> Server:
    wrong = f"address {address!r} is not an address; expected host:port or http://host:port"
    if not isinstance(address, str):
        raise ValueError(wrong)
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{wrong} ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(wrong)
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    return Server(url.rstrip("/"), parts.hostname, port)


def words_of(error: BaseException) -> str:
    """An error, in words that are never empty."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
