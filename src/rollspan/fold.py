"""Spans in, flat record out: a pure function, the same from any order and repetition of the spans.

Everything is added up in integer nanoseconds and becomes seconds at the end. Nothing that the root
repeats of its record (see `record.root_attributes`) is read here, except the reward.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from . import semconv
from .durations import (
    GENERATE_PAUSED,
    KNOWN_PHASES,
    SECOND,
    Interval,
    Wait,
    Work,
    add_leaves,
    covered,
    measure_phases,
    measure_waits,
)
from .record import STATS_FIELDS, Record
from .spandata import STATUS_ERROR, Link, SpanData

_INT64: Final = 1 << 63
_LARGEST: Final = sys.float_info.max

_PHASE, _FOREIGN, _LATE = semconv.PHASE, semconv.FOREIGN, semconv.LATE
_SESSION, _GENERATE, _REWARD, _WAITS = semconv.SESSION, semconv.GENERATE, semconv.REWARD, semconv.WAITS
_KNOWN_NAMES: Final = _WAITS.union(KNOWN_PHASES)

_NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_ROOT_INTS: Final = ((semconv.REQUEST_ID, "request_id"), (semconv.RANK, "rank"))
_STATS: Final = tuple((semconv.STATS_PREFIX + name, name) for name in STATS_FIELDS)
_ROOT_SCALARS: Final = (
    (semconv.TASK_ID, "task_id"),
    (semconv.GROUP_ID, "group_id"),
    (semconv.ROLE, "role"),
    (semconv.WORKFLOW, "workflow"),
    (semconv.REASON, "rejection_reason"),
    (semconv.ERROR_TYPE, "error_type"),
)
_LINKS: Final = (
    (semconv.STEP_DISPATCH, semconv.LINK_DISPATCH, "dispatch_step"),
    (semconv.STEP_CONSUME, semconv.LINK_CONSUME, "consume_step"),
)


class _Sorted(NamedTuple):
    """A session's spans by what they are, clipped to it and in start order."""

    waits: list[Wait]
    work: list[Work]
    late: int


