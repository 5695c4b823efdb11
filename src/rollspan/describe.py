"""From the words a user knows (model, tokens, score) to the attributes of the specification."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from . import health, semconv
from .attributes import INT64, NOT_FINITE, clean, clean_into, error_type, fit_name

_T = TypeVar("_T")

_GENERATE_NAMES = {
    "model": semconv.REQUEST_MODEL,
    "provider": semconv.PROVIDER_NAME,
    "operation": semconv.OPERATION_NAME,
    "input_tokens": semconv.INPUT_TOKENS,
    "output_tokens": semconv.OUTPUT_TOKENS,
    "cached_tokens": semconv.CACHE_READ_TOKENS,
    "conversation_id": semconv.CONVERSATION_ID,
}
_TOOLCALL_NAMES = {"tool": semconv.TOOL_NAME, "call_id": semconv.TOOL_CALL_ID}
_REWARD_NAMES = {"score": semconv.REWARD_SCORE, "reward_name": semconv.REWARD_NAME}
_SESSION_NAMES = {"task_id": semconv.TASK_ID, "group_id": semconv.GROUP_ID, "workflow": semconv.WORKFLOW}

SUBMISSION: Final = None
"""Instead of a phase's name: what a session is started with."""

_SHORT_NAMES: dict[str | None, dict[str, str]] = {
    SUBMISSION: _SESSION_NAMES,
    semconv.GENERATE: _GENERATE_NAMES,
    semconv.TOOLCALL: _TOOLCALL_NAMES,
    semconv.REWARD: _REWARD_NAMES,
}
_CONTENT = {
    semconv.GENERATE: {
        "prompt": semconv.INPUT_MESSAGES,
        "messages": semconv.INPUT_MESSAGES,
        "completion": semconv.OUTPUT_MESSAGES,
    },
    semconv.TOOLCALL: {"arguments": semconv.TOOL_ARGUMENTS, "result": semconv.TOOL_RESULT},
}
OPERATIONS: Final = {
    semconv.GENERATE: semconv.OPERATION_TEXT_COMPLETION,
    semconv.TOOLCALL: semconv.OPERATION_EXECUTE_TOOL,
}
"""What the name of a phase alone says."""
_ANY_LENGTH: Final = 1 << 62
_COUNTS = frozenset({"input_tokens", "output_tokens", "cached_tokens"})
_SPECIAL = frozenset(
    {
        "weight_version",
        "finish_reasons",
        "continuation",
        "segments",
        *(word for words in _CONTENT.values() for word in words),
    }
)
# What a model or a tool reads or writes may not slip in by a plain attribute, on whatever span. Others' names too.
_CONTENT_NAMES = frozenset(
    {
        *("prompt", "prompts", "completion", "completions", "messages", "arguments"),
        *(semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES, semconv.TOOL_ARGUMENTS, semconv.TOOL_RESULT),
        *("gen_ai.system_instructions", "gen_ai.tool.definitions", "gen_ai.prompt", "gen_ai.completion"),
        *("gen_ai.retrieval.documents", "gen_ai.retrieval.query.text", "gen_ai.evaluation.explanation"),
        *("input.value", "output.value", "exception.message", "exception.stacktrace"),
    }
)
_CONTENT_PREFIXES = (
    *(semconv.INPUT_MESSAGES + ".", semconv.OUTPUT_MESSAGES + ".", "gen_ai.prompt.", "gen_ai.completion."),
    *("llm.prompts", "llm.completions", "llm.input_messages", "llm.output_messages"),
)


@functools.lru_cache(maxsize=4096)
def is_content(phase: str | None, name: Any) -> bool:
    """Whether an attribute given under this name holds what may only be recorded where that was asked for."""
    word = fit_name(name).lower()
    if word in _CONTENT_NAMES or word.startswith(_CONTENT_PREFIXES):
        return True
    return phase in _CONTENT and word == "result"  # which elsewhere is anything


