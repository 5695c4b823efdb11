"""Workflows of one turn and of several: their trajectories, their records, and what they say of wrong data."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import rollspan
from rollspan.testing import Recording
from tests.needs import need

try:
    import torch
    import transformers  # noqa: F401
except ModuleNotFoundError as missing:
    need(False, f"{missing.name} is not installed")

from rollspan.rollout.requests import GenerationHyperparameters
from rollspan.rollout.reward import AsyncReward
from rollspan.rollout.trajectories import check
from rollspan.rollout.workflow import WorkflowTaskInput
from rollspan.rollout.workflows import (
    MultiTurnChatWorkflow,
    MultiTurnWorkflow,
    RLVRWorkflow,
    VisionRLVRWorkflow,
)
from rollspan.rollout.workflows.templates import ChatTemplateError
from tests.rollout import rewards
from tests.rollout.chats import END, TEMPLATE, letters, tokenizer
from tests.rollout.waiting import until

GCONFIG = GenerationHyperparameters(max_new_tokens=200)
FEEDBACK = "once more"


def task(text: str, **data: Any) -> WorkflowTaskInput:
    """A task whose prompt is this text."""
    return WorkflowTaskInput({"messages": [{"role": "user", "content": text}], **data}, task_id="t-1")


async def ends_well(prompt: str, completions: str, *args: Any, **data: Any) -> float:
    """1 for an answer that ends with `ok`."""
    return float(completions.endswith("ok"))


async def test_one_answer_is_one_row_with_loss_on_the_answer_alone(rec: Recording, engine: Any) -> None:
    """The prompt's tokens, then the sampled ones with their logprobs and version; one turn and the reward on record."""
    given: list[Any] = []

    async def reward(*args: Any, **data: Any) -> float:
        given.extend([*args, data])
        return 0.5

    tok = tokenizer()
    engine.set_version(0)
    workflow = RLVRWorkflow(reward, GCONFIG, tok)
    with rollspan.session():
        trajectory = await workflow.arun_episode(engine, task("x ab", solution=4, prompt="the data's own"))
    assert trajectory is not None
    check(trajectory)
    prompt, answer = tok.encode("<|user|>x ab<|end|><|assistant|>"), [*letters("abba"), END]
    assert trajectory["input_ids"].tolist() == [prompt + answer]
    assert trajectory["loss_mask"].tolist() == [[0.0] * len(prompt) + [1.0] * len(answer)]
    assert trajectory["versions"].tolist() == [[-1] * len(prompt) + [0] * len(answer)]
    assert (trajectory["logprobs"] <= 0).all()
    assert trajectory["rewards"].tolist() == [0.5]
    *arguments, data = given
    assert arguments == ["<|user|>x ab<|end|><|assistant|>", "abba", prompt, answer]
    assert data["solution"] == 4
    assert "prompt" not in data
    (record,) = rec.records()
    assert (record["turns"], record["reward"], record["output_tokens"]) == (1, 0.5, len(answer))
    assert len(record["phases"]["generate"]) == len(record["phases"]["reward"]) == 1


async def test_a_plain_reward_function_runs_in_a_process(engine: Any) -> None:
    """A plain function is scored by an AsyncReward, its own or one that is given."""
    with AsyncReward(rewards.length, workers=1) as reward:
        trajectory = await RLVRWorkflow(reward, GCONFIG, tokenizer()).arun_episode(engine, task("x"))
    assert trajectory is not None
    assert trajectory["rewards"].tolist() == [5.0]
    workflow = RLVRWorkflow(rewards.length, GCONFIG.new(n_samples=3), tokenizer())
    with workflow.reward:
        trajectory = await workflow.arun_episode(engine, task("x"))
    assert trajectory is not None
    assert trajectory["rewards"].tolist() == [5.0]
    assert workflow.group_size == 3


async def test_prompts_can_be_made_in_ones_own_way(engine: Any) -> None:
    """The two functions find the prompt in the data and make token ids of it."""
    tok = tokenizer()
    workflow = RLVRWorkflow(
        ends_well,
        GCONFIG,
        tok,
        get_input_ids_fn=lambda prompt, tokenizer, thinking: torch.tensor(tokenizer.encode(prompt)),
        data_extract_prompt_fn=lambda data: f"<|user|>{data['question']}<|end|><|assistant|>",
    )
    trajectory = await workflow.arun_episode(engine, WorkflowTaskInput({"question": "x"}))
    assert trajectory is not None
    assert tok.decode(trajectory["input_ids"][0]) == "<|user|>x<|end|><|assistant|>abba<|end|>"


