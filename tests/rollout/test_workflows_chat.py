"""The chat workflow: tools, their phases, and tokens that stay what they were."""

from __future__ import annotations

import asyncio
import json
import operator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rollspan
from rollspan.testing import Recording
from tests.needs import need

try:
    import transformers  # noqa: F401
except ModuleNotFoundError:
    need(False, "transformers is not installed")

from rollspan.rollout.requests import GenerationHyperparameters
from rollspan.rollout.trajectories import check
from rollspan.rollout.workflow import WorkflowTaskInput
from rollspan.rollout.workflows import MultiTurnChatWorkflow
from rollspan.rollout.workflows.templates import ChatTemplate, ChatTemplateError, joined
from rollspan.rollout.workflows.tools import parse_hermes_tool_calls
from tests.rollout.chats import CHARACTERS, END, TEMPLATE, VOCABULARY, letters, tokenizer
from tests.rollout.conftest import SCRIPTS

GCONFIG = GenerationHyperparameters(max_new_tokens=300)
FEEDBACK = "once more"


def task(text: str) -> WorkflowTaskInput:
    """A task whose prompt is this text."""
    return WorkflowTaskInput({"messages": [{"role": "user", "content": text}]}, task_id="t-1")


async def ends_well(prompt: str, completions: str, *args: Any, **data: Any) -> float:
    """1 for an answer that ends with `ok`."""
    return float(completions.endswith("ok"))


def chat(template: str = TEMPLATE, **arguments: Any) -> MultiTurnChatWorkflow:
    """The workflow, with three turns at most."""
    given = {"max_turns": 3, "turn_discount": 0.5, "feedback": FEEDBACK, **arguments}
    return MultiTurnChatWorkflow(ends_well, GCONFIG, tokenizer(template), **given)


def parts_of(trajectory: Any) -> list[tuple[str, bool]]:
    """The texts that the model wrote (True) and that it was given (False), in turn."""
    tok, parts = tokenizer(), []
    losses = trajectory["loss_mask"][0].bool().tolist()
    run: list[int] = []
    for place, (token, loss) in enumerate(zip(trajectory["input_ids"][0].tolist(), losses, strict=True)):
        run.append(token)
        if place + 1 == len(losses) or losses[place + 1] != loss:
            parts.append((tok.decode(run), loss))
            run = []
    return parts


async def test_tools_are_called_at_the_same_time_and_answer_in_order(rec: Recording, engine: Any) -> None:
    """Two calls of one answer overlap; their answers come in the order of the calls, each call in a phase of its own."""
    waiting = asyncio.Event()

    def add(a: int, b: int) -> dict[str, int]:
        asyncio.run_coroutine_threadsafe(both(), loop).result(60)  # `wait` has begun meanwhile
        return {"sum": a + b}

    async def both() -> None:
        await waiting.wait()

    async def wait(text: str) -> str:
        waiting.set()
        return text

    loop = asyncio.get_running_loop()
    with rollspan.session():
        trajectory = await chat(tools={"add": add, "wait": wait}).arun_episode(engine, task("t"))
    assert trajectory is not None
    check(trajectory)
    assert parts_of(trajectory) == [
        ("<|user|>t<|end|><|assistant|>", False),
        (SCRIPTS["t"][0] + "<|end|>", True),
        ('<|tool|>{"sum": 3}<|end|><|tool|>ok<|end|><|assistant|>', False),
        ("ab ok<|end|>", True),
    ]
    assert trajectory["rewards"].tolist() == [1.0]
    (trace,) = rec.traces()
    calls = [span for span in trace.spans if span.name == "toolcall"]
    assert [span.attributes["gen_ai.tool.name"] for span in calls] == ["add", "wait"]
    assert len({span.attributes["gen_ai.tool.call.id"] for span in calls}) == 2
    (record,) = rec.records()
    assert (record["turns"], len(record["phases"]["reward"])) == (2, 1)


async def test_tokens_are_what_was_sampled_where_text_would_give_others(engine: Any) -> None:
    """Sampled tokens and a call's own spelling stay, though the template spells it otherwise and text gives others."""
    workflow = chat(tools={"add": lambda a, b: a + b, "wait": lambda text: text})
    trajectory = await workflow.arun_episode(engine, task("t"))
    assert trajectory is not None
    tokens = trajectory["input_ids"][0].tolist()
    sampled = [*letters(SCRIPTS["t"][0]), END]
    start = len(tokenizer().encode("<|user|>t<|end|><|assistant|>"))
    assert tokens[start : start + len(sampled)] == sampled
    assert tokenizer().encode(tokenizer().decode(tokens)) != tokens


async def test_what_goes_wrong_with_a_tool_is_told_to_the_model_and_to_the_trace(
    rec: Recording, engine: Any
) -> None:
    """Wrong arguments, an unknown tool, one that raises, and no JSON: each is an answer, and an error of its phase."""

    def fail() -> None:
        raise KeyError("broken")

    def add(a: int, b: int) -> int:
        return a + b

    with rollspan.session():
        trajectory = await chat(tools={"add": add, "fail": fail}).arun_episode(engine, task("b"))
    assert trajectory is not None
    _, _, first, _, second, last = [text for text, _ in parts_of(trajectory)]
    assert [answer.split("<|end|>")[0] for answer in first.split("<|tool|>")[1:]] == [
        "Error: add takes (a: 'int', b: 'int') -> 'int': missing a required argument: 'b'",
        "Error: there is no tool 'none'; there are add, fail",
        "Error: KeyError: 'broken'",
    ]
    assert second.startswith("<|tool|>Error: the call is no JSON")
    assert last == "ab ok<|end|>"
    (trace,) = rec.traces()
    errors = {
        span.attributes["gen_ai.tool.name"]: span.attributes.get("error.type")
        for span in trace.spans
        if span.name == "toolcall"
    }
    assert errors.pop("fail") == "KeyError"
    assert set(errors) == {"add", "none", "unreadable"}
    assert len(set(errors.values())) == 1
    assert None not in errors.values()


