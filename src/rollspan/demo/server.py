"""Serves a policy over HTTP as SGLang and vLLM do: `python -m rollspan.demo.server`.

SGLang's `/generate`, `/abort_request`, `/pause_generation`, `/continue_generation`, `/update_weights_from_tensor`,
`/update_weights_from_disk`, `/health`, `/get_model_info` and `/get_load`; OpenAI's `/v1/models`, `/v1/completions` and
`/v1/chat/completions`; vLLM's `/pause`, `/resume`, `/is_paused`, `/collective_rpc` (reload_weights) and `/load`. It
listens on the loopback interface alone, prints `{"port": ...}` when it is ready, and leaves when its standard input
closes, so that it never outlives the program that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import cast

import torch
from torch import nn

from rollspan.demo.config import DemoConfig
from rollspan.demo.engine import Engine
from rollspan.demo.http import HttpServer
from rollspan.demo.openai_api import OpenAIApi
from rollspan.demo.policy import load_weights
from rollspan.demo.served import made_by
from rollspan.demo.sglang_api import SGLangApi

MODEL = "rollspan-demo"
POLICY = "rollspan.demo.policy:Policy"
BACKLOG = 4096  # connections that come at once


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


async def serve(engine: Engine, model: str, port: int, *, stream_output: bool) -> None:
    """Serve until told to leave."""
    generating = asyncio.create_task(engine.run())
    sglang = SGLangApi(engine, model, stream_output=stream_output)
    http = HttpServer({**sglang.routes(), **OpenAIApi(engine, model).routes()})
    server = await asyncio.start_server(http.serve_connection, "127.0.0.1", port, backlog=BACKLOG)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    leaving = asyncio.create_task(until_told_to_leave())
    await asyncio.wait({generating, leaving}, return_when=asyncio.FIRST_COMPLETED)
    server.close()
    if generating.done():
        generating.result()  # an engine that broke says why


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--policy", default=POLICY, help="package.module:factory of a policy (demo/served.py)"
    )
    parser.add_argument("--config", type=json.loads, help="what the factory is called with: a JSON object")
    parser.add_argument("--weights", type=Path, help="a file of torch.save(policy.state_dict())")
    parser.add_argument("--model", default=MODEL, help="name of the model")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--seed", type=int, default=DemoConfig.seed, help="of the sampling, and of the demo's policy"
    )
    parser.add_argument(
        "--hidden-size", type=int, default=DemoConfig.hidden_size, help="of the demo's policy"
    )
    parser.add_argument(
        "--stream-output", action="store_true", help="events of /generate hold what is new alone"
    )
    arguments = parser.parse_args()
    config = arguments.config
    if config is None:
        own = {"hidden_size": arguments.hidden_size, "seed": arguments.seed}
        config = own if arguments.policy == POLICY else {}
    torch.set_num_threads(1)
    policy = made_by(arguments.policy, config)
    if arguments.weights is not None:
        load_weights(cast("nn.Module", policy), arguments.weights.read_bytes())
    engine = Engine(policy, arguments.seed)
    asyncio.run(serve(engine, arguments.model, arguments.port, stream_output=arguments.stream_output))


if __name__ == "__main__":
    main()
