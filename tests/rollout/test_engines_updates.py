"""Weight updates and pauses in the middle of generations."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import rollspan
from rollspan.demo.policy import dump_weights
from rollspan.demo.serving import serving
from rollspan.rollout import EngineError, GenerationHyperparameters, ModelRequest
from rollspan.rollout.engines import RemoteEngine, SGLangEngine, VLLMEngine
from rollspan.testing import Recording
from tests.rollout.policies import LIVELY, lively, logprobs_of
from tests.rollout.scripted import HangsUp, Says, Scripted, generated

PROMPT = [5, 1, 4, 2, 10]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server for all tests."""
    with serving(policy=LIVELY) as made:
        yield made


@pytest.fixture
def url(server: str) -> str:
    """It has the weights of the lively policy, and no version that is a number."""
    encoded = base64.b64encode(dump_weights(lively())).decode()
    body = {"serialized_named_tensors": [encoded], "weight_version": "default", "abort_all_requests": True}
    with httpx.Client(base_url=server, trust_env=False) as http:
        http.post("/continue_generation", json={}).raise_for_status()
        http.post("/update_weights_from_tensor", json=body).raise_for_status()
    return server


def asked(**sampling: Any) -> ModelRequest:
    """A request."""
    return ModelRequest(list(PROMPT), GenerationHyperparameters(**sampling))


async def load(url: str) -> int:
    """Generations at a server."""
    async with httpx.AsyncClient(trust_env=False) as http:
        return int((await http.get(f"{url}/get_load")).json()["num_reqs"])


async def busy(url: str) -> None:
    """Wait until a server generates."""
    while not await load(url):  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.01)


async def idle(url: str) -> None:
    """Wait until a server has nothing to do; half a minute at most."""
    for _ in range(3000):
        if not await load(url):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{url} is still busy")


def pushed(seed: int, route: str, folder: Path) -> bytes | Path:
    """Weights of a policy, in the way in which this route takes them."""
    if route == "tensor":
        return dump_weights(lively(seed))
    path = folder / f"weights-{seed}.pt"
    torch.save(lively(seed).state_dict(), path)
    return path


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("kind", "route"), [(SGLangEngine, "tensor"), (SGLangEngine, "disk"), (VLLMEngine, "disk")]
)
async def test_a_generation_goes_on_under_new_weights(
    url: str, kind: type[RemoteEngine], route: str, stream: bool, tmp_path: Path, rec: Recording
) -> None:
    """Each part has the log probabilities of the weights of its version; the span and the record tell the parts."""
    async with contextlib.aclosing(kind(url, stream=stream)) as engine, rollspan.session():
        running = asyncio.create_task(engine.agenerate(asked(max_new_tokens=1500)))
        version = 0
        while version < 3:
            await busy(url)
            await asyncio.sleep(0.1)
            version += 1
            await engine.update_weights(pushed(20 + version, route, tmp_path), version)
        response = await running
        assert engine.get_version() == 3
    assert (response.output_len, response.stop_reason) == (1500, "length")
    assert len(response.segments) > 1
    assert [s.weight_version for s in response.segments for _ in range(s.output_tokens)] == (
        response.output_versions
    )
    assert response.output_versions == sorted(response.output_versions)
    done = 0
    for segment in response.segments:
        policy = lively(11 if segment.weight_version == 0 else 20 + segment.weight_version)
        before = [*PROMPT, *response.output_tokens[:done]]
        part = slice(done, done + segment.output_tokens)
        expected = logprobs_of(policy, before, response.output_tokens[part])
        assert response.output_logprobs[part] == pytest.approx(expected, abs=1e-3)
        done += segment.output_tokens
    (record,) = rec.records()
    assert record["turns"] == 1
    assert record["output_tokens"] == 1500
    assert (record["weight_version_min"], record["weight_version_max"]) == (
        response.output_versions[0],
        response.output_versions[-1],
    )
    assert record["generate_paused_s"] == pytest.approx(sum(s.paused_s for s in response.segments))
    (span,) = (s for s in rec.traces()[0].spans if s.name == "generate")
    found = {name: list(value) for name, value in span.attributes.items() if ".segment." in name}
    assert found == {
        f"rollout.segment.{name}": [getattr(s, name) for s in response.segments]
        for name in ("weight_version", "output_tokens", "duration_s", "paused_s")
    }


@pytest.mark.parametrize("kind", [SGLangEngine, VLLMEngine])
async def test_a_pause_holds_generations_back_until_it_ends(
    url: str, kind: type[RemoteEngine], rec: Recording
) -> None:
    """Running and new ones wait, nothing is at the server, and the record says how long it took."""
    async with contextlib.aclosing(kind(url)) as engine, rollspan.session():
        running = asyncio.create_task(engine.agenerate(asked(max_new_tokens=800)))
        await busy(url)
        await engine.pause()
        await idle(url)
        new = asyncio.create_task(engine.agenerate(asked(max_new_tokens=3)))
        await asyncio.sleep(0.2)
        assert await load(url) == 0
        assert not running.done()
        assert not new.done()
        await engine.resume()
        first, second = await running, await new
    assert (first.output_len, second.output_len) == (800, 3)
    assert [s.paused_s > 0 for s in first.segments] == [False, *[True] * (len(first.segments) - 1)]
    assert [s.paused_s > 0 for s in second.segments] == [True]
    (record,) = rec.records()
    paused = sum(s.paused_s for s in [*first.segments, *second.segments])
    assert record["generate_paused_s"] == pytest.approx(paused)