# Those words of a phase that stand for others, and what they stand for: the two never mix in one phase.
_SHORT: dict[str | None, frozenset[str]] = {phase: frozenset(words) for phase, words in _SHORT_NAMES.items()}
_SHORT[semconv.GENERATE] |= {"weight_version", "finish_reasons", "continuation", "segments"}
_LONG: dict[str | None, frozenset[str]] = {
    phase: frozenset(words.values()) for phase, words in _SHORT_NAMES.items()
}
_SEGMENT_NAMES = {
    "weight_version": semconv.SEGMENT_WEIGHT_VERSION,
    "output_tokens": semconv.SEGMENT_OUTPUT_TOKENS,
    "duration_s": semconv.SEGMENT_DURATION,
    "paused_s": semconv.SEGMENT_PAUSED,
}
_LONG[semconv.GENERATE] |= {
    semconv.WEIGHT_VERSION_MIN,
    semconv.WEIGHT_VERSION_MAX,
    semconv.FINISH_REASONS,
    semconv.CONTINUATION,
    semconv.PAUSED,
    *_SEGMENT_NAMES.values(),
}
_SCALARS: Final = frozenset({str, bool, int, float})
_WHOLE: Final = frozenset({bool, int})
# A text where a number belongs is there by mistake, and may be a prompt.
_KINDS: dict[str | None, dict[str, frozenset[type]]] = {
    semconv.GENERATE: {
        **dict.fromkeys((*_COUNTS, "weight_version", "continuation"), _WHOLE),
        "finish_reasons": frozenset({str}),
        "segments": frozenset(),
    },
    semconv.REWARD: {"score": _WHOLE | {float}},
}


def kinds(phase: str | None, name: Any) -> frozenset[type]:
    """The types in which an attribute of this name may stand in the journal as it was given; none for content."""
    if type(name) is not str or fit_name(name) is not name:
        return frozenset()
    if name in _LONG.get(phase, ()) or is_content(phase, name):
        return frozenset()
    return _KINDS.get(phase, {}).get(name, _SCALARS)


_MOST_REMEMBERED: Final = 4096


def _remember(known: dict[tuple[Any, ...], _T], shape: tuple[Any, ...], what: _T) -> _T:
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    known[shape] = what
    return what


class Limits(Protocol):
    """What of the settings counts here."""

    @property
    def attribute_max_bytes(self) -> int:
        """How long a value may be."""

    @property
    def capture_content(self) -> bool:
        """Whether prompts, completions, tool arguments and results are kept."""


def put_described(
    target: dict[str, Any], phase: str | None, given: Mapping[Any, Any], limits: Limits
) -> None:
    """Put what was given to a phase into its attributes `target`, under the specification's names and in its form.

    Prompts, completions, tool arguments and results are left out unless content is to be captured; then they are given
    as JSON text.
    """
    known = described(phase, target)
    if known is not target:
        target.clear()
        target.update(known)
    for name, value in given.items():
        if value is not None:
            attributes = given_attributes(phase, {name: value}, content=limits.capture_content)
            clean_into(target, attributes, limits.attribute_max_bytes)