def fold(spans: Iterable[SpanData]) -> list[Record]:
    """The records of all sessions among `spans`, by `submit_ts`, then `trace_id`."""
    traces: dict[int, list[SpanData]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    records = [record for trace in traces.values() if (record := fold_trace(trace)) is not None]
    records.sort(key=lambda record: (record["submit_ts"], record["trace_id"]))
    return records


def fold_trace(spans: Iterable[SpanData]) -> Record | None:
    """The record of the session that `spans`, all of one trace, tell of; None where they have no root.

    Any order will do, and any repetition. Values of a type that a field does not have are left out.
    """
    unique: dict[int, SpanData] = {}
    for span in spans:
        other = unique.setdefault(span[1], span)
        if other is not span and other != span:  # two versions of one span: the longer-lived says more
            unique[span.span_id] = max(other, span, key=_version)
    root = _root(unique.values())
    if root is None:
        return None
    start = root.start_ns
    end = max(root.end_ns, start)
    waits, work, late = _sort_out(unique, root, start, end)
    leaves: list[Interval] = []
    if work:
        add_leaves(unique, work, root.span_id, leaves)
    trace_id = f"{root.trace_id:032x}"
    status = semconv.FAILED if root.status == STATUS_ERROR else None
    return describe_session(
        trace_id, root.attributes, root.links, status, start, end, waits, work, leaves, late
    )


def describe_session(
    trace_id: str,
    attributes: Mapping[str, Any],
    links: Sequence[Link],
    status: str | None,
    start: int,
    end: int,
    waits: Sequence[Wait],
    work: Sequence[Work],
    leaves: list[Interval],
    late: int,
) -> Record:
    """The record of a session whose spans were sorted out: waits and work in start order, clipped to it.

    `attributes` and `links` are the root's; `status` is for a root that says none; `leaves` are the intervals
    of the phases with none below them.
    """
    record: Record = {}
    known = _known_among(tuple(attributes))
    for name, field in known.ints:
        value = attributes[name]
        if _is_int64(value):
            record[field] = value
    said = attributes.get(semconv.STATUS)
    record["status"] = said if type(said) is str else status or semconv.ACCEPTED
    record["submit_ts"] = start / SECOND
    wait_sums, busy, enqueued = measure_waits(waits, work, start)
    if enqueued is not None:
        record["enqueue_ts"] = enqueued / SECOND
    if attributes.get(semconv.CONSUMED) is True:
        record["wait_return_ts"] = end / SECOND
    if known.stats and (stats := _ints(attributes, known.stats)):
        record["rollout_stats"] = stats
    for field, length in wait_sums.items():
        record[field] = length / SECOND
    record["total_s"] = (end - start) / SECOND
    phases = measure_phases(work, record)
    record["unattributed_s"] = (end - start - covered(busy + leaves)) / SECOND
    record["phases"] = phases

    session_id = attributes.get(semconv.SESSION_ID)
    record["session_id"] = session_id if type(session_id) is str and session_id else trace_id
    record["trace_id"] = trace_id
    run_id = attributes.get(semconv.RUN_ID)
    if type(run_id) is str and run_id:
        record["run_id"] = run_id
    for name, field in known.scalars:
        value = attributes[name]
        if type(value) is str or _is_scalar(value):
            record[field] = value
    if _GENERATE in phases:
        _generations(work, record)
    reward = _score(attributes[semconv.REWARD_SCORE]) if semconv.REWARD_SCORE in attributes else None
    if reward is None and _REWARD in phases:
        reward = _sum_of_scores(work)
    if reward is not None:
        record["reward"] = reward
    record["late_spans"] = late
    if known.counters and (counters := _ints(attributes, known.counters)):
        record["counters"] = counters
    if links or known.steps:
        _links(attributes, links, record)
    return record


class _Known(NamedTuple):
    """Those of a root's attributes that a record has fields for, each with its field."""

    ints: Sequence[tuple[str, str]]
    stats: Sequence[tuple[str, str]]
    scalars: Sequence[tuple[str, str]]
    counters: Sequence[tuple[str, str]]
    steps: bool


@lru_cache(maxsize=1024)
def _known_among(names: tuple[str, ...]) -> _Known:
    prefix = semconv.COUNTER_PREFIX
    return _Known(
        [pair for pair in _ROOT_INTS if pair[0] in names],
        [pair for pair in _STATS if pair[0] in names],
        [pair for pair in _ROOT_SCALARS if pair[0] in names],
        [(name, name[len(prefix) :]) for name in sorted(names) if name.startswith(prefix)],
        any(name in names for name, _, _ in _LINKS),
    )


def _ints(attributes: Mapping[str, Any], fields: Sequence[tuple[str, str]]) -> dict[str, int]:
    return {field: value for name, field in fields if _is_int64(value := attributes[name])}


def _version(span: SpanData) -> tuple[int, int, str]:
    """An order among different versions of one span, so that the choice is the same from any order."""
    attributes = sorted(map(repr, span.attributes.items()))
    return span.end_ns, span.start_ns, repr((*span._replace(attributes={}), attributes))


def _root(spans: Iterable[SpanData]) -> SpanData | None:
    """The session's root. A phase of a user's that is called "session" is none."""
    best: SpanData | None = None
    for span in spans:
        phase = span.attributes.get(_PHASE)
        if phase != _SESSION and (phase is not None or span.name != semconv.ROOT_NAME):
            continue
        if span.parent_id and semconv.STATUS not in span.attributes:
            continue
        if best is None or _root_order(span) < _root_order(best):
            best = span
    return best


def _root_order(span: SpanData) -> tuple[bool, int, int]:
    return span.parent_id != 0, span.start_ns, span.span_id


def _sort_out(unique: Mapping[int, SpanData], root: SpanData, start: int, end: int) -> _Sorted:
    """Waits and phases, clipped to the session; spans that are neither are left out."""
    waits: list[Wait] = []
    work: list[Work] = []
    late = 0
    root_id = root.span_id
    for span in unique.values():
        _, span_id, parent_id, name, _, begun, ended, attributes, _, _, _ = span
        phase = attributes.get(_PHASE)
        named = type(phase) is str
        if not named:
            if name not in _KNOWN_NAMES:
                continue
            phase = name
        if span_id == root_id or attributes.get(_FOREIGN) is True:
            continue
        clipped_end = ended if ended < end else end
        begun = begun if begun > start else start
        if begun > clipped_end:  # wholly outside, or ended before it began
            begun = clipped_end = min(begun, end)
        if phase in _WAITS:
            if parent_id == root_id or _below_root(unique, span, root_id):
                waits.append((begun, clipped_end, phase))
                continue
            if not named:  # not ours: an engine's, say
                continue
        if ended > end or attributes.get(_LATE) is True:
            late += 1
        work.append((begun, -clipped_end, phase, span_id, parent_id, attributes))  # type: ignore[arg-type]
    waits.sort()
    work.sort()
    return _Sorted(waits, work, late)


def _below_root(unique: Mapping[int, SpanData], span: SpanData, root_id: int) -> bool:
    """Whether no phase stands between `span` and the root, as far as the spans can tell."""
    seen = {span.span_id}
    above = span.parent_id
    while above != root_id:
        between = unique.get(above)
        if between is None or above in seen:
            return span.attributes.get(semconv.PARENT_PHASE) in (None, _SESSION)
        if type(between.attributes.get(_PHASE)) is str or between.name in _KNOWN_NAMES:
            return False
        seen.add(above)
        above = between.parent_id
    return True


def _generations(work: Sequence[Work], record: Record) -> None:
    """Tokens, turns and weight versions of the generate spans."""
    turns = 0
    tokens_in: list[int] = []
    tokens_out: list[int] = []
    versions: list[int] = []
    pauses: list[float] = []
    numbers = (
        (semconv.INPUT_TOKENS, tokens_in),
        (semconv.OUTPUT_TOKENS, tokens_out),
        (semconv.WEIGHT_VERSION_MIN, versions),
        (semconv.WEIGHT_VERSION_MAX, versions),
    )
    for item in work:
        if item[2] != _GENERATE:
            continue
        attributes = item[5]
        if semconv.CONTINUATION not in attributes or attributes[semconv.CONTINUATION] is not True:
            turns += 1
        for name, values in numbers:
            if name in attributes:
                value = attributes[name]
                if _is_int64(value):
                    values.append(value)
        if semconv.PAUSED in attributes:
            pause = attributes[semconv.PAUSED]
            if isinstance(pause, float) and 0 <= pause <= _LARGEST:
                pauses.append(pause)
    for field, tokens in (("input_tokens", tokens_in), ("output_tokens", tokens_out)):
        if tokens:  # no backend takes more than 64 bits
            record[field] = max(-_INT64, min(sum(tokens), _INT64 - 1))
    record["turns"] = turns
    if pauses and (paused := sum(pauses)) <= _LARGEST:  # a comparison, of which a shape takes note
        record[GENERATE_PAUSED] = paused
    if versions:
        record["weight_version_min"] = min(versions)
        record["weight_version_max"] = max(versions)


def _score(value: object) -> float | str | None:
    """A reward as the record has it: a number that is not finite stands as its name."""
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str):
        return value if value in _NOT_FINITE else None
    if not isinstance(value, (int, float)):
        return None
    try:
        return _plain_or_named(value / 1)  # not float(), of which a shape's numbers take no note
    except OverflowError:
        return None