async def test_a_wrong_answer_gets_feedback(rec: Recording, engine: Any) -> None:
    """Without calls it is as in MultiTurnWorkflow: feedback, discount, loss on the answers alone."""
    with rollspan.session():
        trajectory = await chat().arun_episode(engine, task("m"))
    assert trajectory is not None
    assert [text for text, loss in parts_of(trajectory) if loss] == [
        f"{text}<|end|>" for text in SCRIPTS["m"]
    ]
    assert trajectory["rewards"].tolist() == [0.25]
    assert rec.records()[0]["turns"] == 3


async def test_the_last_turn_is_scored_though_it_calls_a_tool(engine: Any) -> None:
    """With one turn there is none for a tool's answer: no tool is run and the answer is scored as it is."""
    called: list[str] = []
    tools = {"add": lambda **_: called.append("add"), "wait": lambda **_: called.append("wait")}
    trajectory = await chat(tools=tools, max_turns=1).arun_episode(engine, task("t"))
    assert trajectory is not None
    assert trajectory["rewards"].tolist() == [0.0]
    assert called == []


async def test_a_cancelled_rollout_cancels_its_tools(engine: Any) -> None:
    """A tool that waits is cancelled with the task that runs the rollout."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(text: str) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return text

    running = asyncio.ensure_future(
        chat(tools={"add": lambda a, b: a + b, "wait": wait}).arun_episode(engine, task("t"))
    )
    await asyncio.wait_for(begun.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.wait_for(ended.wait(), 60)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            TEMPLATE.replace("{{ m.content }}", "{{ loop.length }}{{ m.content }}"),
            "what came before an answer",
        ),
        (
            TEMPLATE.replace("{{ m.content }}", "{{ m.content.replace('ab', '') }}"),
            "leaves out parts of an earlier answer",
        ),
        (
            TEMPLATE.replace("<|end|>", "{% if 'ab' in messages[1:]|string %}!{% endif %}<|end|>", 1),
            "what came before an answer|depends on the answer",
        ),
    ],
)
async def test_a_template_that_is_not_append_only_is_refused(engine: Any, template: str, said: str) -> None:
    """A template that changes earlier turns is an error that says how, not a trajectory of wrong tokens."""
    with pytest.raises(ChatTemplateError, match=said):
        await chat(template).arun_episode(engine, task("m"))


async def test_a_template_that_fails_says_so(engine: Any) -> None:
    """The template's own error is told with the roles, and without what was said."""
    template = "{{ raise_exception('no such roles') }}"
    with pytest.raises(ChatTemplateError, match=r"roles \['user'\].*no such roles"):
        await chat(template).arun_episode(engine, task("m"))


def test_a_tool_that_is_no_function_is_refused() -> None:
    """Tools are functions by name."""
    with pytest.raises(ValueError, match="the tool 'add' is a int"):
        chat(tools={"add": 3})
    with pytest.raises(ValueError, match="the tool 'add' takes 'a' by position alone"):
        chat(tools={"add": operator.add})


def test_schemas_reach_the_template() -> None:
    """The template is given the tools' schemas, in every turn."""
    workflow = chat("{{ tools | tojson }}" + TEMPLATE, tool_schemas=[{"name": "add"}])
    assert json.loads(workflow._template.text([{"role": "user", "content": "x"}]).split("<|")[0]) == [
        {"name": "add"}
    ]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("no call", "no call", []),
        ('a <tool_call>\n{"name": "f"}\n</tool_call> b', "a  b", [("f", {}, False)]),
        ('<tool_call>{"name": "f", "arguments": {"x": 1}}', "", [("f", {"x": 1}, False)]),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "", [("f", {}, True)]),
        ("<tool_call>[1]</tool_call>", "", [("unreadable", {}, True)]),
        ('<tool_call>{"name": "f"', "", [("unreadable", {}, True)]),
    ],
)
def test_calls_are_read_as_hermes_and_qwen_write_them(text: str, content: str, calls: list[Any]) -> None:
    """One call or several, the last one unclosed too; what cannot be read has an error."""
    parsed = parse_hermes_tool_calls(text)
    assert parsed.content == content
    assert [(call.name, call.arguments, bool(call.error)) for call in parsed.tool_calls] == calls


TEXTS = st.text(CHARACTERS, min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([VOCABULARY.index(letter) for letter in "abok n<t"]), max_size=8),
        min_size=1,
        max_size=4,
    ),
    TEXTS,
)
def test_the_text_of_the_tokens_is_the_templates_and_sampled_tokens_stay(
    answers: list[list[int]], feedback: str
) -> None:
    """Whatever was sampled, the tokens grow only at their end, and their text is what the template makes of it all."""
    tok = tokenizer()
    template = ChatTemplate(tok)
    messages = [{"role": "user", "content": "?"}]
    text = template.text(messages)
    tokens = template.tokens(text)
    for number, answer in enumerate(answers):
        sampled = [*answer, END] if number % 2 else answer  # every other one is cut before its end
        new = [{"role": "user", "content": feedback}]
        message = {"role": "assistant", "content": tok.decode(answer)}
        behind = template.behind_answer(messages, new)
        messages = [*messages, message, *new]
        after = template.text(messages)
        template.check_append_only(text, message, behind, after)
        before, text = tokens, after
        tokens = [*tokens, *sampled, *joined(sampled, [END], template.tokens(behind))]
        assert tokens[: len(before) + len(sampled)] == before + sampled
        assert tok.decode(tokens) == text
