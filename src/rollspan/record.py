"""The flat record of a session and its forms: a line of the file, root attributes, a log event.

A record is a plain dict. A field without a value is absent, never null. Times are float seconds
since the epoch (`*_ts`), durations float seconds (`*_s`). docs/specification.md says what each means:

- `request_id`, `rank`: int; `status`: str; `submit_ts`, `enqueue_ts`, `wait_return_ts`
- `rollout_stats`: {accepted, enqueued, rejected, running: int}
- `queue_wait_s`, `runner_wait_s`, `execution_s`, `post_wait_s`, `total_s`, `unattributed_s`
- `generate_s`, `reward_calc_s`, `toolcall_s`, `<phase>_s`; `<phase>_wall_s` where it differs from the sum
- `phases`: {name: [{start_ts, end_ts}]}, always there
- `session_id`, `trace_id` (32 hex digits), `run_id`, `task_id`, `group_id`, `role`, `workflow`,
  `rejection_reason`, `error_type`
- `input_tokens`, `output_tokens`, `turns`, `weight_version_min`, `weight_version_max`: int; `generate_paused_s`
- `reward`: float, or one of "NaN", "Infinity", "-Infinity"
- `late_spans`: int, always there; `counters`: {name: int}; `links`: {dispatch_step, consume_step: int}
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from . import semconv
from .spandata import AttributeValue

Record = dict[str, Any]

STATS_FIELDS: Final = ("accepted", "enqueued", "rejected", "running")
LINK_FIELDS: Final = ("dispatch_step", "consume_step")
MAX_DURATION_PHASES: Final = 40
"""So many different phases have duration fields of their own; the others stand in `phases` alone."""

# One less than the SDK's limit for a log record, which throws away the oldest beyond it.
MAX_EVENT_ATTRIBUTES: Final = 127

_STATS, _COUNTERS, _LINKS = "rollout_stats", "counters", "links"
_NESTED = frozenset({_STATS, _COUNTERS, _LINKS})
_DOTTED = {
    f"{field}.{name}": (field, name)
    for field, names in ((_STATS, STATS_FIELDS), (_LINKS, LINK_FIELDS))
    for name in names
}
_COUNTER_PREFIX = f"{_COUNTERS}."

_ROOT_NAMES: Final = {
    "turns": semconv.TURNS,
    "late_spans": semconv.LATE_SPANS,
    "input_tokens": semconv.ROOT_INPUT_TOKENS,
    "output_tokens": semconv.ROOT_OUTPUT_TOKENS,
    "weight_version_min": semconv.WEIGHT_VERSION_MIN,
    "weight_version_max": semconv.WEIGHT_VERSION_MAX,
    "reward": semconv.REWARD_SCORE,
}

EventValue = AttributeValue | Mapping[str, Any]


def to_line(record: Record) -> bytes:
    """The record as one line of JSON, newline included; a lone surrogate in it becomes `?`."""
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        return orjson.dumps(_mended(record), option=orjson.OPT_APPEND_NEWLINE)


def from_line(line: str | bytes) -> Record:
    """The record that `to_line` wrote. Raises ValueError where the line is not a JSON object."""
    record = orjson.loads(line)
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object on the line, got {type(record).__name__}")
    return record


def root_attributes(record: Record) -> dict[str, AttributeValue]:
    """What the root span repeats of its record, for backends that show spans alone.

    `fold` reads none of it back, so a trace folds to the same record with and without. Token sums
    are not under `gen_ai.*`, which would make every session look like a call of a model.
    """
    return {name: value for field, value in record.items() if (name := root_name(field)) is not None}


@lru_cache(maxsize=4096)
def root_name(field: str) -> str | None:
    """Under which name the root repeats a field; None for one that it does not."""
    return semconv.DURATION_PREFIX + field if field.endswith("_s") else _ROOT_NAMES.get(field)


def event_attributes(record: Record) -> dict[str, EventValue]:
    """The attributes of the record's log event, fewer than 128 of them.

    At most 34 fixed fields and two durations for each of 40 phases leave room for 13 counters. Where
    those of a session do not fit, or one's dotted name is taken, `counters` is one structured value.
    """
    attributes: dict[str, EventValue] = {}
    for field, value in record.items():
        if field not in _NESTED:
            attributes[field] = value
        elif field != _COUNTERS:
            for name, number in value.items():
                attributes[f"{field}.{name}"] = number
    counters = record.get(_COUNTERS)
    if counters:
        dotted = {_COUNTER_PREFIX + name: number for name, number in counters.items()}
        if len(attributes) + len(dotted) > MAX_EVENT_ATTRIBUTES or not dotted.keys().isdisjoint(attributes):
            attributes[_COUNTERS] = counters
        else:
            attributes.update(dotted)
    return attributes


def from_event_attributes(attributes: Mapping[str, Any]) -> Record:
    """The record whose `event_attributes` these are."""
    record: Record = {}
    for name, value in attributes.items():
        if name in _DOTTED:
            field, key = _DOTTED[name]
            record.setdefault(field, {})[key] = value
        # A phase may be called "counters.x": its duration is a float, a counter never is.
        elif name.startswith(_COUNTER_PREFIX) and type(value) is int:
            record.setdefault(_COUNTERS, {})[name[len(_COUNTER_PREFIX) :]] = value
        else:
            record[name] = value
    return record


def _mended(value: Any) -> Any:
    """The same value without lone surrogates, which UTF-8 cannot carry."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mended(item) for item in value]
    return value