KINDS = [
    (RLVRWorkflow, {}),
    (VisionRLVRWorkflow, {}),
    (MultiTurnWorkflow, {"max_turns": 2, "turn_discount": 0.5}),
    (MultiTurnChatWorkflow, {"max_turns": 2, "turn_discount": 0.5}),
]


@pytest.mark.parametrize(("kind", "turns"), KINDS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gconfig": {}}, "gconfig is {}; expected GenerationHyperparameters"),
        ({"gconfig": None}, "gconfig is None; expected GenerationHyperparameters"),
        ({"tokenizer": None}, "tokenizer is None; expected a tokenizer such as Hugging Face's, or the name"),
        ({"tokenizer": 5}, "tokenizer is 5; expected a tokenizer such as Hugging Face's, or the name"),
    ],
)
def test_what_a_workflow_cannot_work_with_is_refused(
    kind: Any, turns: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    """Each of the four says which argument it is, and what was expected."""
    arguments = {"reward_fn": ends_well, "gconfig": GCONFIG, "tokenizer": tokenizer(), **turns, **given}
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        kind(**arguments)


async def test_a_tokenizer_may_be_given_by_its_folder(engine: Any, tmp_path: Path) -> None:
    """A text is the name or folder of a Hugging Face tokenizer."""
    tokenizer().save_pretrained(tmp_path)
    trajectory = await RLVRWorkflow(ends_well, GCONFIG, str(tmp_path)).arun_episode(engine, task("x"))
    assert trajectory is not None
    assert tokenizer().decode(trajectory["input_ids"][0]) == "<|user|>x<|end|><|assistant|>abba<|end|>"


async def test_max_tokens_bounds_prompt_and_answer_together(engine: Any) -> None:
    """An answer that would go on is cut where the whole has max_tokens."""
    workflow = RLVRWorkflow(ends_well, GCONFIG.new(max_tokens=20), tokenizer())
    trajectory = await workflow.arun_episode(engine, task("l"))
    assert trajectory is not None
    assert trajectory["input_ids"].shape == (1, 20)


SECRET = "the prompt's own words"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([SECRET], "data is a list; expected a mapping"),
        ({"question": SECRET}, "no 'messages'; it has"),
        ({"messages": SECRET}, "'messages' is a str; expected a list"),
        ({"messages": []}, "'messages' is empty"),
        ({"messages": [SECRET]}, "message 0 is no mapping"),
        ({"messages": [{"content": SECRET}]}, "message 0 is no mapping with a 'role'"),
        (
            {"messages": [{"role": "user", "content": SECRET * 2}]},
            "its prompt has .* tokens and max_tokens is 30",
        ),
    ],
)
@pytest.mark.parametrize("kind", [RLVRWorkflow, MultiTurnWorkflow, MultiTurnChatWorkflow])
async def test_wrong_data_is_told_with_the_task_and_without_the_prompt(
    engine: Any, kind: Any, data: Any, said: str
) -> None:
    """A ValueError names the task and what was expected, and shows nothing of the prompt."""
    turns = {} if kind is RLVRWorkflow else {"max_turns": 2, "turn_discount": 0.5}
    workflow = kind(ends_well, GCONFIG.new(max_tokens=30), tokenizer(), **turns)
    with pytest.raises(ValueError, match=f"task 't-1': .*{said}") as raised:
        await workflow.arun_episode(engine, WorkflowTaskInput(data, task_id="t-1"))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(("made", "said"), [([], "has no tokens"), ("text", "came out as a str")])
async def test_a_prompt_that_is_no_tokens_is_refused(engine: Any, made: Any, said: str) -> None:
    """What one's own function makes has to be token ids, at least one."""
    workflow = RLVRWorkflow(ends_well, GCONFIG, tokenizer(), get_input_ids_fn=lambda *_: made)
    with pytest.raises(ValueError, match=f"task 't-1': its prompt {said}"):
        await workflow.arun_episode(engine, task("x"))


