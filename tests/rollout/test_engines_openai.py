"""Chats, and what a plain OpenAI endpoint can and cannot do, against a real server of a policy with a tokenizer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

import rollspan
from rollspan.demo.serving import serving
from rollspan.rollout import EngineError, GenerationHyperparameters, ModelRequest
from rollspan.rollout.engines import OpenAIEngine, RemoteEngine, VLLMEngine
from rollspan.testing import Recording, recording
from tests.rollout.policies import LIVELY, RECITES, Letters
from tests.rollout.scripted import Says, Scripted

SENTENCE = "It is four."
CALL = {"name": "add", "arguments": {"a": 2, "b": 2}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
MESSAGES = [{"role": "user", "content": "2 + 2?"}]
TEMPLATED = [*Letters().encode("user: 2 + 2?\n"), Letters.answer]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of a policy that says the sentence."""
    with serving(policy=RECITES, config={"sentence": SENTENCE}, model="tiny") as made:
        yield made


@pytest.fixture(scope="module")
def calling() -> Iterator[str]:
    """A server of a policy that calls a tool."""
    with serving(policy=RECITES, config={"call": CALL}, model="tiny") as made:
        yield made


def chat(**sampling: Any) -> ModelRequest:
    """A request with messages."""
    return ModelRequest(
        messages=MESSAGES, gconfig=GenerationHyperparameters(**{"max_new_tokens": 200, **sampling})
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_gives_a_message(url: str, stream: bool, rec: Recording) -> None:
    """Message, text, stop reason and log probabilities; no token ids, which OpenAI's protocol has not."""
    engine = OpenAIEngine(url, model="tiny", stream=stream)
    async with contextlib.aclosing(engine), rollspan.session():
        response = await engine.agenerate(chat())
        short = await engine.agenerate(chat(max_new_tokens=5))
    assert response.message == {"role": "assistant", "content": SENTENCE}
    assert (response.text, response.stop_reason) == (SENTENCE, "stop")
    assert (response.input_tokens, response.output_tokens, response.output_versions) == ([], [], [])
    assert response.output_logprobs == pytest.approx([0.0] * (len(SENTENCE) + 1), abs=1e-3)
    assert (short.text, short.stop_reason) == (SENTENCE[:5], "length")
    (record,) = rec.records()
    assert record["output_tokens"] == len(SENTENCE) + 1 + 5
    assert record["input_tokens"] == 2 * len(TEMPLATED)
    span = next(s for s in rec.traces()[0].spans if s.name == "generate")
    assert span.attributes["gen_ai.operation.name"] == "chat"
    assert span.attributes["gen_ai.provider.name"] == "openai"
    assert span.attributes["gen_ai.request.model"] == "tiny"
    assert not any("messages" in name for name in span.attributes)


async def test_content_is_recorded_where_that_is_on(url: str, tmp_path: Any) -> None:
    """With content captured the span has the messages and the answer."""
    with recording(tmp_path / "data", capture_content=True) as rec:
        async with contextlib.aclosing(OpenAIEngine(url, model="tiny")) as engine, rollspan.session():
            await engine.agenerate(chat())
        span = next(s for s in rec.traces()[0].spans if s.name == "generate")
    assert "2 + 2?" in str(span.attributes["gen_ai.input.messages"])
    assert SENTENCE in str(span.attributes["gen_ai.output.messages"])


@pytest.mark.parametrize("stream", [False, True])
async def test_vllm_gives_the_token_ids_of_a_chat(url: str, stream: bool) -> None:
    """Prompt and answer as token ids, a version for each, beside the message."""
    async with contextlib.aclosing(VLLMEngine(url, stream=stream)) as engine:
        engine.set_version(6)
        response = await engine.agenerate(chat())
    assert response.input_tokens == TEMPLATED
    assert response.output_tokens == [*Letters().encode(SENTENCE), 0]
    assert response.output_versions == [6] * (len(SENTENCE) + 1)
    assert len(response.output_logprobs) == len(SENTENCE) + 1
    assert response.message == {"role": "assistant", "content": SENTENCE}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [OpenAIEngine, VLLMEngine])