async def test_an_update_leaves_a_pause_as_it_is(url: str) -> None:
    """Weights may be pushed while the engine is paused; it stays so."""
    async with contextlib.aclosing(SGLangEngine(url)) as engine:
        await engine.pause()
        await engine.update_weights(dump_weights(lively(3)), 5)
        waiting = asyncio.create_task(engine.agenerate(asked(max_new_tokens=20)))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await engine.resume()
        response = await waiting
    assert set(response.output_versions) == {5}
    expected = logprobs_of(lively(3), PROMPT, response.output_tokens)
    assert response.output_logprobs == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "weights", "words"),
    [
        (SGLangEngine, b"nothing", "no weights of this policy"),
        (SGLangEngine, "/nowhere/weights.pt", "/nowhere/weights.pt"),
        (VLLMEngine, "/nowhere/weights.pt", "/nowhere/weights.pt"),
    ],
)
async def test_after_an_update_that_failed_generations_go_on(
    url: str, kind: type[RemoteEngine], weights: bytes | str, words: str
) -> None:
    """The error says which server refused and why; the version stays, and so do the weights."""
    async with contextlib.aclosing(kind(url)) as engine:
        running = asyncio.create_task(engine.agenerate(asked(max_new_tokens=800)))
        await busy(url)
        with pytest.raises(
            EngineError, match=rf"{url}: RefusedError: status 400: (?s:.*){words}(?s:.*)Took them: none"
        ):
            await engine.update_weights(weights, 1)
        assert engine.get_version() == 0
        assert engine.unusable == {}
        response = await running
    assert set(response.output_versions) == {0}
    expected = logprobs_of(lively(), PROMPT, response.output_tokens)
    assert response.output_logprobs == pytest.approx(expected, abs=1e-3)


async def test_weights_of_a_wrong_kind_are_named() -> None:
    """What is neither bytes nor a path is a ValueError, as are bytes for vLLM; nothing is sent."""
    async with Scripted() as server:
        for engine, weights, words in (
            (SGLangEngine(server.url), 3, "weights is a int; expected bytes, or a path"),
            (VLLMEngine(server.url), b"", "weights is a bytes; expected a path"),
        ):
            with pytest.raises(ValueError, match=words):
                await engine.update_weights(weights, 1)
            await engine.aclose()
    assert not server.asked


async def test_a_server_that_did_not_take_the_weights_is_left_out_until_it_does() -> None:
    """The others go on under the new version; the error says who has which."""
    refusing = {"/update_weights_from_tensor": Says({"error": {"message": "no room"}}, 500)}
    answers = {"/generate": Says(generated([1]))}
    async with Scripted(answers) as good, Scripted({**answers, **refusing}) as bad:
        async with contextlib.aclosing(SGLangEngine([good.url, bad.url])) as engine:
            with pytest.raises(EngineError) as raised:
                await engine.update_weights(b"weights", 1)
            message = str(raised.value)
            assert f"{bad.url}: RefusedError: status 500: no room" in message
            assert f"Took them: {good.url}; the engine's version is 1" in message
            assert f"Left out until an update reaches them: {bad.url}" in message
            assert list(engine.unusable) == [bad.url]
            for _ in range(4):
                assert (await engine.agenerate(asked())).output_versions == [1]
            assert len(good.to("/generate")) == 4
            del bad.actions["/update_weights_from_tensor"]
            await engine.update_weights(b"weights", 2)
            assert engine.unusable == {}
            for _ in range(4):
                await engine.agenerate(asked())
        for server in (good, bad):
            assert len(server.to("/pause_generation")) == len(server.to("/continue_generation")) == 2
    assert len(bad.to("/generate")) == 2


@pytest.mark.parametrize("path", ["/update_weights_from_tensor", "/pause_generation", "/continue_generation"])
async def test_what_may_have_reached_its_server_is_never_sent_twice(path: str) -> None:
    """A server that takes a weight update, a pause or its end and hangs up gets it once."""
    async with Scripted({path: HangsUp(), "/generate": Says(generated([1]))}) as server:
        async with contextlib.aclosing(SGLangEngine(server.url, retries=5)) as engine:
            with pytest.raises(EngineError, match=server.url):
                await engine.update_weights(b"weights", 1)
        assert len(server.to(path)) == 1
        assert len(server.to("/continue_generation")) == 1


