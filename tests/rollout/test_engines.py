"""Inference engines against real servers of real policies: what they ask for, what they give, what they record."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import rollspan
from rollspan.demo.serving import serving
from rollspan.rollout import EngineError, GenerationHyperparameters, ModelRequest
from rollspan.rollout.engines import OpenAIEngine, RemoteEngine, SGLangEngine, VLLMEngine
from rollspan.testing import Recording
from tests.rollout.policies import LIVELY, LOOKS, Looks, lively, logprobs_of
from tests.rollout.scripted import Says, Scripted, generated

PROMPT = [5, 1, 4, 2, 10]
KINDS = [SGLangEngine, VLLMEngine]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of the lively policy."""
    with serving(policy=LIVELY, stream_output=True) as made:
        yield made


def asked(prompt: list[int] | None = None, **sampling: Any) -> ModelRequest:
    """A request."""
    return ModelRequest(PROMPT if prompt is None else prompt, GenerationHyperparameters(**sampling))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_each_token_has_the_log_probability_that_the_policy_gives_it(
    url: str, kind: type[RemoteEngine], stream: bool
) -> None:
    """Tokens come with the policy's log probabilities and the version of the weights; streamed ones come early."""
    async with contextlib.aclosing(kind(url, stream=stream)) as engine:
        engine.set_version(4)
        response = await engine.agenerate(asked(max_new_tokens=200))
    assert response.input_tokens == PROMPT
    assert response.output_len == 200
    assert response.output_logprobs == pytest.approx(
        logprobs_of(lively(), PROMPT, response.output_tokens), abs=1e-3
    )
    assert response.output_versions == [4] * 200
    assert response.stop_reason == "length"
    assert response.text == " ".join(map(str, response.output_tokens))
    assert response.ttft < response.latency if stream else response.ttft == response.latency
    (segment,) = response.segments
    assert (segment.weight_version, segment.output_tokens, segment.paused_s) == (4, 200, 0)


