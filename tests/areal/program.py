"""An AReaL program, which knows nothing of rollspan: every way in which its rollouts come and go.

    python program.py ADDRESS FACTS [TRACES]

ADDRESS is that of a server that speaks SGLang's protocol. FACTS is a file for what the program saw itself: for each item,
by its `query_id`, clock readings taken just inside and just outside of what rollspan measures. With a folder TRACES
AReaL's own tracer is turned on.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import torch
from areal.api.cli_args import (
    GenerationHyperparameters,
    InferenceEngineConfig,
    PerfTracerConfig,
    SessionTracerConfig,
)
from areal.api.reward_api import AsyncRewardWrapper
from areal.api.workflow_api import RolloutWorkflow
from areal.engine.sglang_remote import SGLangBackend
from areal.infra.remote_inf_engine import RemoteInfEngine
from areal.utils import perf_tracer
from areal.utils.perf_tracer import Category, atrace_session_phase, trace_session
from areal.workflow.multi_turn import MultiTurnWorkflow
from areal.workflow.rlvr import RLVRWorkflow
from tokenizers import Tokenizer, models, pre_tokenizers
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import PreTrainedTokenizerFast

facts: dict[str, Any] = defaultdict(lambda: defaultdict(list))
_lock = threading.Lock()


def stamp(query: str, what: str) -> None:
    """Read the clock."""
    with _lock:
        facts[query][what].append(time.time())


# Rewards run in forked processes.


def right(
    prompt: str, completion: str, prompt_ids: list[int], completion_ids: list[int], **data: Any
) -> float:
    time.sleep(0.003)
    return 1.0


def right_when_asked_again(
    prompt: str, completion: str, prompt_ids: list[int], completion_ids: list[int], **data: Any
) -> float:
    return float(len(prompt_ids) > 6)


def raises(
    prompt: str, completion: str, prompt_ids: list[int], completion_ids: list[int], **data: Any
) -> float:
    raise LookupError("a reward that fails")


def hangs(
    prompt: str, completion: str, prompt_ids: list[int], completion_ids: list[int], **data: Any
) -> float:
    time.sleep(0.3)
    return 1.0


class Stamped(RLVRWorkflow):
    """AReaL's own workflow, watched."""

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        query = data["query_id"]
        stamp(query, "episode begins")
        begun = time.time()
        result = await super().arun_episode(_Watched(engine, query), data)
        facts[query]["episodes"].append((begun, time.time()))
        stamp(query, "episode ends")
        return result


class _Watched:
    def __init__(self, engine: Any, query: str) -> None:
        self._engine, self._query = engine, query

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def agenerate(self, request: Any) -> Any:
        stamp(self._query, "generate begins")
        begun = time.time()
        response = await self._engine.agenerate(request)
        facts[self._query]["generations"].append((begun, time.time()))
        stamp(self._query, "generate ends")
        facts[self._query]["tokens"].append((response.input_len, response.output_len))
        facts[self._query]["versions"].append(response.output_versions)
        return response


class Flaky(http.server.BaseHTTPRequestHandler):
    """In front of the server: the first request to generate is refused, the others are passed on."""

    server_address_behind = ""
    refused = 0

    def do_GET(self) -> None:
        self._answer(requests.get(self._behind(), timeout=20))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/generate" and not Flaky.refused:
            Flaky.refused += 1
            self.send_error(503)
        else:
            kept = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            self._answer(requests.post(self._behind(), data=body, headers=kept, timeout=20))

    def _behind(self) -> str:
        return f"http://{self.server_address_behind}{self.path}"

    def _answer(self, response: requests.Response) -> None:
        self.send_response(response.status_code)
        self.send_header("Content-Type", response.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(response.content)))
        self.end_headers()
        self.wfile.write(response.content)

    def log_message(self, *said: object) -> None:
        pass


class _TimedReward:
    """AReaL's own wrapper of a reward function, watched."""

    def __init__(self, query: str, inside: AsyncRewardWrapper) -> None:
        self._query, self._inside = query, inside

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        begun = time.time()
        score = await self._inside(*args, **kwargs)
        facts[self._query]["rewards"].append((begun, time.time()))
        return score


class Raises(RolloutWorkflow):
    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        raise ZeroDivisionError("a workflow that fails")


class ReturnsNone(RolloutWorkflow):
    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        return None


class ReturnsNonsense(RolloutWorkflow):
    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        return {"input_ids": torch.zeros(1, 2)}  # AReaL's check finds no attention_mask