async def test_tools_are_called(calling: str, kind: type[RemoteEngine], stream: bool) -> None:
    """A call is in the message as OpenAI has it, with `tool_calls` as stop reason; without tools it is text."""
    async with contextlib.aclosing(kind(calling, model="tiny", stream=stream)) as engine:
        request = chat()
        text = await engine.agenerate(request)
        request.tools = TOOLS
        response = await engine.agenerate(request)
    assert text.stop_reason == "stop"
    assert "tool_calls" not in text.message
    assert response.stop_reason == "tool_calls"
    assert response.message["content"] is None
    (call,) = response.message["tool_calls"]
    assert call["type"] == "function"
    assert call["function"]["name"] == CALL["name"]
    assert json.loads(call["function"]["arguments"]) == CALL["arguments"]


@pytest.mark.parametrize("stream", [False, True])
async def test_texts_stop_an_answer(url: str, stream: bool) -> None:
    """`stop` ends it where the text has come."""
    async with contextlib.aclosing(OpenAIEngine(url, model="tiny", stream=stream)) as engine:
        response = await engine.agenerate(chat(stop=["four"]))
    assert (response.text, response.stop_reason) == ("It is four", "stop")


async def test_token_ids_are_an_error_where_the_endpoint_gives_none() -> None:
    """It says so, and how they are asked for; with that the answer has them."""
    request = ModelRequest([1, 2, 10], GenerationHyperparameters(max_new_tokens=5))
    with serving(policy=LIVELY, model="tiny") as url:
        for stream in (False, True):
            async with contextlib.aclosing(OpenAIEngine(url, model="tiny", stream=stream)) as engine:
                with pytest.raises(EngineError, match="no token ids in the answer"):
                    await engine.agenerate(request)
            able = OpenAIEngine(url, model="tiny", stream=stream, extra_body={"return_token_ids": True})
            async with contextlib.aclosing(able):
                response = await able.agenerate(request)
            assert response.output_len == len(response.output_logprobs) == 5


async def test_what_an_openai_endpoint_cannot_do_is_said() -> None:
    """Pauses and weights are EngineErrors, sampling that it does not know is a ValueError; nothing is sent."""
    async with Scripted() as server, contextlib.aclosing(OpenAIEngine(server.url, model="m")) as engine:
        with pytest.raises(EngineError, match="openai cannot pause"):
            await engine.pause()
        with pytest.raises(EngineError, match="openai cannot be resumed"):
            await engine.resume()
        with pytest.raises(EngineError, match="takes no weights"):
            await engine.update_weights(b"", 1)
        for sampling in ({"top_k": 3}, {"min_new_tokens": 2}, {"stop_token_ids": [1]}, {"ignore_eos": True}):
            (name,) = sampling
            with pytest.raises(ValueError, match=f"{name} is .*OpenAI's protocol has none"):
                await engine.agenerate(chat(**sampling))
        request = chat()
        request.image_data = ["aaaa"]
        with pytest.raises(ValueError, match="image_url"):
            await engine.agenerate(request)
        request = chat()
        request.input_ids = [1]
        with pytest.raises(ValueError, match="both messages and input_ids"):
            await engine.agenerate(request)
    assert not server.asked
    with pytest.raises(ValueError, match="model is ''"):
        OpenAIEngine("127.0.0.1:1", model="")


async def test_the_key_is_a_bearer_token() -> None:
    """`api_key` goes along with every request, and into no span."""
    answer = {"choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
    async with Scripted({"/v1/chat/completions": Says(answer)}) as server:
        engine = OpenAIEngine(server.url, model="m", api_key="secret", extra_body={"seed": 4})
        async with contextlib.aclosing(engine):
            assert (await engine.agenerate(chat())).text == "hi"
    (request,) = server.asked
    assert request.headers["authorization"] == "Bearer secret"
    assert (request.body["model"], request.body["seed"]) == ("m", 4)


async def test_a_chat_that_is_cut_off_begins_again() -> None:
    """Its message cannot go on from tokens; the answer is one whole one, and the pause is told."""
    sentence = "word " * 300
    with serving(policy=RECITES, config={"sentence": sentence}, model="tiny") as url:
        async with contextlib.aclosing(VLLMEngine(url)) as engine:
            running = asyncio.create_task(engine.agenerate(chat(max_new_tokens=2000)))
            await asyncio.sleep(0.2)
            await engine.pause()
            await engine.resume()
            response = await running
    assert response.text == sentence
    assert response.stop_reason == "stop"
    assert response.output_len == len(sentence) + 1
    (segment,) = response.segments
    assert segment.paused_s > 0
