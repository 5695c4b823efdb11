"""Starts servers, for tests and examples: `with serving() as url:`. None outlives the program that started it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

LEAVES_WITHIN_S = 5.0


class ServerProcess:
    """A server in a process of its own, ready to be asked."""

    def __init__(
        self,
        *,
        policy: str | None = None,
        config: Mapping[str, Any] | None = None,
        weights: Path | None = None,
        model: str | None = None,
        port: int = 0,
        seed: int | None = None,
        stream_output: bool = False,
    ) -> None:
        """Start it, and wait until it is ready; the arguments are those of `python -m rollspan.demo.server`.

        It finds the modules that this program finds, such as one with a policy beside a script.

        Raises RuntimeError where it does not start; what it printed says why.
        """
        given = {"policy": policy, "weights": weights, "model": model, "port": port, "seed": seed}
        if config is not None:
            given["config"] = json.dumps(dict(config))
        options = [f"--{name}={value}" for name, value in given.items() if value is not None]
        if stream_output:
            options.append("--stream-output")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rollspan.demo.server", *options],
            stdin=subprocess.PIPE,  # it leaves when this closes, as it does when we are gone
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # so that Ctrl-C reaches us alone
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("the server did not start; what it printed above says why")
        self.port: int = json.loads(line)["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Have it leave, and wait until it has."""
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(LEAVES_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextlib.contextmanager
def serving(**arguments: Any) -> Iterator[str]:
    """Serve for a `with` block, which is given the server's URL. Arguments as for `ServerProcess`."""
    server = ServerProcess(**arguments)
    try:
        yield server.url
    finally:
        server.stop()


@contextlib.asynccontextmanager
async def aserving(**arguments: Any) -> AsyncIterator[str]:
    """The same for `async with`; the event loop goes on while the server starts and leaves."""
    server = await asyncio.to_thread(lambda: ServerProcess(**arguments))
    try:
        yield server.url
    finally:
        await asyncio.to_thread(server.stop)