class WithEvents(RLVRWorkflow):
    """Tells AReaL's session tracer what it does; one part of it has an engine of its own."""

    @perf_tracer.session_context()
    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        with perf_tracer.trace_session_phase("toolcall"):
            await asyncio.sleep(0.005)
        async with atrace_session_phase("generate"):
            await asyncio.sleep(0.005)  # by an engine of its own
        session = perf_tracer.get_session_id()
        perf_tracer.trace_session_event("mark_toolcall_start", session_id=session)
        await asyncio.sleep(0.005)
        perf_tracer.trace_session_event("mark_toolcall_end", session_id=session)
        perf_tracer.trace_session_event("increment_counter", session_id=session, name="retries", value=2)
        await self.think()
        with perf_tracer.trace_scope("look up", category="io"):
            return await super().arun_episode(engine, data)

    @trace_session("think")
    async def think(self) -> None:
        await asyncio.sleep(0.005)


class NeverAnswers:
    """An engine that is asked in vain."""

    async def agenerate(self, request: Any) -> Any:
        await asyncio.sleep(3600)


class StopError(Exception):
    """As an interrupt comes, in the middle of a batch."""


def interrupt(number: int, frame: object) -> None:
    raise StopError


class HalfABatch(Stamped):
    """Two of the first four are good, and the rest takes for ever."""

    seen = 0

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        HalfABatch.seen += 1
        if HalfABatch.seen > 4:
            await asyncio.sleep(3600)
        return await super().arun_episode(engine, data) if HalfABatch.seen > 2 else None


class Sleeps(RLVRWorkflow):
    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        return await super().arun_episode(NeverAnswers(), data)


class OneRaises(Stamped):
    """The second sample of a group fails while the third is under way."""

    seen = 0

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        OneRaises.seen += 1
        if OneRaises.seen == 2:
            await asyncio.sleep(0.2)
            raise ArithmeticError("one of a group")
        if OneRaises.seen == 3:
            await asyncio.sleep(0.6)
        return await super().arun_episode(engine, data)


class OneIsNone(Stamped):
    seen = 0

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        OneIsNone.seen += 1
        return None if OneIsNone.seen == 1 else await super().arun_episode(engine, data)