def _plain_or_named(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _sum_of_scores(work: Sequence[Work]) -> float | str | None:
    scores = [_score(item[5].get(semconv.REWARD_SCORE)) for item in work if item[2] == _REWARD]
    if len(scores) == 1:
        return scores[0]
    numbers = [_NOT_FINITE[s] if isinstance(s, str) else s for s in scores if s is not None]
    if not numbers:
        return None
    try:
        return _plain_or_named(math.fsum(numbers))  # exact, so the order does not show
    except OverflowError:
        return _plain_or_named(sum(sorted(numbers)))
    except ValueError:  # both infinities
        return "NaN"


def _links(attributes: Mapping[str, Any], span_links: Sequence[Link], record: Record) -> None:
    links: dict[str, int] = {}
    for name, kind, field in _LINKS:
        step = attributes.get(name)
        if not _is_int64(step):
            linked = (link.attributes for link in span_links)
            steps = (to.get(semconv.STEP) for to in linked if to.get(semconv.LINK_KIND) == kind)
            step = next(filter(_is_int64, steps), None)
        if step is not None:
            links[field] = step
    if links:
        record["links"] = links


def _is_int64(value: object) -> bool:
    return isinstance(value, int) and type(value) is not bool and -_INT64 <= value < _INT64


def _is_scalar(value: object) -> bool:
    """Whether JSON and OTLP both carry `value` as it is."""
    return type(value) is bool or _is_int64(value) or (isinstance(value, float) and math.isfinite(value))
