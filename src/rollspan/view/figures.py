"""A run in figures: how its rollouts ended and where their time went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rollspan import semconv
from rollspan.attributes import NOT_FINITE
from rollspan.record import Record
from rollspan.view.reading import intervals, submitted, total, verdict
from rollspan.view.text import finite, number

WAIT_ORDER = (semconv.QUEUE_WAIT, semconv.RUNNER_WAIT, semconv.POST_WAIT)
TOTAL, UNATTRIBUTED = "total", "unattributed"
_KNOWN_ORDER = (semconv.EXECUTION, semconv.GENERATE, semconv.TOOLCALL, semconv.REWARD)
_STATUS_ORDER = (semconv.ACCEPTED, semconv.REJECTED, semconv.FAILED, semconv.DROPPED, semconv.PENDING)
_REWARD_FIELD = "reward_calc"
_NO_PHASES = frozenset({*WAIT_ORDER, TOTAL, UNATTRIBUTED})


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """The figures of `records`, ready for JSON.

    `sessions`: int; `span_s`: seconds from the first submission to the last end;
    `statuses`: [{status, reason, count, share, consumed}];
    `durations`: {name: {kind, count, p50_s, p95_s, max_s, sum_s, share}} in the order of showing, where kind
    is wait, phase, total or unattributed, count is the number of sessions that have it and share
    its part of the time of all sessions (more than 1 where work ran in parallel); and where any record
    has them `input_tokens`, `output_tokens`, `turns`, `reward` {count, sum, mean, min, max},
    `rewards_not_finite` {NaN, Infinity or -Infinity: count},
    `weight_versions` {count, min, max, mixed, widest}, `steps` {count, first, last, mean_lag, max_lag},
    `late_spans`, `counters` {name: sum}.
    """
    result: dict[str, Any] = {"sessions": len(records), "span_s": _span(records)}
    result["statuses"] = _statuses(records)
    result["durations"] = _durations(records)
    for key in ("input_tokens", "output_tokens", "turns", "reward"):
        if values := [value for record in records if (value := number(record, key)) is not None]:
            result[key] = _spread(values)
    if not_finite := Counter(record["reward"] for record in records if record.get("reward") in NOT_FINITE):
        result["rewards_not_finite"] = dict(not_finite)
    if versions := _weight_versions(records):
        result["weight_versions"] = versions
    if steps := _steps(records):
        result["steps"] = steps
    if late := int(sum(number(record, "late_spans") or 0 for record in records)):
        result["late_spans"] = late
    if counters := _counters(records):
        result["counters"] = counters
    return result


def _span(records: Sequence[Record]) -> float:
    starts = [submitted(record) for record in records]
    ends = [start + total(record) for start, record in zip(starts, records, strict=True)]
    return max(ends) - min(starts) if records else 0.0


def _statuses(records: Sequence[Record]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault(verdict(record), []).append(record)

    def order(pair: tuple[str, str]) -> tuple[int, int, tuple[str, str]]:
        known = _STATUS_ORDER.index(pair[0]) if pair[0] in _STATUS_ORDER else len(_STATUS_ORDER)
        return known, -len(groups[pair]), pair

    return [
        {
            "status": pair[0],
            "reason": pair[1] or None,
            "count": len(groups[pair]),
            "share": len(groups[pair]) / len(records),
            "consumed": sum(consumed(record) for record in groups[pair]),
        }
        for pair in sorted(groups, key=order)
    ]


def consumed(record: Record) -> bool:
    """Whether the trainer got it: only then there is a `wait_return_ts`."""
    return number(record, "wait_return_ts") is not None


def _durations(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    kinds: dict[str, str] = dict.fromkeys(WAIT_ORDER, "wait")
    values: dict[str, list[float]] = {name: [] for name in WAIT_ORDER}
    ends: dict[str, list[float]] = {TOTAL: [], UNATTRIBUTED: []}
    for record in records:
        for name, seconds in durations(record).items():
            kinds.setdefault(name, "phase")
            values.setdefault(name, []).append(seconds)
        ends[TOTAL].append(total(record))
        if (rest := number(record, "unattributed_s")) is not None:
            ends[UNATTRIBUTED].append(rest)

    def order(name: str) -> tuple[int, float, str]:
        for at, names in enumerate((WAIT_ORDER, _KNOWN_ORDER)):
            if name in names:
                return at, names.index(name), name
        return 2, -sum(values[name]), name

    whole = sum(ends[TOTAL])
    result = {
        name: {"kind": kinds[name], **_quantiles(values[name], whole)}
        for name in sorted(values, key=order)
        if values[name]
    }
    # A phase may bear these names; the run's own line goes under another key then.
    for name, seconds_of_all in ends.items():
        if seconds_of_all:
            key = name if name not in result else f"{name} of the session"
            result[key] = {"kind": name, **_quantiles(seconds_of_all, whole)}
    return result


def durations(record: Record) -> dict[str, float]:
    """Seconds of each wait and each phase of one record, parallel work summed.

    The waits come from their fields, the phases from `phases`; a field of a phase that is not in there
    (a trimmed record) counts too.
    """
    result = {name: value for name in WAIT_ORDER if (value := number(record, f"{name}_s")) is not None}
    spans_of = intervals(record)
    end = submitted(record) + total(record)
    for name, spans in spans_of.items():
        phase = name if name not in WAIT_ORDER else f"{name}_"
        result[phase] = sum(max(start, end if stop is None else stop) - start for start, stop in spans)
    for field in record:
        name = field[:-2]
        if not field.endswith("_s") or field.endswith("_wall_s") or name in _NO_PHASES:
            continue
        name = semconv.REWARD if name == _REWARD_FIELD else name
        seconds = number(record, field)
        # A phase whose name is taken has its field under the name with an underscore.
        if seconds is not None and name not in spans_of and name.removesuffix("_") not in spans_of:
            result[name] = seconds
    return result


def _quantiles(values: list[float], whole: float) -> dict[str, float | int]:
    values = sorted(values)
    return {
        "count": len(values),
        "p50_s": quantile(values, 0.5),
        "p95_s": quantile(values, 0.95),
        "max_s": values[-1],
        "sum_s": sum(values),
        "share": sum(values) / whole if whole > 0 else 0.0,
    }


def quantile(ordered: Sequence[float], at: float) -> float:
    """The `at` quantile of values in ascending order, linear between neighbours."""
    place = at * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _spread(values: list[float]) -> dict[str, float | int]:
    return {
        "count": len(values),
        "sum": sum(values),
        "mean": sum(values) / len(values),
        "min": min(values),
        "max": max(values),
    }


def _weight_versions(records: Iterable[Record]) -> dict[str, int]:
    pairs = [
        (int(low), int(high))
        for record in records
        if (low := number(record, "weight_version_min")) is not None
        and (high := number(record, "weight_version_max")) is not None
    ]
    if not pairs:
        return {}
    widths = [high - low for low, high in pairs]
    return {
        "count": len(pairs),
        "min": min(low for low, _ in pairs),
        "max": max(high for _, high in pairs),
        "mixed": sum(width > 0 for width in widths),
        "widest": max(widths),
    }


def steps_of(record: Record) -> tuple[int | None, int | None]:
    """The trainer's steps that submitted and consumed the session, where known."""
    links = record.get("links")
    if not isinstance(links, dict):
        return None, None
    dispatch, consume = (finite(links.get(key)) for key in ("dispatch_step", "consume_step"))
    return None if dispatch is None else int(dispatch), None if consume is None else int(consume)


def _steps(records: Iterable[Record]) -> dict[str, float | int]:
    pairs = [steps_of(record) for record in records]
    seen = [step for pair in pairs for step in pair if step is not None]
    if not seen:
        return {}
    lags = [consume - dispatch for dispatch, consume in pairs if dispatch is not None and consume is not None]
    result: dict[str, float | int] = {
        "count": sum(pair != (None, None) for pair in pairs),
        "first": min(seen),
        "last": max(seen),
    }
    if lags:
        result |= {"mean_lag": sum(lags) / len(lags), "max_lag": max(lags)}
    return result


def _counters(records: Iterable[Record]) -> dict[str, float | int]:
    result: dict[str, float | int] = {}
    for record in records:
        counters = record.get("counters")
        for name, value in counters.items() if isinstance(counters, dict) else ():
            if finite(value) is not None:
                result[str(name)] = result.get(str(name), 0) + value
    return dict(sorted(result.items(), key=lambda item: (-item[1], item[0])))