def described(phase: str | None, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """A phase's attributes as the journal has them, under the specification's names."""
    if phase not in _SHORT or _SHORT[phase].isdisjoint(attributes):
        return attributes
    shape = (phase, *attributes, *map(type, attributes.values()))
    names = _renamed.get(shape)
    if names is None:
        names = _remember(_renamed, shape, _rename(phase, attributes))
    result: dict[str, Any] = dict(zip(names, attributes.values(), strict=False))
    if not result:
        clean_into(result, given_attributes(phase, attributes, content=True), _ANY_LENGTH)
    elif phase == semconv.GENERATE:
        if semconv.FINISH_REASONS in result:
            result[semconv.FINISH_REASONS] = [result[semconv.FINISH_REASONS]]
        if semconv.WEIGHT_VERSION_MIN in result:
            result[semconv.WEIGHT_VERSION_MAX] = result[semconv.WEIGHT_VERSION_MIN]
    return result


# By phase, names and types of attributes: their names in the specification. Empty where more has to be done.
_renamed: dict[tuple[Any, ...], tuple[str, ...]] = {}
_RENAMED_IF: Final[dict[str, frozenset[type]]] = {
    **dict.fromkeys((*_COUNTS, "weight_version"), frozenset({int})),
    "score": frozenset({int, float}),
    "finish_reasons": frozenset({str}),
    "continuation": frozenset(),
    "segments": frozenset(),
}
_NAMES: dict[str | None, dict[str, str]] = {
    **_SHORT_NAMES,
    semconv.GENERATE: {
        **_GENERATE_NAMES,
        "weight_version": semconv.WEIGHT_VERSION_MIN,
        "finish_reasons": semconv.FINISH_REASONS,
    },
}


def _rename(phase: str | None, attributes: Mapping[str, Any]) -> tuple[str, ...]:
    short = _SHORT[phase]
    for name, value in attributes.items():
        if name in short and type(value) not in _RENAMED_IF.get(name, _SCALARS):
            return ()
    known = _NAMES[phase]
    names = tuple(known.get(name, name) for name in attributes)
    return names if len(set(names)) == len(names) else ()


def given_attributes(phase: str | None, given: Mapping[str, Any], *, content: bool) -> Mapping[str, Any]:
    """`given` under the specification's names, its values not yet cleaned."""
    known = _SHORT_NAMES.get(phase)
    if known is None:
        return given if content else without_content(phase, given)
    result: dict[str, Any] = {}
    for name, value in given.items():
        key = known.get(name)
        if key is not None:
            if type(value) is not int and (name in _COUNTS or name == "score"):
                value = number(name, value)  # noqa: PLW2901
            result[key] = value
        elif name in _SPECIAL:
            _special(result, phase, name, value, content=content)
        elif content or not is_content(phase, name):
            result[name] = value
    return result


def _special(result: dict[str, Any], phase: str | None, name: str, value: Any, *, content: bool) -> None:
    """Words whose value has to be looked at; in another phase than their own they are plain attributes."""
    text = _CONTENT.get(phase or "", {}).get(name)
    if text is not None:
        if content and value is not None:
            result[text] = value if isinstance(value, str) else _json(value)
    elif phase != semconv.GENERATE:
        if content or not is_content(phase, name):
            result[name] = value
    elif name == "weight_version":
        result.update(_weight_versions(value))
    elif name == "finish_reasons":
        result[semconv.FINISH_REASONS] = [value] if isinstance(value, str) else value
    elif name == "segments":
        result.update(_segments(value))
    elif name == "continuation":
        if value:
            result[semconv.CONTINUATION] = True
    elif content or not is_content(phase, name):
        result[name] = value


def number(name: str, value: Any) -> int | float | str | None:
    """What a count of tokens or a score can be made of; None, with a word, for anything else.

    A tensor is not read: it may lie on a device that is busy.
    """
    if value is None or (type(value) is str and _is_number(value)):
        return value
    if not isinstance(value, str | bytes) and not type(value).__module__.startswith("torch"):
        with contextlib.suppress(Exception):  # a user's own type may raise anything
            return int(value) if name in _COUNTS else float(value)
    _left_out(name, value, "a whole number" if name in _COUNTS else "a number (of a tensor: its .item())")
    return None


def _is_number(text: str) -> bool:
    """Whether it is one that only a text can say: not finite, or beyond 64 bits."""
    return text in NOT_FINITE or (len(text) > len(str(INT64)) - 1 and text.lstrip("-").isdigit())


def _left_out(name: str, value: Any, expected: str) -> None:
    what = error_type(type(value))  # what it says may be content
    health.warn_once(f"api.{name}", "rollspan: %s of type %s was left out: expected %s", name, what, expected)


def without_content(phase: str | None, given: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """What of `given` may be recorded in any case."""
    return {name: value for name, value in given.items() if not is_content(phase, name)}


def _json(value: Any) -> str:
    cleaned = clean({"": value}, limit=1 << 30)
    return cleaned[4:-1] if isinstance(cleaned, str) else str(cleaned)


def _weight_versions(value: Any) -> dict[str, Any]:
    """Extremes of one version or of a version per token."""
    if value is None:
        return {}
    if type(value) is int:
        return {semconv.WEIGHT_VERSION_MIN: value, semconv.WEIGHT_VERSION_MAX: value}
    try:
        versions = (
            [int(v) for v in value]
            if isinstance(value, Sequence) and not isinstance(value, str)
            else [int(value)]
        )
    except Exception:  # noqa: BLE001 - a user's own type may raise anything
        _left_out("weight_version", value, "an int or a sequence of ints")
        return {}
    if not versions:
        return {}
    return {semconv.WEIGHT_VERSION_MIN: min(versions), semconv.WEIGHT_VERSION_MAX: max(versions)}


def _segments(value: Any) -> dict[str, Any]:
    """The parts of a generation, as lists with an entry for each, and how long it was paused in all."""
    try:
        parts = [part if isinstance(part, Mapping) else vars(part) for part in value or ()]
        lists: dict[str, Any] = {
            key: [(float if name.endswith("_s") else int)(part.get(name, 0)) for part in parts]
            for name, key in _SEGMENT_NAMES.items()
        }
    except Exception:  # noqa: BLE001 - a user's own type may raise anything
        _left_out("segments", value, f"a sequence of mappings with {', '.join(_SEGMENT_NAMES)}")
        return {}
    return {**lists, semconv.PAUSED: sum(lists[semconv.SEGMENT_PAUSED])} if parts else {}
