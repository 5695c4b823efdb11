"""The demo's server, over real HTTP from a process of its own."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
import pytest_asyncio
import torch

from rollspan.demo.config import DemoConfig
from rollspan.demo.policy import Policy, dump_weights
from rollspan.demo.serving import aserving
from rollspan.demo.task import END, TOOL, VOCABULARY

CONFIG = DemoConfig(seed=3)
PROMPT = [5, 1, 4, 2, 10]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client of one server for all tests."""
    async with (
        aserving(seed=CONFIG.seed) as url,
        httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client,
    ):
        yield client


def lively_policy(seed: int = 11) -> Policy:
    """A policy that, unlike a fresh one, prefers some tokens to others."""
    policy = Policy(CONFIG.hidden_size, seed)
    with torch.no_grad():
        policy.head.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return policy


def logprobs_of(
    policy: Policy, prompt: Sequence[int], output: Sequence[int], temperature: float
) -> list[float]:
    """What `policy` says of each token of `output` after `prompt`, in one pass and without a cache."""
    tokens = torch.tensor([[*prompt, *output]])
    with torch.no_grad():
        logits, _ = policy(tokens[:, :-1])
    every = torch.log_softmax(logits[0, len(prompt) - 1 :] / temperature, dim=-1)
    return [float(row[token]) for row, token in zip(every, output, strict=True)]


