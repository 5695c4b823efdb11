"""`rollspan.record_...`: describing the generation, the reward or the tool call that is current."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from . import health, native, plain, semconv, switch
from .lines import ATTRIBUTES, END, NAME
from .null import NULL

if TYPE_CHECKING:
    from collections.abc import Sequence

_GENERATE, _REWARD, _TOOLCALL = semconv.GENERATE, semconv.REWARD, semconv.TOOLCALL
_OF_GENERATE, _OF_REWARD, _OF_TOOLCALL = map(plain.kinds_of, (_GENERATE, _REWARD, _TOOLCALL))
_are_plain, _MOST = plain.are_plain, plain.MOST
_WORDS: Final = frozenset(
    {
        *(
            "model",
            "provider",
            "operation",
            "input_tokens",
            "output_tokens",
            "cached_tokens",
            "weight_version",
        ),
        *("finish_reasons", "conversation_id", "continuation", "segments"),
        *("prompt", "completion"),
    }
)


if TYPE_CHECKING:

    def record_generation(
        *,
        model: str | None = None,
        provider: str | None = None,
        operation: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int | None = None,
        weight_version: int | Sequence[int] | None = None,
        finish_reasons: str | Sequence[str] | None = None,
        conversation_id: str | None = None,
        continuation: bool | None = None,
        segments: Sequence[Any] | None = None,
        prompt: Any = None,
        completion: Any = None,
    ) -> None: ...

else:  # to name a dozen arguments costs more than all that is done with them

    def record_generation(**given: Any) -> None:
        """Describe the generation that is current here, by OpenTelemetry's GenAI conventions.

        Takes `model`, `provider`, `operation`, `input_tokens`, `output_tokens`, `cached_tokens`, `weight_version`,
        `finish_reasons`, `conversation_id`, `continuation`, `segments`, `prompt` and `completion`. `operation` is
        `text_completion` (the default: tokens in, tokens out) or `chat`; `weight_version` may be one per token;
        `continuation` says that it goes on from an aborted generation and is no new turn. `segments` are the parts of
        one that was cut off by updates of the weights and went on in the same phase: mappings, or objects, with
        `weight_version`, `output_tokens`, `duration_s` and `paused_s` (seconds that the engine was paused before the
        part). `prompt` and `completion` are recorded only where `ROLLSPAN_CAPTURE_CONTENT` asks for it. Raises
        TypeError for another name, as any function does.
        """
        if not _WORDS.issuperset(given):
            unknown = next(name for name in given if name not in _WORDS)
            raise TypeError(f"record_generation() got an unexpected keyword argument {unknown!r}")
        _describe(_GENERATE, _OF_GENERATE, given)


def record_reward(score: float, name: str | None = None) -> None:
    """Give the current reward phase its score, and the name of what was scored."""
    given = {"score": score} if name is None else {"score": score, "reward_name": name}
    _describe(_REWARD, _OF_REWARD, given)


def record_tool_call(
    tool: str, call_id: str | None = None, *, arguments: Any = None, result: Any = None
) -> None:
    """Describe the tool call that is current here; `arguments` and `result` only where content is captured."""
    given = {"tool": tool, "call_id": call_id, "arguments": arguments, "result": result}
    _describe(_TOOLCALL, _OF_TOOLCALL, {key: value for key, value in given.items() if value is not None})


def _describe(name: str, kinds: plain.Kinds, given: Mapping[str, Any]) -> None:
    """Give the innermost open phase of this name attributes."""
    if switch._runtime is None and (switch._decided or switch.runtime() is None):  # noqa: SLF001 - off costs this
        return
    try:
        context = switch.context
        span = context.get_current().get(context.PHASE_KEY)
        # What `set_attributes` does, without its cases.
        if span is not None and span.owner.bare:
            row = span.row
            attributes = row[ATTRIBUTES]
            if (
                row[NAME] == name
                and row[END] is None
                and len(attributes) < _MOST
                and _are_plain(kinds, given)
            ):
                attributes.update(given)
                return
        _on(name).set_attributes(given)
    except Exception:  # noqa: BLE001
        health.internal_error("recorders")


_RECORDERS: Final = {
    _GENERATE: "record_generation()",
    _REWARD: "record_reward()",
    _TOOLCALL: "record_tool_call()",
}


def _on(name: str) -> Any:
    """The innermost open phase of this name, or the null object."""
    span = found = switch.context.current()
    while span is not None and span.row[NAME] != name:
        span = span.parent
    if span is not None:
        return span
    if found is not None:
        health.warn_once(
            f"api.no_{name}",
            "rollspan: %s is ignored outside of a phase of that kind: put it inside `with rollspan.phase(%r)`%s",
            _RECORDERS[name],
            name,
            ", or give mark_accepted(reward=...)" if name == _REWARD else "",
        )
    return NULL


native.stands_for("describe", sys.modules[__name__], "_describe")
