"""The usual session in one pass: from the rows of its lines to its record.

`lines.assemble` and `fold.fold_trace` say what a trace and its record are, whatever the lines hold. Here is
the short way for a session as nearly all are: it ended in order, its spans are its own and lie within it, one
below the other. For anything else the answer is None, and the long way is taken. A property test holds that
both ways come to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import le, neg
from typing import Any, Final

from . import semconv
from .describe import SUBMISSION, described
from .durations import Wait, Work
from .finished import FinishedTrace
from .fold import describe_session
from .lines import begins_with, link_of
from .record import Record
from .rows import MOST_SPANS, Outline, Row, SessionRows, outline_of
from .shapes import guessed, in_common, known, learn, seen
from .spandata import STATUS_ERROR, STATUS_UNSET, Link
from .taking import Part

_SESSION_ID, _PHASE, _SESSION = semconv.SESSION_ID, semconv.PHASE, semconv.SESSION
# What only the first line of an unusual trace has: a root with an id or a name of its own.
_UNUSUAL: Final = frozenset("rm")
# Attributes of a phase that change what it is.
_TELLING: Final = frozenset(
    {_SESSION_ID, _PHASE, semconv.PARENT_PHASE, semconv.LATE, semconv.FOREIGN, semconv.STATUS}
)

# A named tuple's own constructor is a function in Python.
_session_rows: Final[Callable[[tuple[Any, ...]], SessionRows]] = partial(tuple.__new__, SessionRows)


def seen_session(trace_hex: bytes, unparsed: list[bytes]) -> FinishedTrace | None:
    """The session with these lines, where they look as those of others did; else None."""
    trace_id = trace_hex.decode()
    for shape in seen(unparsed):
        if (values := shape.take_unparsed(trace_id, unparsed)) is not None:
            return FinishedTrace(None, None, shape.export_spans, None, shape, values)
    return None


def usual_session(trace_hex: bytes, given: Sequence[Part]) -> FinishedTrace | None:
    """The session with these lines; None for one that is not as usual."""
    trace_id = trace_hex.decode()
    for shape in guessed(given):
        if (values := shape.take(trace_id, given)) is not None:
            return FinishedTrace(None, None, shape.export_spans, None, shape, values)
    parts = {part["n"]: part for part in given}
    first = parts.get(0)
    if first is None or "t" not in first or not _UNUSUAL.isdisjoint(first):
        return None
    attributes = begins_with(trace_id, first)
    links: list[Link] = []
    rows: list[Row] = []
    code, message = STATUS_UNSET, ""
    last = first
    in_order = tuple(parts[n] for n in sorted(parts))
    for last in in_order:
        if "a" in last:
            attributes.update(last["a"])
        if "l" in last:
            links.extend(map(link_of, last["l"]))
        if "s" in last:
            rows += last["s"]
        if "st" in last:
            code, message = last["st"]
    session_id = attributes.get(_SESSION_ID)
    if "e" not in last or "o" in last or attributes.get(_PHASE) != _SESSION or type(session_id) is not str:
        return None
    start: int = first["t"]
    end: int = last["e"]
    refs, parents, names, kinds, begins, ends, extras, codes, messages = (
        zip(*rows, strict=True) if rows else ((),) * 9
    )
    common = None
    if len(rows) <= MOST_SPANS:
        common = in_common(
            in_order, attributes, links, extras, refs, parents, names, kinds, codes, messages, code, message
        )
        found = known(common, in_order)
        if found is not None and (values := found.take(trace_id, in_order)) is not None:
            return FinishedTrace(None, None, found.export_spans, None, found, values)
    outline = outline_of(refs, parents, names, kinds, codes, messages)
    if outline is None:
        return None
    root = begins_with(trace_id, first)
    root.update(described(SUBMISSION, first.get("a", {})))
    for part in in_order[1:]:
        root.update(part.get("a", ()))
    plain = tuple(map(described, names, extras))
    fold = partial(_fold, outline, semconv.FAILED if code == STATUS_ERROR else None)
    record = fold(trace_id, root, links, start, end, begins, ends, plain)
    if record is None:
        return None
    told = links, start, end, code, message, begins, ends
    if common is not None and list(described(SUBMISSION, attributes).items()) == list(root.items()):
        learn(common, fold, in_order, _session_rows((trace_hex, attributes, *told, extras, outline)))
    whole = _session_rows((trace_hex, root, *told, plain, outline))
    return FinishedTrace(None, record, first.get("x", True), whole)


def _fold(
    outline: Outline,
    status: str | None,
    trace_id: str,
    attributes: Mapping[str, Any],
    links: Sequence[Link],
    start: int,
    end: int,
    begins: Sequence[int],
    ends: Sequence[int],
    extras: Sequence[Mapping[str, Any]],
) -> Record | None:
    if (
        not start <= min(begins, default=start) <= max(ends, default=end) <= end
        or not all(map(le, begins, ends))
        or not all(map(_TELLING.isdisjoint, extras))
    ):
        return None
    refs, parents, names = outline.refs, outline.parents, outline.names
    work: list[Work] = sorted(zip(begins, map(neg, ends), names, refs, parents, extras, strict=True))
    waits: list[Wait] = []
    if outline.waits:
        waits = sorted((begins[i], ends[i], names[i]) for i in outline.waits)
        work = [item for item in work if item[2] not in semconv.WAITS]
    leaves = [(begins[i], ends[i]) for i in outline.leaves]
    return describe_session(trace_id, attributes, links, status, start, end, waits, work, leaves, 0)