async def generate(http: httpx.AsyncClient, **body: object) -> dict[str, object]:
    """The reply to one /generate request."""
    response = await http.post("/generate", json={"input_ids": PROMPT, "return_logprob": True, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def push(http: httpx.AsyncClient, policy: Policy, version: int) -> None:
    """Put the weights of `policy` into the server."""
    body = {
        "serialized_named_tensors": [base64.b64encode(dump_weights(policy)).decode()],
        "weight_version": str(version),
        "abort_all_requests": True,
    }
    assert (await http.post("/update_weights_from_tensor", json=body)).status_code == 200


async def test_the_model_starts_under_sglangs_default_version() -> None:
    """A server that has got no weights yet is healthy and calls its version `default`, as SGLang does."""
    async with (
        aserving(seed=CONFIG.seed) as url,
        httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as fresh,
    ):
        assert (await fresh.get("/health")).status_code == 200
        info = (await fresh.get("/get_model_info")).json()
    assert info["weight_version"] == "default"
    assert info["is_generation"] is True


@pytest.mark.parametrize("temperature", [1.0, 0.5])
async def test_logprobs_are_those_of_the_pushed_policy(http: httpx.AsyncClient, temperature: float) -> None:
    """Each generated token comes with the log probability that the pushed policy gives it, cached or not."""
    policy = lively_policy()
    await push(http, policy, 7)
    bodies = [{"sampling_params": {"max_new_tokens": n, "temperature": temperature}} for n in range(1, 25)]
    replies = await asyncio.gather(*(generate(http, **body) for body in bodies))
    replies.append(await generate(http, **bodies[-1]))
    for reply in replies:
        meta = reply["meta_info"]
        assert meta["weight_version"] == "7"
        assert [token for _, token, _ in meta["output_token_logprobs"]] == reply["output_ids"]
        given = [logprob for logprob, _, _ in meta["output_token_logprobs"]]
        assert given == pytest.approx(logprobs_of(policy, PROMPT, reply["output_ids"], temperature), abs=1e-4)
    assert replies[-1]["meta_info"]["cached_tokens"] == len(PROMPT) - 1


async def test_sampling_follows_the_policy(http: httpx.AsyncClient) -> None:
    """Over many requests the first token is as frequent as the policy finds it probable."""
    policy = lively_policy()
    await push(http, policy, 1)
    body = {"sampling_params": {"max_new_tokens": 1, "temperature": 1.0}}
    replies = await asyncio.gather(*(generate(http, **body) for _ in range(600)))
    wanted = [torch.tensor(logprobs_of(policy, PROMPT, [t], 1.0)).exp().item() for t in range(VOCABULARY)]
    for token, probability in enumerate(wanted):
        share = sum(reply["output_ids"] == [token] for reply in replies) / len(replies)
        assert share == pytest.approx(probability, abs=0.1)


async def test_generation_ends_at_a_stop_token_or_at_the_limit(http: httpx.AsyncClient) -> None:
    """finish_reason is `stop` with the token that matched, else `length` at max_new_tokens."""
    body = {"sampling_params": {"max_new_tokens": 6, "stop_token_ids": [END, TOOL]}}
    reasons = set()
    for reply in await asyncio.gather(*(generate(http, **body) for _ in range(60))):
        output, meta = reply["output_ids"], reply["meta_info"]
        reason = meta["finish_reason"]
        reasons.add(reason["type"])
        assert not {END, TOOL} & set(output[:-1])
        if reason["type"] == "stop":
            assert output[-1] == reason["matched"]
            assert output[-1] in (END, TOOL)
        else:
            assert reason == {"type": "length", "length": 6}
            assert len(output) == 6
        assert meta["prompt_tokens"] == len(PROMPT)
        assert meta["completion_tokens"] == len(output)
    assert reasons == {"stop", "length"}


async def test_a_weight_update_aborts_what_is_under_way(http: httpx.AsyncClient) -> None:
    """Generations under way at a weight update return what they have, under the version that wrote it."""
    await push(http, lively_policy(), 0)
    body = {"rid": "long", "sampling_params": {"max_new_tokens": 10**9}}
    running = asyncio.create_task(generate(http, **body))
    version = 0
    while not running.done():
        await asyncio.sleep(0.2)
        version += 1
        await push(http, lively_policy(), version)
    meta = running.result()["meta_info"]
    assert meta["id"] == "long"
    assert meta["finish_reason"]["type"] == "abort"
    assert int(meta["weight_version"]) < version
    assert 0 < meta["completion_tokens"] == len(running.result()["output_ids"]) < 10**9
    assert len(meta["output_token_logprobs"]) == meta["completion_tokens"]
    assert (await generate(http, sampling_params={"max_new_tokens": 1}))["meta_info"][
        "weight_version"
    ] == str(version)


async def test_one_request_can_be_aborted(http: httpx.AsyncClient) -> None:
    """/abort_request ends the generation of that rid and leaves the others alone."""
    endless = {"sampling_params": {"max_new_tokens": 10**9}}
    first = asyncio.create_task(generate(http, rid="first", **endless))
    second = asyncio.create_task(generate(http, rid="second", **endless))
    while not first.done():
        await asyncio.sleep(0.2)
        await http.post("/abort_request", json={"rid": "first"})
    assert first.result()["meta_info"]["finish_reason"]["type"] == "abort"
    assert not second.done()
    while not second.done():
        await asyncio.sleep(0.05)
        await http.post("/abort_request", json={"abort_all": True})
    assert second.result()["meta_info"]["finish_reason"]["type"] == "abort"


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/generate", {}, "input_ids"),
        ("/generate", {"input_ids": [99]}, "input_ids"),
        ("/generate", {"input_ids": [1], "sampling_params": {"max_new_tokens": 0}}, "max_new_tokens"),
        ("/generate", {"input_ids": [1], "sampling_params": {"temperature": -1}}, "temperature"),
        ("/update_weights_from_tensor", {}, "serialized_named_tensors"),
        (
            "/update_weights_from_tensor",
            {"serialized_named_tensors": ["bm8="], "weight_version": "1"},
            "weights",
        ),
        ("/abort_request", {}, "rid"),
    ],
)
async def test_bad_requests_are_told_what_was_expected(
    http: httpx.AsyncClient, path: str, body: dict[str, object], names: str
) -> None:
    """A request that makes no sense gets a 400 that names what is wrong, and the server goes on serving."""
    response = await http.post(path, json=body)
    assert response.status_code == 400
    assert names in response.json()["error"]["message"]
    assert (await http.get("/nothing-here")).status_code == 404
    assert (await generate(http, sampling_params={"max_new_tokens": 2}))["meta_info"][
        "completion_tokens"
    ] == 2


async def test_the_server_leaves_with_its_parent() -> None:
    """When its standard input closes, as it does when the parent is gone, the server ends well and quietly."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rollspan.demo.server", stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert process.stdout is not None
    assert b"port" in await process.stdout.readline()
    assert await asyncio.wait_for(process.communicate(b""), timeout=30) == (b"", b"")
    assert process.returncode == 0
