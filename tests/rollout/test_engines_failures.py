"""Servers that fail, hang, die and come back; callers that leave; which server is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any

import httpx
import pytest
import torch

import rollspan
from rollspan.demo.serving import ServerProcess, serving
from rollspan.rollout import EngineError, GenerationHyperparameters, ModelRequest
from rollspan.rollout.engines import RemoteEngine, SGLangEngine, VLLMEngine
from rollspan.testing import Recording
from tests.rollout.policies import LIVELY, lively, logprobs_of
from tests.rollout.scripted import Hangs, HangsUp, Says, Scripted, Streams, generated, until

PROMPT = [5, 1, 4, 2, 10]


def asked(**sampling: Any) -> ModelRequest:
    """A request."""
    return ModelRequest(list(PROMPT), GenerationHyperparameters(**sampling))


async def load(url: str) -> int:
    """Generations at a server."""
    async with httpx.AsyncClient(trust_env=False) as http:
        return int((await http.get(f"{url}/get_load")).json()["num_reqs"])


async def until_load(url: str, wanted: int) -> None:
    """Wait until a server has so many generations; half a minute at most."""
    for _ in range(3000):
        if await load(url) == wanted:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{url} never had {wanted} generations")


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [SGLangEngine, VLLMEngine])
async def test_a_cancelled_generation_frees_its_server(kind: type[RemoteEngine], stream: bool) -> None:
    """The server stops generating, and the engine goes on being of use."""
    with serving(policy=LIVELY) as url:
        async with contextlib.aclosing(kind(url, stream=stream)) as engine:
            running = asyncio.create_task(engine.agenerate(asked(max_new_tokens=10**6)))
            await until_load(url, 1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await until_load(url, 0)
            assert (await engine.agenerate(asked(max_new_tokens=2))).output_len == 2


async def test_a_generation_that_was_left_is_aborted_by_its_rid() -> None:
    """SGLang is told by `/abort_request`, after a cancellation and after a time-out."""
    async with Scripted({"/generate": Hangs()}) as server:
        engine = SGLangEngine(server.url, request_timeout=0.2, retries=1)
        async with contextlib.aclosing(engine):
            with pytest.raises(EngineError, match=r"failed 2 times.*no answer within request_timeout=0.2 s"):
                await engine.agenerate(asked())
        patient = SGLangEngine(server.url)
        async with contextlib.aclosing(patient):
            running = asyncio.create_task(patient.agenerate(asked()))
            await until(lambda: len(server.to("/generate")) == 3)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        rids = [request.body["rid"] for request in server.to("/generate")]
        assert len(set(rids)) == 3
        assert sorted(request.body["rid"] for request in server.to("/abort_request")) == sorted(rids)
        await until(lambda: server.lost == 3)


async def test_an_answer_that_was_lost_is_asked_for_again() -> None:
    """A generation has no side effect: a connection that closes before or in the answer is no loss."""
    part = generated([1, 2, 3], None)
    turns = iter([HangsUp(), Streams([part]), Says({}, 503), Says({}, 429), Says(generated([4, 5]))])
    async with Scripted({"/generate": lambda _: next(turns)}) as server:
        async with contextlib.aclosing(SGLangEngine(server.url, stream=True)) as engine:
            response = await engine.agenerate(asked(max_new_tokens=9, min_new_tokens=4, stop=["x"]))
        first, second, third, *_, last = server.to("/generate")
    assert response.output_tokens == [1, 2, 3, 4, 5]
    assert [s.output_tokens for s in response.segments] == [3, 2]
    assert first.body["input_ids"] == second.body["input_ids"] == PROMPT
    assert third.body["input_ids"] == last.body["input_ids"] == [*PROMPT, 1, 2, 3]
    assert [r.body["sampling_params"]["max_new_tokens"] for r in (first, last)] == [9, 6]
    assert [r.body["sampling_params"]["min_new_tokens"] for r in (first, last)] == [4, 1]
    assert last.body["sampling_params"]["stop"] == ["x"]


async def test_a_server_that_never_accepts_is_left(rec: Recording) -> None:
    """Its connections are open, and nothing comes: the request is over after request_timeout, and the phase failed."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        async with contextlib.aclosing(SGLangEngine(address, request_timeout=0.3, retries=0)) as engine:
            with pytest.raises(EngineError, match=rf"failed 1 times, last at http://{address}"):
                async with rollspan.session():
                    await engine.agenerate(asked())
    (span,) = (s for s in rec.traces()[0].spans if s.name == "generate")
    assert span.attributes["error.type"].endswith("EngineError")
    assert span.attributes["server.address"] == "127.0.0.1"