async def test_a_stream_of_all_tokens_so_far_is_read_as_one_of_new_tokens_is() -> None:
    """SGLang sends everything with every event unless it is told otherwise; the answer is the same."""
    with serving(policy=LIVELY) as url:
        async with contextlib.aclosing(SGLangEngine(url, stream=True)) as engine:
            response = await engine.agenerate(asked(max_new_tokens=50))
    assert response.output_len == 50
    assert response.output_logprobs == pytest.approx(
        logprobs_of(lively(), PROMPT, response.output_tokens), abs=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_sampling_is_as_asked(url: str, kind: type[RemoteEngine]) -> None:
    """Greedy and top_k=1 take the likeliest; stop tokens end, after min_new_tokens; max_tokens bounds the whole."""
    policy, likeliest = lively(), list(PROMPT)
    for _ in range(12):
        with torch.no_grad():
            likeliest.append(int(policy(torch.tensor([likeliest]))[0][0, -1].argmax()))
    expected = likeliest[len(PROMPT) :]
    async with contextlib.aclosing(kind(url)) as engine:
        greedy = await engine.agenerate(asked(max_new_tokens=12, greedy=True))
        narrow = await engine.agenerate(asked(max_new_tokens=12, top_k=1))
        stopped = await engine.agenerate(asked(max_new_tokens=12, greedy=True, stop_token_ids=[expected[3]]))
        every = list(range(14))
        late = await engine.agenerate(asked(max_new_tokens=9, min_new_tokens=5, stop_token_ids=every[7:]))
        bounded = await engine.agenerate(asked(max_new_tokens=12, max_tokens=len(PROMPT) + 3))
        ignoring = await engine.agenerate(asked(max_new_tokens=12, stop_token_ids=every, ignore_eos=True))
    assert greedy.output_tokens == narrow.output_tokens == expected
    assert stopped.stop_reason == "stop"
    assert stopped.output_tokens == expected[: expected.index(expected[3]) + 1]
    assert late.output_len >= 5
    assert (bounded.output_len, bounded.stop_reason) == (3, "length")
    assert ignoring.output_len == 12


@pytest.mark.parametrize("kind", KINDS)
async def test_a_generation_is_one_span_of_its_session(
    url: str, kind: type[RemoteEngine], rec: Recording
) -> None:
    """Model, provider, operation, tokens, versions, finish reason and server are on the span; parts are not."""
    async with contextlib.aclosing(kind(url, model="rollspan-demo")) as engine:
        engine.set_version(2)
        async with rollspan.session():
            await engine.agenerate(asked(max_new_tokens=7))
            response = await engine.agenerate(asked(max_new_tokens=7))
    (record,) = rec.records()
    assert (record["turns"], record["output_tokens"], record["input_tokens"]) == (2, 14, 2 * len(PROMPT))
    assert (record["weight_version_min"], record["weight_version_max"]) == (2, 2)
    assert "generate_paused_s" not in record
    _, span = (s for s in rec.traces()[0].spans if s.name == "generate")
    found = dict(span.attributes)
    assert found["gen_ai.request.model"] == "rollspan-demo"
    assert found["gen_ai.provider.name"] == ("sglang" if kind is SGLangEngine else "vllm")
    assert found["gen_ai.operation.name"] == "text_completion"
    assert found["gen_ai.usage.input_tokens"] == len(PROMPT)
    assert found["gen_ai.usage.output_tokens"] == response.output_len
    assert found["gen_ai.usage.cache_read.input_tokens"] == len(PROMPT) - 1
    assert list(found["gen_ai.response.finish_reasons"]) == ["length"]
    assert (found["server.address"], found["server.port"]) == ("127.0.0.1", int(url.rpartition(":")[2]))
    assert not any("segment" in name or "messages" in name for name in found)


async def test_the_trace_goes_along(rec: Recording) -> None:
    """Each generation brings `traceparent` of its own span; without a session there is none."""
    async with (
        Scripted({"/generate": Says(generated([1]))}) as server,
        contextlib.aclosing(SGLangEngine(server.url)) as engine,
    ):
        async with rollspan.session() as session:
            trace_id = session.trace_id
            await engine.agenerate(asked())
        await engine.agenerate(asked())
    inside, outside = server.to("/generate")
    (span,) = (s for s in rec.traces()[0].spans if s.name == "generate")
    assert inside.headers["traceparent"] == f"00-{trace_id}-{span.span_id:016x}-01"
    assert "traceparent" not in outside.headers


async def test_the_servers_own_version_is_believed() -> None:
    """A whole number that a server tells is the version of its tokens, else the engine's is."""
    async with (
        Scripted({"/generate": Says(generated([1, 2], version="7"))}) as server,
        contextlib.aclosing(SGLangEngine(server.url)) as engine,
    ):
        told = await engine.agenerate(asked())
        for version in (None, "default"):
            server.actions["/generate"] = Says(generated([1, 2], version=version))
            assert (await engine.agenerate(asked())).output_versions == [0, 0]
    assert told.output_versions == [7, 7]


async def test_images_go_along() -> None:
    """image_data reaches a policy that sees: its log probabilities are those after this image."""
    image = base64.b64encode(bytes(range(0, 256, 16))).decode()
    with serving(policy=LOOKS) as url:
        async with contextlib.aclosing(SGLangEngine(url)) as engine:
            request = asked(max_new_tokens=30)
            request.image_data = [image]
            response = await engine.agenerate(request)
            blind = await engine.agenerate(asked(max_new_tokens=30))
            request.image_data = ["no base64"]
            with pytest.raises(EngineError, match="image_data holds no images"):
                await engine.agenerate(request)
    policy = Looks()
    seen = logprobs_of(policy, PROMPT, response.output_tokens, policy.initial_state([image]))
    assert response.output_logprobs == pytest.approx(seen, abs=1e-3)
    unseen = logprobs_of(policy, PROMPT, response.output_tokens)
    assert response.output_logprobs != pytest.approx(unseen, abs=1e-3)
    assert blind.output_logprobs == pytest.approx(logprobs_of(policy, PROMPT, blind.output_tokens), abs=1e-3)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"addresses": []}, "addresses is empty"),
        ({"addresses": None}, "addresses is None; expected host:port or http://host:port, or a list of such"),
        ({"addresses": 5}, "addresses is 5; expected host:port"),
        ({"addresses": b"x:1"}, "addresses is b'x:1'; expected host:port"),
        ({"addresses": {"x": 1}}, "addresses is {'x': 1}; expected host:port"),
        ({"addresses": ""}, "address '' is not an address; expected host:port"),
        ({"addresses": "ftp://host:1"}, "'ftp://host:1'"),
        ({"addresses": "host:port"}, "'host:port'"),
        ({"addresses": ["host:1", "http://host:1"]}, "twice"),
        ({"addresses": ["host:1", 2]}, "address 2"),
        ({"request_timeout": 0}, "request_timeout is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"max_connections": 0}, "max_connections is 0"),
        ({"probe_interval": "1"}, "probe_interval is '1'"),
        ({"balance": "random"}, "balance is 'random'; expected one of round_robin, least_loaded"),
    ],
)
@pytest.mark.parametrize("kind", [*KINDS, OpenAIEngine])
def test_settings_that_make_no_sense_are_named(
    kind: type[RemoteEngine], given: dict[str, Any], named: str
) -> None:
    """A wrong setting is a ValueError that names it."""
    with pytest.raises(ValueError, match=named):
        kind(**{"addresses": "127.0.0.1:1", "model": "m", **given})


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (ModelRequest([]), "input_ids"),
        (ModelRequest([1] * 9, GenerationHyperparameters(max_tokens=9)), "max_tokens is 9"),
        (ModelRequest([1], messages=[{"role": "user", "content": "x"}]), "messages"),
        (ModelRequest([1], tools=[{}], image_data=["x"]), "tools|image_data"),
    ],
)
async def test_requests_that_make_no_sense_are_named(request_: ModelRequest, named: str) -> None:
    """A request that cannot be asked is a ValueError before anything is sent."""
    async with Scripted() as server:
        for kind in KINDS:
            if kind is SGLangEngine and request_.tools:
                continue
            async with contextlib.aclosing(kind(server.url)) as engine:
                with pytest.raises(ValueError, match=named):
                    await engine.agenerate(request_)
    assert not server.asked


