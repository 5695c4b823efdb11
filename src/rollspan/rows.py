"""A session's spans as its lines have them, for as long as nobody asks for more.

Most sessions go out as bytes that are written straight from here, so their spans are never made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple, TypeAlias

from . import ids, semconv
from .attributes import MAX_SPAN_ATTRIBUTES
from .record import Record, root_attributes
from .spandata import KIND_INTERNAL, Link, SpanData

MOST_SPANS: Final = 32  # besides the root: longer sessions seldom have a shape in common

Row: TypeAlias = Sequence[Any]
"""[ref, parent ref, name, kind, start, end, attributes, status, message], see `lines`."""


class Outline:
    """What sessions with the same phases have in common: who is below whom. Each tuple has one item a span.

    `waits` and `leaves` are the places of waits, and of phases with none below them.
    """

    __slots__ = ("codes", "kinds", "leaves", "messages", "names", "parent_names", "parents", "refs", "waits")

    def __init__(
        self,
        refs: tuple[int, ...],
        parents: tuple[int, ...],
        names: tuple[str, ...],
        kinds: tuple[int, ...],
        codes: tuple[int, ...],
        messages: tuple[str, ...],
    ) -> None:
        self.refs, self.parents, self.names = refs, parents, names
        self.kinds, self.codes, self.messages = kinds, codes, messages
        by_ref = {0: semconv.SESSION, **dict(zip(refs, names, strict=True))}
        self.parent_names = tuple(by_ref[parent] for parent in parents)
        self.waits = tuple(i for i, name in enumerate(names) if name in semconv.WAITS)
        inner = {*parents, *(refs[i] for i in self.waits)}
        self.leaves = tuple(i for i, ref in enumerate(refs) if ref not in inner)

    def is_usual(self) -> bool:
        """Whether every span was written once, and is below another one; waits are below the root."""
        if len({0, *self.refs}) != len(self.refs) + 1 or not all(type(ref) is int for ref in self.refs):
            return False
        for ref, parent, name, above in zip(
            self.refs, self.parents, self.names, self.parent_names, strict=True
        ):
            if parent == ref or (parent and (name in semconv.WAITS or above in semconv.WAITS)):
                return False
        return True


def outline_of(*columns: Any) -> Outline | None:
    """The outline of spans with these refs, parents, names, kinds, codes and messages; None for unusual ones."""
    return _known_outline(*columns) if len(columns[0]) <= MOST_SPANS else _outline(*columns)


def _outline(*columns: Any) -> Outline | None:
    try:
        outline = Outline(*columns)
    except KeyError:  # a parent that is not of this session
        return None
    return outline if outline.is_usual() else None


_known_outline = lru_cache(maxsize=512)(_outline)


class SessionRows(NamedTuple):
    """The spans of a usual session: the root's fields, and of the others what its outline leaves open.

    Attributes are named as in the specification. Nothing of it is changed later.
    """

    trace_hex: bytes
    attributes: Mapping[str, Any]
    links: Sequence[Link]
    start: int
    end: int
    status: int
    message: str
    starts: Sequence[int]
    ends: Sequence[int]
    extras: Sequence[Mapping[str, Any]]
    outline: Outline

    def spans(self, record: Record) -> list[SpanData]:
        """All of it in the one plain form, root first; the root repeats what stands in `record`."""
        trace = int(self.trace_hex, 16)
        outline = self.outline
        span_ids = {ref: ids.derived_span_id(trace, ref) for ref in (0, *outline.refs)}
        spans = [
            SpanData(
                trace,
                span_ids[0],
                0,
                semconv.ROOT_NAME,
                KIND_INTERNAL,
                self.start,
                self.end,
                with_record(self.attributes, record),
                self.status,
                self.message,
                self.links,
            )
        ]
        common = {semconv.SESSION_ID: self.attributes[semconv.SESSION_ID]}
        columns = (
            outline.refs,
            outline.parents,
            outline.names,
            outline.parent_names,
            outline.kinds,
            self.starts,
            self.ends,
            self.extras,
            outline.codes,
            outline.messages,
        )
        for ref, parent, name, above, kind, start, end, extra, code, message in zip(*columns, strict=True):
            attributes = {**common, semconv.PHASE: name, semconv.PARENT_PHASE: above, **extra}
            span = (
                trace,
                span_ids[ref],
                span_ids[parent],
                name,
                kind,
                start,
                end,
                attributes,
                code,
                message,
                (),
            )
            spans.append(_span_data(span))
        return spans


# A named tuple's own constructor is a function in Python.
_span_data: Final[Callable[[tuple[Any, ...]], SpanData]] = partial(tuple.__new__, SpanData)


def with_record(attributes: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """The root's attributes and what the session came to."""
    room = max(MAX_SPAN_ATTRIBUTES, len(attributes))
    whole = {**attributes, **root_attributes(record)}
    while len(whole) > room:  # dozens of phases: their durations stand in the record and on their spans
        whole.popitem()
    return whole