async def test_when_no_server_is_there_the_error_names_each() -> None:
    """After its retries a generation says which addresses there are, and what came of each."""
    nobody, also = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    async with contextlib.aclosing(SGLangEngine([nobody, also], retries=2)) as engine:
        with pytest.raises(EngineError, match="failed 3 times") as raised:
            await engine.agenerate(asked())
    for address in (nobody, also):
        assert f"http://{address}: ConnectError" in str(raised.value)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [SGLangEngine, VLLMEngine])
async def test_when_a_server_is_killed_its_generations_go_on_at_another(
    kind: type[RemoteEngine], stream: bool
) -> None:
    """Streamed ones from the tokens that had come, others from the start; every token is the policy's."""
    first, second = (ServerProcess(policy=LIVELY, stream_output=True) for _ in range(2))
    try:
        async with contextlib.aclosing(kind([first.url, second.url], stream=stream)) as engine:
            running = [asyncio.create_task(engine.agenerate(asked(max_new_tokens=6000))) for _ in range(4)]
            await until_load(first.url, 2)
            await asyncio.sleep(0.02)
            os.kill(first.process.pid, signal.SIGKILL)
            responses = await asyncio.gather(*running)
            assert list(engine.unusable) == [first.url]
    finally:
        first.stop()
        second.stop()
    assert [response.output_len for response in responses] == [6000] * 4
    assert [response.stop_reason for response in responses] == ["length"] * 4
    assert sorted(len(response.segments) for response in responses) == [1, 1, *([2, 2] if stream else [1, 1])]
    for response in responses:
        expected = logprobs_of(lively(), PROMPT, response.output_tokens)
        assert response.output_logprobs == pytest.approx(expected, abs=1e-3)


async def test_a_server_that_is_back_is_asked_again() -> None:
    """A killed one is left out, and when it has been started again and is healthy it takes its part."""
    port = free_port()
    mortal = ServerProcess(policy=LIVELY, port=port)
    async with Scripted({"/generate": Says(generated([1]))}) as other:
        engine = SGLangEngine([mortal.url, other.url], probe_interval=0.05)
        async with contextlib.aclosing(engine):
            os.kill(mortal.process.pid, signal.SIGKILL)
            mortal.stop()
            for _ in range(4):
                await engine.agenerate(asked(max_new_tokens=1))
            assert len(other.to("/generate")) == 4
            assert "ConnectError" in engine.unusable[mortal.url]
            mortal = await asyncio.to_thread(ServerProcess, policy=LIVELY, port=port)
            try:
                await until(lambda: not engine.unusable)
                for _ in range(4):
                    await engine.agenerate(asked(max_new_tokens=1))
                assert len(other.to("/generate")) == 6
            finally:
                mortal.stop()


async def test_a_server_that_is_back_with_other_weights_is_left_out() -> None:
    """Who was started again has not the weights that were pushed meanwhile: an update has to reach it first."""
    info: dict[str, Any] = {"weight_version": "1"}
    actions = {"/generate": Says(generated([1])), "/get_model_info": lambda _: Says(info)}
    async with Scripted(dict(actions)) as steady, Scripted(dict(actions)) as other:
        engine = SGLangEngine([steady.url, other.url], probe_interval=0.02)
        async with contextlib.aclosing(engine):
            await engine.update_weights(b"weights", 1)
            info["weight_version"] = "default"
            other.actions["/generate"] = Says({}, 500)
            for _ in range(2):
                await engine.agenerate(asked())
            await until(lambda: "weights of version default, not 1" in engine.unusable.get(other.url, ""))
            before = len(other.to("/generate"))
            for _ in range(4):
                await engine.agenerate(asked())
            assert len(other.to("/generate")) == before
            other.actions["/generate"] = Says(generated([1]))
            await engine.update_weights(b"weights", 2)
            assert engine.unusable == {}


async def test_tokens_of_a_server_that_lost_its_weights_are_not_taken() -> None:
    """Who was started anew in between tells no number as its version; its answer is of other weights."""
    actions = {"/generate": Says(generated([1], version="1"))}
    async with Scripted(dict(actions)) as steady, Scripted(dict(actions)) as other:
        async with contextlib.aclosing(SGLangEngine([steady.url, other.url])) as engine:
            await engine.update_weights(b"weights", 1)
            other.actions["/generate"] = Says(generated([2], version="default"))
            for _ in range(4):
                assert (await engine.agenerate(asked())).output_tokens == [1]
            assert "default" in engine.unusable[other.url]
        assert len(other.to("/generate")) == 1


