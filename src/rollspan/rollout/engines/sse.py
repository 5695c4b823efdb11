"""Server-sent events, as far as inference servers use them: `data:` lines that hold JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import orjson

DONE: Final = "[DONE]"


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON object of each event up to `[DONE]`, or the stream's end where a server sends none.

    Raises ValueError for an event that holds no JSON object, and httpx's errors.
    """
    data: list[str] = []
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:  # an empty line ends an event
            text, data = "\n".join(data), []
            if text == DONE:
                return
            event = orjson.loads(text)
            if not isinstance(event, dict):
                raise ValueError(f"an event is {text[:200]!r}; expected a JSON object")
            yield event


def json_object(content: bytes) -> dict[str, Any]:
    """The JSON object of an answer that is not streamed. Raises ValueError where it is none."""
    answer = orjson.loads(content)
    if not isinstance(answer, dict):
        raise ValueError(f"an answer is {content[:200]!r}; expected a JSON object")
    return answer
