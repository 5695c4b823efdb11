"""A server of the scripted policy, for all tests of workflows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.needs import need

SCRIPTS = {
    "x": ["abba"],
    "m": ["ab no", "ok no", "ab ok"],
    "l": ["l" * 500],
    "t": [
        'ab <tool_call>{"name":  "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
        '<tool_call>{"name": "wait", "arguments": {"text": "ok"}}</tool_call>',
        "ab ok",
    ],
    "b": [
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
        '<tool_call>{"name": "none", "arguments": {}}</tool_call>'
        '<tool_call>{"name": "fail", "arguments": {}}</tool_call>',
        "<tool_call>no json</tool_call>",
        "ab ok",
    ],
    "w": ["bright"],
    "k": ["dark"],
}


@pytest.fixture(scope="session")
def scripted_url() -> Iterator[str]:
    """The URL of a server that says `SCRIPTS`, in a process of its own."""
    need_all = []
    for module in ("torch", "httpx"):
        try:
            __import__(module)
        except ModuleNotFoundError:
            need_all.append(module)
    need(not need_all, f"{', '.join(need_all)} not installed")
    from rollspan.demo.serving import serving

    with serving(policy="tests.rollout.chats:Scripted", config={"scripts": SCRIPTS}) as url:
        yield url


@pytest.fixture
async def engine(scripted_url: str) -> AsyncIterator[object]:
    """An engine of that server."""
    from rollspan.rollout.engines import SGLangEngine

    made = SGLangEngine(scripted_url)
    try:
        yield made
    finally:
        await made.aclose()
