"""The usual session in one pass: from the rows of its lines to spans and record.

`lines.assemble` and `fold.fold_trace` say what a trace and its record are, whatever the lines hold. Here is
the short way for a session as nearly all are: it ended in order, its spans are its own and lie within it, one
below the other. For anything else the answer is None, and the long way is taken. A property test holds that
both ways come to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from . import ids, semconv
from .durations import Interval, Wait, Work
from .fold import describe_session
from .lines import link_of
from .record import Record
from .spandata import KIND_INTERNAL, STATUS_ERROR, STATUS_UNSET, Link, SpanData

_SESSION_ID, _PHASE, _PARENT_PHASE = semconv.SESSION_ID, semconv.PHASE, semconv.PARENT_PHASE
_SESSION, _WAITS = semconv.SESSION, semconv.WAITS
# What only the first line of an unusual trace has: a root with an id or a name of its own.
_UNUSUAL: Final = frozenset("rm")
# Attributes of a phase that change what it is.
_TELLING: Final = frozenset(
    {_SESSION_ID, _PHASE, _PARENT_PHASE, semconv.LATE, semconv.FOREIGN, semconv.STATUS}
)


def usual_session(
    trace_hex: bytes, parts: Mapping[int, Mapping[str, Any]]
) -> tuple[list[SpanData], Record] | None:
    """Spans, root first, and record of the session with these lines; None for one that is not as usual."""
    first = parts.get(0)
    if first is None or "t" not in first or not _UNUSUAL.isdisjoint(first):
        return None
    attributes: dict[str, Any] = {}
    links: list[Link] = []
    rows: list[list[Any]] = []
    code, message = STATUS_UNSET, ""
    last = first
    for n in sorted(parts) if len(parts) > 1 else parts:
        last = parts[n]
        attributes.update(last.get("a", ()))
        if "l" in last:
            links.extend(map(link_of, last["l"]))
        rows += last.get("s", ())
        code, message = last.get("st", (code, message))
    session_id = attributes.get(_SESSION_ID)
    if "e" not in last or "o" in last or attributes.get(_PHASE) != _SESSION or type(session_id) is not str:
        return None
    start: int = first["t"]
    end: int = last["e"]
    if start > end:
        return None

    names: dict[int, str] = {0: _SESSION}
    for row in rows:
        names[row[0]] = row[2]
    if len(names) != len(rows) + 1:  # a span that was written twice
        return None
    trace = int(trace_hex, 16)
    root_id = ids.derived_span_id(trace, 0)
    span_ids = {ref: ids.derived_span_id(trace, ref) for ref in names if type(ref) is int}
    spans = [
        SpanData(
            trace,
            root_id,
            0,
            semconv.ROOT_NAME,
            KIND_INTERNAL,
            start,
            end,
            attributes,
            code,
            message,
            links,
        )
    ]
    waits: list[Wait] = []
    work: list[Work] = []
    inner = set()  # phases with a phase below them
    status = semconv.FAILED if code == STATUS_ERROR else None
    for ref, parent, name, kind, begun, ended, extra, code, message in rows:
        if (
            not start <= begun <= ended <= end
            or ref not in span_ids
            or parent not in span_ids
            or parent == ref
            or not _TELLING.isdisjoint(extra)
        ):
            return None
        if parent:
            if name in _WAITS or names[parent] in _WAITS:
                return None
            inner.add(parent)
        if name in _WAITS:
            waits.append((begun, ended, name))
        else:
            work.append((begun, -ended, name, ref, parent, extra))
        common = {_SESSION_ID: session_id, _PHASE: name, _PARENT_PHASE: names[parent]}
        spans.append(
            SpanData(
                trace,
                span_ids[ref],
                span_ids[parent],
                name,
                kind,
                begun,
                ended,
                {**common, **extra} if extra else common,
                code,
                message,
            )
        )
    waits.sort()
    work.sort()
    leaves: list[Interval] = [(item[0], -item[1]) for item in work if item[3] not in inner]
    trace_id = trace_hex.decode()
    return spans, describe_session(trace_id, attributes, links, status, start, end, waits, work, leaves, 0)