async def test_round_robin_gives_each_server_the_same() -> None:
    """One after the other, in turn."""
    answers = {"/generate": Says(generated([1]))}
    async with Scripted(answers) as one, Scripted(answers) as two, Scripted(answers) as three:
        servers = [one, two, three]
        async with contextlib.aclosing(SGLangEngine([s.url for s in servers])) as engine:
            await asyncio.gather(*(engine.agenerate(asked()) for _ in range(12)))
        assert [len(server.to("/generate")) for server in servers] == [4, 4, 4]


async def test_least_loaded_asks_the_server_that_has_the_least_to_do() -> None:
    """A server that has not answered yet gets nothing while another has less under way."""
    async with Scripted({"/generate": Hangs()}) as slow, Scripted() as quick:
        quick.actions["/generate"] = Says(generated([1]))
        engine = SGLangEngine([slow.url, quick.url], balance="least_loaded")
        async with contextlib.aclosing(engine):
            waiting = asyncio.create_task(engine.agenerate(asked()))
            await until(lambda: len(slow.to("/generate")) == 1)
            for _ in range(5):
                await engine.agenerate(asked())
            waiting.cancel()
        assert (len(slow.to("/generate")), len(quick.to("/generate"))) == (1, 5)


async def test_a_continuation_stays_at_its_server() -> None:
    """Its prefix is cached there: what an update cut off goes on where it was."""
    turns = iter([generated([1], "abort"), generated([2], "abort"), generated([3])])
    async with (
        Scripted({"/generate": lambda _: Says(next(turns))}) as one,
        Scripted({"/generate": Says(generated([9]))}) as two,
        contextlib.aclosing(SGLangEngine([one.url, two.url])) as engine,
    ):
        response = await engine.agenerate(asked())
    assert response.output_tokens == [1, 2, 3]
    assert not two.asked


async def test_two_thousand_generations_at_once() -> None:
    """One engine has two thousand requests under way: the server answers none before it has all of them."""
    count = 2000
    everybody = asyncio.Event()
    arrived = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        await reader.readexactly(length)
        arrived += 1
        if arrived == count:
            everybody.set()
        await everybody.wait()
        body = b'{"text":"","meta_info":{"finish_reason":{"type":"stop"},"completion_tokens":1,'
        body += b'"output_token_logprobs":[[-1,3,null]]}}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, contextlib.aclosing(SGLangEngine(address)) as engine:
        responses = await asyncio.gather(*(engine.agenerate(asked()) for _ in range(count)))
    assert arrived == count
    assert [response.output_tokens for response in responses] == [[3]] * count


async def test_closing_ends_what_is_under_way() -> None:
    """A generation whose engine is closed fails, and says so."""
    async with Scripted({"/generate": Hangs()}) as server:
        engine = SGLangEngine(server.url)
        running = asyncio.create_task(engine.agenerate(asked()))
        await until(lambda: bool(server.asked))
        await engine.aclose()
        with pytest.raises(EngineError, match="closed while it generated"):
            await running


def test_a_server_that_was_left_out_is_asked_on_another_loop() -> None:
    """Nobody probes it there, so what was known of it is forgotten."""
    port, other = free_port(), free_port()
    answers = {"/generate": Says(generated([1]))}
    engine = SGLangEngine([f"127.0.0.1:{port}", f"127.0.0.1:{other}"], probe_interval=60)

    async def alone() -> None:
        async with Scripted(answers, other), contextlib.aclosing(engine):
            for _ in range(2):
                await engine.agenerate(asked())
            assert list(engine.unusable) == [f"http://127.0.0.1:{port}"]

    async def together() -> int:
        async with Scripted(answers, other), Scripted(answers, port) as back, contextlib.aclosing(engine):
            for _ in range(4):
                await engine.agenerate(asked())
            return len(back.to("/generate"))

    asyncio.run(alone())
    assert asyncio.run(together()) == 2


def test_the_jitter_leaves_the_programs_random_numbers_alone() -> None:
    """Retries draw from a stream of their own."""
    import random

    async def fail() -> None:
        async with contextlib.aclosing(SGLangEngine(f"127.0.0.1:{free_port()}", retries=2)) as engine:
            with pytest.raises(EngineError):
                await engine.agenerate(asked())

    random.seed(7)
    torch.manual_seed(7)
    expected = random.random()
    random.seed(7)
    asyncio.run(fail())
    assert random.random() == expected
