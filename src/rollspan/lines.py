"""A trace's lines in the journal, and their way back into spans.

A line says what became known of a trace since its last line; merged, the lines of a trace are the whole of
it. Framing (one line of bytes):

    <crc32, 8 hex> <kind, 1><trace id, 32 hex> <JSON object>\\n

Kinds: `s` a line of a trace that goes on, `e` the trace's last line, `x` spans that belong to a trace of
another process and are exported as they are. A line with a wrong checksum is skipped and counted.

The JSON object's keys, all but `n` optional:

    n   number of the line within its trace, from 0: a repeated line is known by it
    t   start of the root, epoch ns (line 0)
    r   root's span id, where it does not follow from the trace id
    m   root's name, where it is not `rollout`
    x   false: the spans are exported another way, or were left out by the sampler
    c   attributes that the roots of all sessions of the process begin with; another is the session's id, the trace id
        where `a` has none (line 0 of a session)
    a   attributes of the root that are new or changed
    l   links of the root that are new: [trace id hex, span id, attributes]
    s   finished spans: [ref, parent ref, name, kind, start, end, attributes, status, message]
    o   open spans, as of this line: [ref, parent ref, name, kind, start, attributes]
    u   stamp of this line, epoch ns, where it has open spans
    st  status of the root: [code, message]
    e   end of the root, epoch ns (last line)

A `ref` is the span's number within its trace (0 the root), from which its id follows, or its id in hex. In spans
with a number, and on the root in line 0, attributes may stand under the API's short names (`model`, `task_id`), and
get their own when the line is read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

import orjson

from . import describe, health, ids, native, semconv
from .spandata import KIND_INTERNAL, STATUS_UNSET, Link, SpanData

REF, PARENT, NAME, KIND, START, END, ATTRIBUTES, STATUS, MESSAGE = range(9)
"""Where things stand in a span's row."""
WRITE_EVERY: Final = (
    64  # finished spans: bounds a line's length, which costs more beyond that of an attribute
)

GOES_ON, ENDS, PASSES = b"s", b"e", b"x"
_KINDS = frozenset(GOES_ON + ENDS + PASSES)
_BEGIN = re.compile(rb"[0-9a-f]{8} [%b][0-9a-f]{32} \{" % bytes(_KINDS))
KIND_AT: Final = 8 + 1
TRACE: Final = slice(KIND_AT + 1, KIND_AT + 1 + 32)
JSON_AT: Final = TRACE.stop + 1
"""Where things stand in a line; its number is the JSON up to the first comma, `{"n":0`."""


def frame(kind: bytes, trace_hex: bytes, payload: bytes) -> bytes:
    """One journal line."""
    body = b"%b%b %b" % (kind, trace_hex, payload)
    return b"%08x %b\n" % (crc32(body), body)


def _is_good(raw: bytes) -> bool:
    try:
        checked = int(raw[:8], 16) == crc32(raw[KIND_AT:])
        return checked and raw[KIND_AT] in _KINDS and raw[8] == 32 and len(raw) > JSON_AT
    except (ValueError, IndexError):
        return False


def split(chunk: bytes) -> Iterable[tuple[bytes, int]]:
    """The good lines of `chunk`, each with the offset behind its newline, which it lacks.

    Damaged ones are counted as `journal.damaged_lines` and skipped.
    """
    *whole, rest = chunk.split(b"\n")
    end = 0
    for raw in whole:
        end += len(raw) + 1
        if _is_good(raw):
            yield raw, end
        elif raw.strip(b"\0"):
            health.count("journal.damaged_lines")
            # Where a newline was hit, a good line stands behind what is left of the one before.
            behind = (raw[begin.start() :] for begin in _BEGIN.finditer(raw, 1))
            yield from ((line, end) for line in behind if _is_good(line))
    if rest.strip(b"\0"):
        health.count("journal.damaged_lines")


class Assembled(NamedTuple):
    """A trace put together from its lines. `open_names` are the spans that were open at its last line."""

    spans: Sequence[SpanData]
    export_spans: bool
    open_names: Sequence[str]


def _identify(ref: int | str, trace: int) -> int:
    return ids.derived_span_id(trace, ref) if isinstance(ref, int) else int(ref, 16)


def link_of(raw: Sequence[Any]) -> Link:
    """A link as a line has it."""
    trace, span, attributes = raw
    return Link(int(trace, 16), int(span, 16), attributes)


def assemble(trace_hex: bytes, lines: Iterable[bytes], *, over: bool = True) -> Assembled | None:
    """The spans of one trace, root first, or None where its first line was lost.

    A trace without a last line is given an end at its last stamp. With `over` its process has died: a
    session without a verdict becomes dropped/process_died. Without, it is only looked at as it stands.
    """
    return assemble_parts(trace_hex, parts_of(lines), over=over)


def parts_of(lines: Iterable[bytes]) -> dict[int, dict[str, Any]]:
    """The JSON objects of a trace's lines, by number, with the specification's names."""
    parts = by_number(map(part_of, lines))
    describe_parts(parts)
    return parts