def tokenizer() -> PreTrainedTokenizerFast:
    """Of the tiny policy's tokens: digits, `=`, a call for help, the end."""
    words = {str(digit): digit for digit in range(10)} | {"=": 10, "?": 11, "<end>": 12, "<pad>": 13}
    raw = Tokenizer(models.WordLevel(words, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="?", pad_token="<pad>", eos_token="<end>", bos_token="="
    )
    made.chat_template = (
        "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}={% endif %}"
    )
    return made


def item(query: str) -> dict[str, Any]:
    return {"query_id": query, "messages": [{"role": "user", "content": "3 1 2"}]}


def engine_at(address: str, **settings: Any) -> RemoteInfEngine:
    config = InferenceEngineConfig(
        **{
            "experiment_name": "test",
            "trial_name": "t",
            "backend": "sglang:d1",
            "max_concurrent_rollouts": 4,
            "consumer_batch_size": 4,
            "max_head_offpolicyness": 1000,
            "request_retries": 1,
            "request_timeout": 20,
            "setup_timeout": 20,
            "check_trajectory_format": True,
            **settings,
        }
    )
    engine = RemoteInfEngine(config, SGLangBackend())
    engine.initialize(engine_id="0", addr=[address], train_data_parallel_size=1)
    return engine


def submit(engine: RemoteInfEngine, query: str, workflow: RolloutWorkflow, **how: Any) -> int:
    stamp(query, "before submit")
    task_id = engine.submit(item(query), workflow, **how)
    stamp(query, "after submit")
    facts[query]["task id"].append(task_id)
    return task_id


def wait(engine: RemoteInfEngine, *queries: str) -> list[Any]:
    for query in queries:
        stamp(query, "before wait")
    found = engine.wait(count=len(queries), timeout=60)
    for query in queries:
        stamp(query, "after wait")
    return found


def turn_tracer_on(folder: str) -> None:
    perf_tracer.configure(
        PerfTracerConfig(
            experiment_name="test",
            trial_name="t",
            fileroot=folder,
            enabled=True,
            session_tracer=SessionTracerConfig(enabled=True),
        ),
        rank=0,
    )


def main(address: str, path: Path) -> None:
    words = tokenizer()
    few = GenerationHyperparameters(max_new_tokens=4, max_tokens=64)
    rlvr = Stamped(right, few, words)
    engine = engine_at(address)

    def refuses(trajectory: dict[str, Any]) -> bool:
        return False

    def cannot_tell(trajectory: dict[str, Any]) -> bool:
        raise OSError("a filter that fails")

    # One at a time, so that each reading of the clock is about one rollout.
    for number in range(3):
        submit(engine, f"plain-{number}", rlvr)
        time.sleep(0.05)
        wait(engine, f"plain-{number}")
    cases: dict[str, tuple[RolloutWorkflow, Callable[[dict[str, Any]], bool] | None]] = {
        "refused": (rlvr, refuses),
        "filter-raises": (rlvr, cannot_tell),
        "raises": (Raises(), None),
        "none": (ReturnsNone(), None),
        "nonsense": (ReturnsNonsense(), None),
        "reward-raises": (Stamped(raises, few, words), None),
    }
    for query, (workflow, accepts) in cases.items():
        submit(engine, query, workflow, should_accept_fn=accepts)
    facts["results"]["cases"] = [result is not None for result in wait(engine, *cases)]
    slow = Stamped(hangs, few, words)
    slow.async_reward_fn = _TimedReward(
        "reward-hangs", AsyncRewardWrapper(hangs, timeout_seconds=0.1, max_retries=1)
    )
    submit(engine, "reward-hangs", slow)
    wait(engine, "reward-hangs")
    submit(engine, "events", WithEvents(right, few, words))
    wait(engine, "events")
    multi = MultiTurnWorkflow(right_when_asked_again, few, words, max_turns=3, turn_discount=0.5)
    submit(engine, "multi-turn", multi)
    wait(engine, "multi-turn")

    # An id of the caller's own; another engine, whose ids are the same again.
    task = submit(engine, "own-id", rlvr, task_id=12345)
    engine.wait_for_task(task, timeout=60)
    evaluation = engine_at(address)
    for query, where in (("train", engine), ("eval", evaluation)):
        submit(where, query, rlvr, task_id=77, is_eval=where is evaluation)
    wait(evaluation, "eval")
    wait(engine, "train")

    # Groups.
    for number in range(3):
        stamp(f"group-{number}", "before submit")
    facts["results"]["groups"] = [
        result["input_ids"].shape[0]
        for result in engine.rollout_batch(
            [item(f"group-{number}") for number in range(3)], rlvr, group_size=2
        )
    ]
    for number in range(3):
        stamp(f"group-{number}", "after wait")
    for query, workflow in (
        ("one-raises", OneRaises(right, few, words)),
        ("one-none", OneIsNone(right, few, words)),
    ):
        submit(engine, query, workflow, group_size=3)
        wait(engine, query)

    # New weights while tokens are being generated: the server gives back what it has, and AReaL goes on from there.
    many = Stamped(
        right, GenerationHyperparameters(max_new_tokens=4000, max_tokens=8000, ignore_eos=True), words
    )
    submit(engine, "aborted", many)
    while not facts["aborted"]["generate begins"]:
        time.sleep(0.01)
    time.sleep(0.3)
    engine.pause()
    requests.post(f"http://{address}/abort_request", json={"abort_all": True}, timeout=10).raise_for_status()
    time.sleep(0.2)
    engine.set_version(7)
    engine.resume()
    wait(engine, "aborted")

    # As a trainer does it, with what one batch leaves to the next.
    loader = StatefulDataLoader([item(f"step-{n}") for n in range(40)], batch_size=4, collate_fn=list)
    turn = iter(range(10**6))
    for step, version in enumerate((8, 9)):
        with perf_tracer.trace_scope("train.rollout", category=Category.COMPUTE, args={"global_step": step}):
            found = engine.prepare_batch(loader, rlvr, should_accept_fn=lambda result: next(turn) % 4 != 3)
        facts["results"]["batches"].append(len(found))
        with perf_tracer.trace_scope("train.update_weights", category="comm", args={"global_step": step}):
            engine.pause()
            engine.set_version(version)
            engine.resume()
        perf_tracer.instant("train.done", args={"global_step": step})
        perf_tracer.save(step=step)

    # A request that is refused once, and sent again.
    Flaky.server_address_behind = address
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    retrying = engine_at(f"127.0.0.1:{proxy.server_port}", request_retries=3)
    submit(retrying, "retried", rlvr)
    wait(retrying, "retried")
    facts["retried"]["refused"].append(Flaky.refused)
    retrying.destroy()

    # A batch that is interrupted: what had arrived for it is gone.
    other = engine_at(address)
    items = StatefulDataLoader([item(f"lost-{n}") for n in range(8)], batch_size=4, collate_fn=list)
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 3)
    try:
        other.prepare_batch(items, HalfABatch(right, few, words))
    except StopError:
        facts["results"]["interrupted"].append(True)
    other.destroy()

    # The end, with work under way and more in the queue.
    evaluation.destroy()
    for number in range(6):
        submit(engine, f"cut-off-{number}", Sleeps(right, few, words))
    time.sleep(0.3)
    facts["results"]["stats"] = [vars(engine.workflow_executor.staleness_manager.get_stats())]
    engine.destroy()
    perf_tracer.save(force=True)
    path.write_text(json.dumps(facts))


if __name__ == "__main__":
    for given in sys.argv[3:]:
        turn_tracer_on(given)
    main(sys.argv[1], Path(sys.argv[2]))
