"""Rollouts of a real server, without training: shows rewards, tokens and weight versions of one batch.

    python examples/vllm_or_sglang.py --backend vllm --address localhost:8000 [--config ...] [key=value ...]

The server is one of vLLM, of SGLang, or any with OpenAI's protocol that gives token ids. With ROLLSPAN_ENABLED=1 in
the environment every rollout is traced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httpx

import rollspan
from rollspan.rollout import (
    GenerationHyperparameters,
    InferenceEngine,
    OpenAIEngine,
    RLVRWorkflow,
    RolloutError,
    RolloutExecutor,
    RolloutWorkflow,
    SGLangEngine,
    VLLMEngine,
    WorkflowTaskInput,
)
from rollspan.rollout.engines import RemoteEngine
from settings import Positive, run


@dataclass(frozen=True)
class Settings:
    """What vllm_or_sglang.yaml says, and explains."""

    backend: str
    address: str
    model: str | None
    api_key: str | None
    tokenizer: str
    questions: list[str]
    answers: list[str]
    group_size: Positive
    max_new_tokens: int
    temperature: float
    max_concurrent_rollouts: Positive
    request_timeout: float
    retries: int


def engine_of(settings: Settings) -> RemoteEngine:
    """The engine for this kind of server. Raises ValueError for a kind that there is not."""
    common: dict[str, Any] = {
        "request_timeout": settings.request_timeout,
        "retries": settings.retries,
        "api_key": settings.api_key,
    }
    if settings.backend == "vllm":
        return VLLMEngine(settings.address, model=settings.model, **common)
    if settings.backend == "sglang":
        return SGLangEngine(settings.address, model=settings.model, **common)
    if settings.backend == "openai":
        # Training needs the answer's token ids. Endpoints of vLLM's kind give them when they are asked like this.
        ids = {"return_token_ids": True}
        return OpenAIEngine(settings.address, model=settings.model or "", extra_body=ids, **common)
    raise ValueError(f"backend is {settings.backend!r}; expected vllm, sglang or openai")


def check_server(engine: RemoteEngine, settings: Settings) -> None:
    """End where nobody answers, whatever it be: sooner said than a tokenizer is loaded."""
    try:
        httpx.get(engine.addresses[0], timeout=settings.request_timeout, trust_env=False)
    except httpx.HTTPError as error:
        raise SystemExit(
            f"no server at {settings.address} ({type(error).__name__}: {error}); expected one of {settings.backend} that "
            "runs there"
        ) from None


async def has_answer(
    prompt: str, completions: str, prompt_ids: list[int], completion_ids: list[int], answer: str, **data: Any
) -> float:
    """The reward: 1 where the last word or number of the completion is the answer."""
    words = re.findall(r"[\w.-]*\w", completions)
    return float(words[-1:] == [answer])


def workflow_of(settings: Settings) -> RLVRWorkflow:
    """One answer to one question. Raises ValueError and OSError for settings that make no sense."""
    gconfig = GenerationHyperparameters(
        n_samples=settings.group_size,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
    )
    return RLVRWorkflow(has_answer, gconfig, settings.tokenizer)


async def try_out(engine: InferenceEngine, workflow: RolloutWorkflow, task: dict[str, Any]) -> None:
    """One rollout before all else: it raises whatever is wrong, where a batch leaves out what fails."""
    with rollspan.session(task_id="try-out"):
        await workflow.arun_episode(engine, WorkflowTaskInput(task))


def main(settings: Settings) -> None:
    """Roll out all questions, each as a group, and print what came of them."""
    asked, known = len(settings.questions), len(settings.answers)
    if asked != known or not asked:
        raise SystemExit(
            f"there are {asked} questions and {known} answers; expected as many, and one at least"
        )
    try:
        engine = engine_of(settings)
        check_server(engine, settings)
        workflow = workflow_of(settings)
    except (OSError, ValueError) as error:  # OSError: there is no such tokenizer
        raise SystemExit(str(error)) from None
    tasks = [
        {"id": number, "messages": [{"role": "user", "content": question}], "answer": answer}
        for number, (question, answer) in enumerate(zip(settings.questions, settings.answers, strict=True))
    ]
    with RolloutExecutor(engine, max_concurrent_rollouts=settings.max_concurrent_rollouts) as executor:
        try:
            executor.run(try_out(engine, workflow, tasks[0]))
        except (RolloutError, ValueError) as error:
            raise SystemExit(f"no rollout of {settings.backend} at {settings.address}: {error}") from None
        groups = executor.rollout_batch(tasks, workflow)
    for group in groups:
        tokenizer, written = workflow.tokenizer, group["loss_mask"].bool()
        given = group["attention_mask"] & ~written
        print(repr(tokenizer.decode(group["input_ids"][0][given[0]])))
        print(f"  the first answer {tokenizer.decode(group['input_ids'][0][written[0]])!r}")
        print(f"  rewards {group['rewards'].tolist()}")
        print(f"  tokens {written.sum(dim=1).tolist()}")
        print(f"  weight versions {group['versions'][written].unique().tolist()}")
    if len(groups) < len(tasks):
        raise SystemExit(
            f"{len(tasks) - len(groups)} of {len(tasks)} questions came to nothing; the log says why"
        )


if __name__ == "__main__":
    run(main, Settings, __file__, options=["backend", "address"])