async def test_a_refused_request_says_what_the_server_said(url: str) -> None:
    """A 400 is not repeated; the server's own words are in the error."""
    async with contextlib.aclosing(SGLangEngine(url)) as engine:
        with pytest.raises(EngineError, match=r"http://127.*refused.*status 400.*tokens from 0 to 13"):
            await engine.agenerate(asked([99]))
    async with Scripted({"/generate": Says({"error": {"message": "no"}}, 400)}) as server:
        async with contextlib.aclosing(SGLangEngine(server.url)) as engine:
            with pytest.raises(EngineError, match="status 400: no"):
                await engine.agenerate(asked())
        assert len(server.to("/generate")) == 1


@pytest.mark.parametrize("body", [{}, {"meta_info": {"finish_reason": "stop"}}, {"choices": []}])
async def test_an_answer_that_cannot_be_read_is_an_engine_error(body: dict[str, Any]) -> None:
    """A server that speaks something else is named, and asked once."""
    paths = {"/generate": Says(body), "/v1/completions": Says(body)}
    async with Scripted(paths) as server:
        for kind in KINDS:
            async with contextlib.aclosing(kind(server.url)) as engine:
                with pytest.raises(EngineError, match=rf"{server.url} answered with what cannot be read"):
                    await engine.agenerate(asked())
        assert len(server.to("/generate")) == len(server.to("/v1/completions")) == 1


def test_an_engine_serves_one_event_loop_at_a_time(url: str) -> None:
    """Another loop is refused while the first is alive, and served when that is closed."""
    engine = SGLangEngine(url)
    first = asyncio.new_event_loop()
    assert first.run_until_complete(engine.agenerate(asked(max_new_tokens=1))).output_len == 1
    with pytest.raises(EngineError, match="another event loop"):
        asyncio.run(engine.agenerate(asked(max_new_tokens=1)))
    first.run_until_complete(engine.aclose())
    first.close()

    async def again() -> int:
        async with contextlib.aclosing(engine):
            return (await engine.agenerate(asked(max_new_tokens=2))).output_len

    assert asyncio.run(again()) == 2


async def test_a_version_is_a_whole_number() -> None:
    """Anything else is a ValueError that names it, and changes nothing."""
    engine = SGLangEngine("127.0.0.1:1")
    for version in (-1, "1", True, 1.5):
        with pytest.raises(ValueError, match="version is"):
            engine.set_version(version)
        with pytest.raises(ValueError, match="version is"):
            await engine.update_weights(b"", version)
    assert engine.get_version() == 0