async def test_a_server_of_which_nobody_knows_what_it_has_is_not_asked() -> None:
    """When the answer to an update was lost its tokens could be of either version: that is an error, not a guess."""
    actions = {"/update_weights_from_tensor": HangsUp(), "/generate": Says(generated([1]))}
    async with Scripted(actions) as server, contextlib.aclosing(SGLangEngine(server.url)) as engine:
        with pytest.raises(EngineError, match="Took them: none; the engine's version is 0"):
            await engine.update_weights(b"weights", 1)
        with pytest.raises(EngineError, match=r"no server has the weights.*version 1 or not"):
            await engine.agenerate(asked())
        assert not server.to("/generate")
        del server.actions["/update_weights_from_tensor"]
        await engine.update_weights(b"weights", 2)
        assert (await engine.agenerate(asked())).output_versions == [2]


async def test_an_update_waits_for_a_server_that_is_not_there_yet() -> None:
    """Where no connection came about nothing was sent, so it is tried again, and arrives once."""
    async with Scripted() as server:
        port = int(server.url.rpartition(":")[2])
    async with contextlib.aclosing(SGLangEngine(server.url, retries=20)) as engine:
        updating = asyncio.create_task(engine.update_weights(b"weights", 3))
        await asyncio.sleep(0.3)
        async with Scripted(port=port) as late:
            await updating
    assert engine.get_version() == 3
    assert len(late.to("/update_weights_from_tensor")) == len(late.to("/pause_generation")) == 1


async def test_vllm_without_its_development_mode_is_told_from_one_that_took_the_weights() -> None:
    """A 404 to the pause is an error, and no weights are pushed under running generations."""
    async with (
        Scripted({"/pause": Says({"detail": "Not Found"}, 404)}) as server,
        contextlib.aclosing(VLLMEngine(server.url)) as engine,
    ):
        with pytest.raises(EngineError, match="could not be paused: RefusedError: status 404: Not Found"):
            await engine.update_weights("/weights", 1)
    assert not server.to("/collective_rpc")


async def test_an_abort_by_somebody_else_does_not_end_a_generation(url: str) -> None:
    """It goes on from what it has: who pushes weights may be another process."""
    async with contextlib.aclosing(SGLangEngine(url)) as engine, httpx.AsyncClient(trust_env=False) as other:
        running = asyncio.create_task(engine.agenerate(asked(max_new_tokens=1000)))
        await busy(url)
        await asyncio.sleep(0.05)
        await other.post(f"{url}/abort_request", json={"abort_all": True})
        response = await running
    assert (response.output_len, response.stop_reason) == (1000, "length")
    assert len(response.segments) > 1
    expected = logprobs_of(lively(), PROMPT, response.output_tokens)
    assert response.output_logprobs == pytest.approx(expected, abs=1e-3)


async def test_aborts_without_a_token_come_to_an_end() -> None:
    """A server that aborts whatever it is asked is asked a few times, and then that is an error."""
    async with Scripted({"/generate": Says(generated([], "abort"))}) as server:
        async with contextlib.aclosing(SGLangEngine(server.url)) as engine:
            with pytest.raises(EngineError, match=rf"{server.url} aborted the generation .* 7 times"):
                await engine.agenerate(asked())
        assert len(server.to("/generate")) == 7


@pytest.mark.parametrize("kind", [SGLangEngine, VLLMEngine])
async def test_a_generation_that_is_given_up_ends_with_what_it_has(
    url: str, kind: type[RemoteEngine]
) -> None:
    """`abort` frees the server and gives the tokens so far, with `abort` as the stop reason."""
    async with contextlib.aclosing(kind(url)) as engine:
        request = asked(max_new_tokens=10**6)
        running = asyncio.create_task(engine.agenerate(request))
        await busy(url)
        await asyncio.sleep(0.1)
        await engine.abort("another")
        assert not running.done()
        await engine.abort(request.rid)
        response = await running
        await idle(url)
    assert response.stop_reason == "abort"
    assert 0 < response.output_len == len(response.output_logprobs) < 10**6


async def test_a_generation_can_be_given_up_in_a_pause(url: str) -> None:
    """It ends at once, with nothing."""
    async with contextlib.aclosing(SGLangEngine(url)) as engine:
        await engine.pause()
        request = asked()
        running = asyncio.create_task(engine.agenerate(request))
        await asyncio.sleep(0.05)
        await engine.abort(request.rid)
        response = await running
        assert (response.stop_reason, response.output_tokens) == ("abort", [])
        await engine.resume()


async def test_updates_come_one_after_the_other() -> None:
    """Two at once: each server has the later one last, and is paused and resumed for each."""
    async with Scripted() as server, contextlib.aclosing(SGLangEngine(server.url)) as engine:
        await asyncio.gather(engine.update_weights(b"a", 1), engine.update_weights(b"b", 2))
        assert engine.get_version() == 2
    paths = [request.path for request in server.asked]
    assert paths == ["/pause_generation", "/update_weights_from_tensor", "/continue_generation"] * 2