async def test_a_wrong_answer_gets_feedback_and_another_turn(rec: Recording, engine: Any) -> None:
    """Answers are the tokens that were sampled, with feedback without loss between them; the reward is discounted."""
    tok = tokenizer()
    workflow = MultiTurnWorkflow(ends_well, GCONFIG, tok, max_turns=5, turn_discount=0.5, feedback=FEEDBACK)
    with rollspan.session():
        trajectory = await workflow.arun_episode(engine, task("m"))
    assert trajectory is not None
    check(trajectory)
    between = tok.encode(f"<|user|>{FEEDBACK}<|end|><|assistant|>")
    parts = [
        (tok.encode("<|user|>m<|end|><|assistant|>"), 0.0),
        ([*letters("ab no"), END], 1.0),
        (between, 0.0),
        ([*letters("ok no"), END], 1.0),
        (between, 0.0),
        ([*letters("ab ok"), END], 1.0),
    ]
    assert trajectory["input_ids"].tolist() == [[token for tokens, _ in parts for token in tokens]]
    assert trajectory["loss_mask"].tolist() == [[loss for tokens, loss in parts for _ in tokens]]
    assert trajectory["rewards"].tolist() == [0.25]
    whole = tok.decode(trajectory["input_ids"][0])
    assert tok.encode(whole) != trajectory["input_ids"][0].tolist()  # to tokenise anew would have been wrong
    (record,) = rec.records()
    assert record["turns"] == len(record["phases"]["reward"]) == 3


async def test_turns_end_with_their_number_or_their_room(engine: Any) -> None:
    """No turn beyond max_turns, none that max_tokens leaves no room for; the last reward counts."""
    tok = tokenizer()
    workflow = MultiTurnWorkflow(ends_well, GCONFIG, tok, max_turns=2, turn_discount=0.5, feedback=FEEDBACK)
    trajectory = await workflow.arun_episode(engine, task("m"))
    assert trajectory is not None
    assert trajectory["rewards"].tolist() == [0.0]
    assert tok.decode(trajectory["input_ids"][0]).endswith("ok no<|end|>")
    short = MultiTurnWorkflow(
        ends_well, GCONFIG.new(max_tokens=14), tok, max_turns=2, turn_discount=0.5, feedback=FEEDBACK
    )
    trajectory = await short.arun_episode(engine, task("m"))
    assert trajectory is not None
    assert tok.decode(trajectory["input_ids"][0]) == "<|user|>m<|end|><|assistant|>ab no<|end|>"


async def test_an_answer_that_was_cut_gets_its_end_before_feedback(engine: Any) -> None:
    """Behind an answer without an end of turn the template's own stands, and it bears no loss."""
    tok = tokenizer()
    gconfig = GCONFIG.new(max_new_tokens=3)
    workflow = MultiTurnWorkflow(ends_well, gconfig, tok, max_turns=2, turn_discount=0.5, feedback=FEEDBACK)
    trajectory = await workflow.arun_episode(engine, task("m"))
    assert trajectory is not None
    tokens = trajectory["input_ids"][0].tolist()
    assert tok.decode(tokens).startswith("<|user|>m<|end|><|assistant|>ab <|end|><|user|>once more<|end|>")
    assert [int(trajectory["loss_mask"][0, place]) for place, token in enumerate(tokens) if token == END] == [
        0,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"max_turns": 0}, "max_turns is 0"), ({"turn_discount": 0.0}, "turn_discount is 0.0")],
)
def test_turns_that_make_no_sense_are_refused(arguments: dict[str, Any], said: str) -> None:
    """A wrong number of turns or discount is named."""
    with pytest.raises(ValueError, match=said):
        MultiTurnWorkflow(
            ends_well, GCONFIG, tokenizer(), **{"max_turns": 2, "turn_discount": 0.5, **arguments}
        )


@pytest.mark.parametrize("kind", [RLVRWorkflow, MultiTurnWorkflow, MultiTurnChatWorkflow])
async def test_an_answer_that_was_given_up_is_no_trajectory(engine: Any, kind: Any) -> None:
    """A generation that somebody aborts leaves None, and no reward is asked for."""
    scored: list[str] = []

    async def reward(prompt: str, completions: str, *args: Any, **data: Any) -> float:
        scored.append(completions)
        return 1.0

    turns = {} if kind is RLVRWorkflow else {"max_turns": 2, "turn_discount": 0.5}
    await engine.pause()
    running = asyncio.ensure_future(
        kind(reward, GCONFIG, tokenizer(), **turns).arun_episode(engine, task("x"))
    )
    await until(lambda: engine._under_way)
    for rid in list(engine._under_way):
        await engine.abort(rid)
    assert await running is None
    assert scored == []
    await engine.resume()


def test_a_template_without_earlier_answers_is_refused() -> None:
    """A template that leaves earlier answers out cannot be gone on from, and says so at once."""
    forgetful = TEMPLATE.replace(
        "{{ m.content }}", "{% if m.role != 'assistant' %}{{ m.content }}{% endif %}"
    )
    with pytest.raises(ChatTemplateError, match="earlier answer's content"):
        MultiTurnWorkflow(ends_well, GCONFIG, tokenizer(forgetful), max_turns=2, turn_discount=0.5)
