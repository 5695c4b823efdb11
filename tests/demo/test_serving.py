"""The demo's server beyond `/generate`: streams, pauses, OpenAI's routes, other policies, and its process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tests.rollout.policies import LIVELY, RECITES, lively

from rollspan.demo.serving import ServerProcess, aserving, serving

PROMPT = [5, 1, 4, 2, 10]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of a policy without a tokenizer."""
    with serving(policy=LIVELY, model="lively") as made:
        yield made


def post(url: str, path: str, **body: Any) -> dict[str, Any]:
    """The reply to one request."""
    response = httpx.post(url + path, json=body, trust_env=False, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def events(url: str, path: str, **body: Any) -> list[dict[str, Any]]:
    """The events of one streamed reply; the last one says that there are no more."""
    with httpx.stream("POST", url + path, json={**body, "stream": True}, trust_env=False) as response:
        assert response.headers["content-type"] == "text/event-stream"
        data = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert data.pop() == "[DONE]"
    return [json.loads(event) for event in data]


def test_generate_streams_all_tokens_so_far(url: str) -> None:
    """As SGLang does: each event is longer than the one before, the last one has a finish reason."""
    sampling = {"max_new_tokens": 6}
    found = events(url, "/generate", input_ids=PROMPT, sampling_params=sampling, return_logprob=True)
    counts = [event["meta_info"]["completion_tokens"] for event in found]
    assert counts == sorted(set(counts))
    for event in found:
        assert len(event["output_ids"]) == event["meta_info"]["completion_tokens"]
        assert [pair[1] for pair in event["meta_info"]["output_token_logprobs"]] == event["output_ids"]
    *before, last = found
    assert all(event["meta_info"]["finish_reason"] is None for event in before)
    assert last["meta_info"]["finish_reason"] == {"type": "length", "length": 6}


def test_completions_are_vllms(url: str) -> None:
    """Text, token ids and log probabilities, whole or in pieces that add up."""
    body = {"model": "lively", "prompt": PROMPT, "max_tokens": 9, "logprobs": 0, "return_token_ids": True}
    whole = post(url, "/v1/completions", **body, return_tokens_as_token_ids=True)
    (choice,) = whole["choices"]
    assert choice["prompt_token_ids"] == PROMPT
    assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]
    assert len(choice["logprobs"]["token_logprobs"]) == 9
    assert choice["text"] == " ".join(map(str, choice["token_ids"]))
    assert (choice["finish_reason"], whole["usage"]["completion_tokens"]) == ("length", 9)
    *pieces, last = events(url, "/v1/completions", **body, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == len(PROMPT) + 9
    tokens = [token for piece in pieces for token in piece["choices"][0]["token_ids"]]
    assert len(tokens) == 9
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == " ".join(map(str, tokens))


def test_models_and_load_are_told(url: str) -> None:
    """`/v1/models` names the model, `/load` what is under way."""
    assert httpx.get(f"{url}/v1/models", trust_env=False).json()["data"][0]["id"] == "lively"
    assert httpx.get(f"{url}/load", trust_env=False).json() == {"server_load": 0}


@pytest.mark.parametrize(
    ("pause", "resume"), [("/pause?mode=keep", "/resume"), ("/pause_generation", "/continue_generation")]
)
async def test_a_pause_that_keeps_generations_freezes_them(url: str, pause: str, resume: str) -> None:
    """They are whole when it is over, and so is one that came meanwhile."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:

        async def generate() -> list[int]:
            body = {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": 300}}
            return (await http.post("/generate", json=body)).json()["output_ids"]

        early = asyncio.create_task(generate())
        while not (await http.get("/get_load")).json()["num_reqs"]:
            pass
        await http.post(pause, json={"mode": "in_place"})
        late = asyncio.create_task(generate())
        while (await http.get("/get_load")).json()["num_reqs"] < 2:
            pass
        assert (await http.get("/is_paused")).json() == {"is_paused": True}
        await asyncio.sleep(0.1)
        assert not early.done()
        assert not late.done()
        await http.post(resume, json={})
        assert [len(output) for output in await asyncio.gather(early, late)] == [300, 300]


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/v1/completions", {"prompt": "text"}, "tokenizer"),
        ("/v1/completions", {"prompt": [99]}, "prompt"),
        ("/v1/completions", {"prompt": [1], "model": "other"}, "'other'"),
        ("/v1/completions", {"prompt": [1], "n": 2}, "n is 2"),
        ("/v1/completions", {"prompt": [1], "top_p": 0}, "top_p is 0"),
        ("/v1/completions", {"prompt": [1], "max_tokens": True}, "max_tokens is True"),
        ("/v1/chat/completions", {"messages": []}, "tokenizer"),
        ("/generate", {"input_ids": [1], "image_data": "aaaa"}, "no images"),
        ("/generate", {"input_ids": [1], "sampling_params": {"stop": "x"}}, "tokenizer"),
        ("/generate", {"input_ids": [1], "sampling_params": {"frequency_penalty": 1}}, "frequency_penalty"),
        ("/pause_generation", {"mode": "later"}, "'later'"),
        ("/pause?mode=wait", {}, "'wait'"),
        ("/collective_rpc", {"method": "sleep"}, "'sleep'"),
        ("/update_weights_from_disk", {"model_path": "/nowhere"}, "/nowhere"),
    ],
)
def test_bad_requests_are_told_what_was_expected(
    url: str, path: str, body: dict[str, Any], names: str
) -> None:
    """A request that makes no sense gets a 400 that names what is wrong."""
    response = httpx.post(url + path, json=body, trust_env=False)
    assert response.status_code == 400
    assert names in response.json()["error"]["message"]


async def test_weights_come_from_a_file(tmp_path: Path) -> None:
    """With `--weights` the server begins with those; a chat's answer is the policy's."""
    path = tmp_path / "weights.pt"
    torch.save(lively(4).state_dict(), path)
    greedy = {"max_new_tokens": 10, "temperature": 0}
    async with aserving(policy=LIVELY, weights=path) as url:
        found = post(url, "/generate", input_ids=PROMPT, sampling_params=greedy)["output_ids"]
    tokens = list(PROMPT)
    for _ in range(10):
        with torch.no_grad():
            tokens.append(int(lively(4)(torch.tensor([tokens]))[0][0, -1].argmax()))
    assert found == tokens[len(PROMPT) :]


@pytest.mark.parametrize(
    ("policy", "config", "words"),
    [
        ("nothing", {}, "expected package.module:factory"),
        ("collections:Counter", {}, "expected a torch.nn.Module"),
        (RECITES, {"wrong": 1}, "wrong"),
    ],
)
def test_a_policy_that_cannot_be_made_is_an_error(
    policy: str, config: dict[str, Any], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server does not start, and what it prints says why."""
    with pytest.raises(RuntimeError, match="did not start"):
        ServerProcess(policy=policy, config=config)
    assert words in capfd.readouterr().err


def test_a_server_does_not_outlive_its_starter() -> None:
    """When the program that started it is killed it leaves."""
    program = "from rollspan.demo.serving import ServerProcess; s = ServerProcess(); print(s.process.pid, flush=True)"
    starter = subprocess.Popen(
        [sys.executable, "-c", f"{program}; input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    assert starter.stdin is not None
    pid = int(starter.stdout.readline())
    os.kill(pid, 0)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdin.close()
    starter.stdout.close()
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        pass
