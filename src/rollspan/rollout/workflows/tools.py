"""Tools: how a model's text calls them, and how they are run, each in a phase `toolcall`."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import rollspan

Tools: TypeAlias = Mapping[str, Callable[..., Any]]
"""Plain and async functions by name. They take their arguments by name."""

_HERMES: Final = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for; with an `error` where it could not be read."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    """What is wrong with it, said to the model."""
    call_id: str = field(default_factory=_new_id)


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer's text without its calls, and these."""

    content: str
    tool_calls: list[ToolCall] = field(default_factory=list)

    def message(self, text: str) -> dict[str, Any]:
        """As a message; `text` is the whole answer, which is the content where a call could not be read."""
        if not self.tool_calls or any(call.error for call in self.tool_calls):
            return {"role": "assistant", "content": text}
        calls = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in self.tool_calls
        ]
        return {"role": "assistant", "content": self.content, "tool_calls": calls}


ToolCallParser: TypeAlias = Callable[[str], ParsedAnswer]
"""Finds the calls in an answer's text."""


def parse_hermes_tool_calls(text: str) -> ParsedAnswer:
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, once or several times, as Hermes and Qwen write."""
    calls = [_hermes_call(match.group(1)) for match in _HERMES.finditer(text)]
    return ParsedAnswer(_HERMES.sub("", text).strip() if calls else text, calls)


def _hermes_call(text: str) -> ToolCall:
    try:
        found = json.loads(text)
    except ValueError as error:
        return ToolCall("unreadable", error=f"the call is no JSON: {error}")
    if not isinstance(found, dict) or not isinstance(found.get("name"), str) or not found["name"]:
        return ToolCall("unreadable", error="the call is no JSON object with a name and arguments")
    arguments = found.get("arguments", {})
    if not isinstance(arguments, dict):
        return ToolCall(found["name"], error="the arguments are no JSON object")
    return ToolCall(found["name"], arguments)


def check_tool(name: str, tool: Any) -> None:
    """Raise ValueError unless it is a function that can be called by the names of its arguments."""
    if not callable(tool):
        raise ValueError(f"the tool {name!r} is a {type(tool).__name__}; expected a function")
    try:
        parameters = inspect.signature(tool).parameters.values()
    except (TypeError, ValueError):  # of some functions in C
        return
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise ValueError(
                f"the tool {name!r} takes {parameter.name!r} by position alone; expected a function that takes its "
                "arguments by name, as models give them"
            )


class ToolCallError(Exception):
    """The model called a tool in a way that makes no sense; the message is for the model."""


async def run_tool_calls(tools: Tools, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """The tools' answers as messages, in the order of the calls, which run at the same time.

    A plain function runs in a thread. What cannot be called, or raises, answers with an error message, and its phase
    shows the error's class.
    """
    tasks = [asyncio.ensure_future(_run(tools, call)) for call in calls]
    try:
        contents = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    return [
        {"role": "tool", "name": call.name, "tool_call_id": call.call_id, "content": content}
        for call, content in zip(calls, contents, strict=True)
    ]


async def _run(tools: Tools, call: ToolCall) -> str:
    try:
        with rollspan.phase("toolcall", tool=call.name, call_id=call.call_id):
            tool = _checked(tools, call)
            if inspect.iscoroutinefunction(tool):
                result = await tool(**call.arguments)
            else:
                result = await asyncio.to_thread(tool, **call.arguments)
                if inspect.isawaitable(result):
                    result = await result
            content = result if isinstance(result, str) else json.dumps(result, default=str)
            rollspan.record_tool_call(call.name, call.call_id, arguments=call.arguments, result=content)
            return content
    except ToolCallError as error:
        return f"Error: {error}"
    except Exception as error:  # noqa: BLE001 - the model is told, and may do better
        return f"Error: {type(error).__name__}: {error}"


def _checked(tools: Tools, call: ToolCall) -> Callable[..., Any]:
    """The tool that is called. Raises ToolCallError where it cannot be called like that."""
    if call.error:
        raise ToolCallError(call.error)
    tool = tools.get(call.name)
    if tool is None:
        raise ToolCallError(f"there is no tool {call.name!r}; there are {', '.join(sorted(tools)) or 'none'}")
    try:
        signature = inspect.signature(tool)
    except (TypeError, ValueError):  # of some functions in C; they check their arguments themselves
        return tool
    try:
        signature.bind(**call.arguments)
    except TypeError as error:
        raise ToolCallError(f"{call.name} takes {signature}: {error}") from None
    return tool
