"""What the engines have in common: versions, pauses, weight updates, and generations under all of that."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import rollspan
from rollspan.rollout.errors import EngineError, check_whole
from rollspan.rollout.requests import ModelRequest, ModelResponse

from .gate import Gate
from .generating import Generating, Means
from .http import Connections
from .protocol import Call, Dialect
from .servers import BALANCES, Balance, Server, Servers, servers_at
from .updates import Outcome, tell_all, told

PROBE_TIMEOUT_S: Final = 10.0
CLOSING_TIMEOUT_S: Final = 5.0
PAUSE: Final = "pause"
UPDATE: Final = "update"


class RemoteEngine:
    """An `InferenceEngine` of one or more servers that have the same weights.

    It serves one event loop at a time, and opens its connections when it is first used there; after `aclose`, or
    when that loop is closed, another may use it. Generations, weights, pauses: see the methods.

    `addresses`: `host:port` or `http://host:port`, one or several. `model`: its name, for servers and spans.
    `request_timeout`: seconds for one request and its whole answer. `retries`: how often a request that failed is
    repeated; one that made progress counts anew. `max_connections`: to all servers together, generations beyond it
    wait. `balance`: `round_robin`, or `least_loaded` (fewest under way from here). `probe_interval`: seconds between
    two looks at a server that is left out. `stream`: answers are streamed, which tells the time to the first token
    and keeps what a lost server had written. `api_key`: sent as a bearer token. `trust_env`: use proxies that the
    environment names. Raises ValueError for what makes no sense.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        dialect: Dialect,
        *,
        model: str | None,
        request_timeout: float,
        retries: int,
        max_connections: int,
        balance: Balance,
        probe_interval: float,
        stream: bool,
        api_key: str | None,
        trust_env: bool,
    ) -> None:
        for name, value in (("request_timeout", request_timeout), ("probe_interval", probe_interval)):
            if type(value) not in (int, float) or not value > 0:
                raise ValueError(f"{name} is {value!r}; expected seconds above 0")
        for name, count, least in (("retries", retries, 0), ("max_connections", max_connections, 1)):
            check_whole(name, count, least)
        if balance not in BALANCES:
            raise ValueError(f"balance is {balance!r}; expected one of {', '.join(BALANCES)}")
        self._dialect = dialect
        self._model = model
        self._request_timeout = request_timeout
        self._retries = retries
        self._max_connections = max_connections
        self._balance = balance
        self._probe_interval = probe_interval
        self._stream = stream
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._trust_env = trust_env
        self._servers = Servers(servers_at(addresses), balance, probe_interval, self._probe)
        self._gate = Gate()
        self._version = 0
        self._pushed = False
        self._jitter = random.Random()  # its own: a program's seeds decide nothing here, and are not used up
        self._under_way: defaultdict[str, set[Generating]] = defaultdict(set)
        self._background: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._means: Means | None = None
        self._changing: asyncio.Lock | None = None

    @property
    def addresses(self) -> list[str]:
        """Of its servers."""
        return [server.address for server in self._servers.all]

    @property
    def unusable(self) -> dict[str, str]:
        """Addresses that are left out now, and why."""
        return {s.address: s.behind or s.last_error for s in self._servers.all if not s.usable}

    def get_version(self) -> int:
        """The version of the weights that the servers have, as far as this engine knows."""
        return self._version

    def set_version(self, version: int) -> None:
        """Say which version the servers have. Raises ValueError for what is no whole number of at least 0."""
        check_whole("version", version, 0)
        self._version = version

    async def agenerate(self, request: ModelRequest) -> ModelResponse:
        """Generate one answer (whatever `gconfig.n_samples` says), as one `generate` phase.

        What a pause or a weight update cuts off goes on from its tokens, under the new weights; what a lost server
        cuts off goes on at another. A chat begins again then. Each token has the version that wrote it: the
        server's where it tells a number, else this engine's when it was asked for. Where this is cancelled the
        server is told so, without waiting for it.

        Raises ValueError for a request that makes no sense or is more than such servers can do, EngineError where
        the servers did not answer it in as many tries as `retries` allows.
        """
        means = self._here()
        generating = Generating(means, request)
        with rollspan.phase("generate", **self._described(request)) as span:
            same = self._under_way[request.rid]
            same.add(generating)
            try:
                return await generating.run(span)
            finally:
                same.discard(generating)
                if not same:
                    self._under_way.pop(request.rid, None)

    def _described(self, request: ModelRequest) -> dict[str, Any]:
        described = {"provider": self._dialect.provider, "operation": self._dialect.operation(request)}
        return described if self._model is None else {**described, "model": self._model}

    async def abort(self, rid: str) -> None:
        """Give the generations of this `ModelRequest.rid` up: they end with what they have, `stop_reason` abort."""
        for generating in tuple(self._under_way.get(rid, ())):
            generating.give_up()

    async def pause(self) -> None:
        """Cut generations off, and hold them and new ones back until `resume`, here and at every server.

        Raises EngineError where a server was not told; they are held back here all the same.
        """
        call = self._can("pause", self._dialect.pausing)
        self._here()
        self._gate.hold(PAUSE)
        async with self._lock():
            (await self._tell(call)).check("the pause")

    async def resume(self) -> None:
        """Generations go on. Raises EngineError where a server was not told."""
        call = self._can("be resumed", self._dialect.resuming)
        self._here()
        async with self._lock():
            try:
                (await self._tell(call)).check("the end of the pause")
            finally:
                self._gate.release(PAUSE)

    async def update_weights(self, weights: bytes | str | Path, version: int) -> None:
        """Push weights to every server; generations are cut off before, and go on under `version` after.

        `weights` is what the servers take: see the engine's class. Whatever happens, generations go on in the end,
        unless `pause` was called before.

        Raises ValueError for a version or weights that make no sense, and EngineError where a server did not take
        them. Servers that are not known to have the same weights as those that took them are left out from then
        on, until an update reaches them; where none took them, the version stays what it was.
        """
        check_whole("version", version, 0)
        call = self._dialect.weights(weights, version)
        self._here()
        async with self._lock():
            self._gate.hold(UPDATE)
            outcome, resumed = Outcome(), Outcome()
            try:
                await self._push(call, outcome)
            finally:
                try:
                    self._note(outcome, version)
                    if self._dialect.resuming is not None and not self._gate.held_by(PAUSE):
                        resumed = await self._tell(self._dialect.resuming)
                finally:
                    self._gate.release(UPDATE)
        self._check_update(outcome, version)
        resumed.check("the end of the pause for a weight update")

    async def _push(self, call: Call, outcome: Outcome) -> None:
        """Push weights to every server that could be paused: else tokens would be of both the old and the new."""
        servers = list(self._servers.all)
        if self._dialect.pausing is not None and not self._gate.held_by(PAUSE):
            paused = await self._tell(self._dialect.pausing)
            for server, reason in paused.failed.items():
                outcome.refused[server] = f"could not be paused: {reason}"
            servers = paused.took
        await self._tell(call, outcome, servers)

    def _note(self, outcome: Outcome, version: int) -> None:
        """What a push has left: who has which weights."""
        for server in outcome.took:
            server.behind = ""
        if outcome.took:
            self._version = version
            self._pushed = True
        for server, reason in outcome.unknown.items():
            server.behind = f"may have got weights of version {version} or not ({reason})"
        for server, reason in outcome.refused.items():
            if outcome.took:
                server.behind = f"did not take weights of version {version} ({reason})"

    def _check_update(self, outcome: Outcome, version: int) -> None:
        failed = outcome.failed
        if not failed:
            return
        took = ", ".join(server.address for server in outcome.took) or "none"
        left_out = [server.address for server in failed if server.behind]
        raise EngineError(
            f"weights of version {version} were not taken by every server: {told(failed)}. "
            f"Took them: {took}; the engine's version is {self._version}. "
            + (f"Left out until an update reaches them: {', '.join(left_out)}" if left_out else "")
        )

    async def aclose(self) -> None:
        """Close connections, and probe no more. Generations under way fail."""
        if self._means is None:
            return
        means = self._here()
        try:
            await self._servers.aclose()
            if self._background:
                await asyncio.wait(set(self._background), timeout=CLOSING_TIMEOUT_S)
            for task in self._background:
                task.cancel()
            await means.connections.aclose()
        finally:
            self._loop = self._means = self._changing = None

    def _can(self, what: str, call: Call | None) -> Call:
        if call is None:
            raise EngineError(f"an endpoint of {self._dialect.provider} cannot {what}; SGLang and vLLM can")
        return call

    async def _tell(
        self, call: Call, outcome: Outcome | None = None, servers: Sequence[Server] | None = None
    ) -> Outcome:
        """Send what has a side effect to these servers, by default to all."""
        outcome = Outcome() if outcome is None else outcome
        await tell_all(
            self._servers.all if servers is None else servers,
            call,
            self._here().connections,
            retries=self._retries,
            timeout=self._request_timeout,
            jitter=self._jitter,
            outcome=outcome,
        )
        return outcome

    async def _probe(self, server: Server) -> None:
        """Raises where a server is not healthy. One that has come back with other weights is left out."""
        connections = self._here().connections
        await connections.ask(server, self._dialect.health, PROBE_TIMEOUT_S)
        if self._dialect.info is not None and self._pushed:
            info = await connections.ask(server, self._dialect.info, PROBE_TIMEOUT_S)
            found = self._dialect.version_in(info)
            if found is not None and found != str(self._version):
                server.behind = f"is back with weights of version {found}, not {self._version}"

    def _lock(self) -> asyncio.Lock:
        """Whoever changes the servers' state does so alone."""
        if self._changing is None:
            self._changing = asyncio.Lock()
        return self._changing

    def _here(self) -> Means:
        """What generations use on the running loop. Raises EngineError where another loop has it."""
        loop = asyncio.get_running_loop()
        if self._means is None or self._loop is None or (self._loop is not loop and self._loop.is_closed()):
            self._loop, self._changing, self._background = loop, None, set()
            self._gate.move()
            for server in self._servers.all:  # whoever was probed there is asked here
                server.healthy, server.under_way = True, 0
            self._servers = Servers(self._servers.all, self._balance, self._probe_interval, self._probe)
            self._means = Means(
                self._dialect,
                Connections(
                    max_connections=self._max_connections, trust_env=self._trust_env, headers=self._headers
                ),
                self._servers,
                self._gate,
                self.get_version,
                lambda: self._pushed,
                self._request_timeout,
                self._retries,
                self._stream,
                self._jitter,
                self._in_background,
            )
        elif self._loop is not loop:
            raise EngineError(
                "this engine is in use on another event loop; make one for each, or call aclose() there first"
            )
        return self._means

    def _in_background(self, doing: Coroutine[Any, Any, Any]) -> None:
        """Have it done, outside of any session: its phase is over."""
        task = contextvars.Context().run(asyncio.ensure_future, doing)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