def part_of(line: bytes) -> dict[str, Any]:
    """The JSON object of a line."""
    part: dict[str, Any] = orjson.loads(line[JSON_AT:])
    return part


def by_number(parts: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The JSON objects of a trace's lines; one that is there twice counts once."""
    return {part["n"]: part for part in parts}


def begins_with(trace_id: str, first: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of the root that line 0 says in short."""
    return {**first["c"], semconv.SESSION_ID: trace_id} if "c" in first else {}


def describe_parts(parts: Mapping[int, dict[str, Any]]) -> None:
    """Put the specification's names where the API's short ones stand."""
    for part in parts.values():
        _describe(part)


def _describe(part: dict[str, Any]) -> None:
    if part["n"] == 0 and "a" in part:
        part["a"] = describe.described(describe.SUBMISSION, part["a"])
    for row in part.get("s", ()):
        if row[ATTRIBUTES] and type(row[REF]) is int:
            row[ATTRIBUTES] = describe.described(row[NAME], row[ATTRIBUTES])
    for row in part.get("o", ()):
        if row[-1] and type(row[REF]) is int:
            row[-1] = describe.described(row[NAME], row[-1])


def assemble_parts(
    trace_hex: bytes, parts: Mapping[int, dict[str, Any]], *, over: bool = True
) -> Assembled | None:
    """See `assemble`; `parts` are used up."""
    first = parts.get(0)
    if first is None or "t" not in first:
        health.count("journal.headless_traces")
        return None
    trace = int(trace_hex, 16)
    start: int = first["t"]
    attributes = begins_with(trace_hex.decode(), first)
    links: list[Link] = []
    done: dict[int | str, list[Any]] = {}
    still_open: list[list[Any]] = []
    end: int | None = None
    code, message = STATUS_UNSET, ""
    stamp = start
    for n in sorted(parts):
        part = parts[n]
        attributes.update(part.get("a", ()))
        if "l" in part:
            links.extend(map(link_of, part["l"]))
        for row in part.get("s", ()):
            done[row[0]] = row
            if row[5] > stamp:
                stamp = row[5]
        still_open = part.get("o", ())
        if "u" in part:
            stamp = max(stamp, part["u"])
        code, message = part.get("st", (code, message))
        end = part.get("e", end)
    still_open = [row for row in still_open if row[0] not in done]
    open_names = [row[2] for row in still_open]
    name = first.get("m", semconv.ROOT_NAME)
    if end is None:
        end = stamp
        for ref, parent, span_name, kind, began, extra in still_open:
            if span_name not in semconv.WAITS:  # a wait that its session's end cut short is no late phase
                extra[semconv.LATE] = True
            done[ref] = [ref, parent, span_name, kind, began, max(end, began), extra, STATUS_UNSET, ""]
        if name == semconv.ROOT_NAME and over:
            if attributes.get(semconv.STATUS, semconv.PENDING) == semconv.PENDING:
                attributes[semconv.STATUS] = semconv.DROPPED
                attributes[semconv.REASON] = semconv.PROCESS_DIED
            attributes.setdefault(semconv.CONSUMED, False)
    root_ref = first.get("r", 0)
    root_id = _identify(root_ref, trace)
    root = SpanData(
        trace,
        root_id,
        0,
        name,
        KIND_INTERNAL,
        start,
        end,
        attributes,
        code,
        message,
        links,
    )
    spans = [root]
    names: dict[int | str, str] = {root_ref: semconv.SESSION}
    span_ids: dict[int | str, int] = {root_ref: root_id}
    for ref, row in done.items():
        names[ref] = row[2]
        span_ids[ref] = _identify(ref, trace)
    session_id = attributes.get(semconv.SESSION_ID)
    for ref, parent, span_name, kind, began, ended, extra, code, message in done.values():
        attributes = extra
        if session_id is not None:
            attributes = {
                semconv.SESSION_ID: session_id,
                semconv.PHASE: span_name,
                semconv.PARENT_PHASE: names.get(parent, semconv.SESSION),
                **extra,
            }
        spans.append(
            SpanData(
                trace,
                span_ids[ref],
                span_ids[parent] if parent in span_ids else _identify(parent, trace),
                span_name,
                kind,
                began,
                ended,
                attributes,
                code,
                message,
            )
        )
    return Assembled(spans, first.get("x", True), open_names)


def passing(line: bytes) -> list[SpanData]:
    """The spans of an `x` line: of another process's trace, complete as they stand."""
    trace = int(line[TRACE], 16)
    return [
        SpanData(
            trace,
            _identify(ref, trace),
            _identify(parent, trace),
            name,
            kind,
            start,
            end,
            extra,
            code,
            message,
        )
        for ref, parent, name, kind, start, end, extra, code, message in orjson.loads(line[JSON_AT:])["s"]
    ]


native.works_with(goes_on=GOES_ON, ends=ENDS, passes=PASSES)
native.stands_for("split", sys.modules[__name__], "split")
