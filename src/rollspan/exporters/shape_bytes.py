"""The spans and the event of sessions of one shape as protobuf bytes, by functions made for the shape.

The bytes of two such sessions differ in ids, times, numbers and texts alone. So one of them is written by
`span_bytes` with marks in the place of these, and cut at the marks. What lies between them is the same for all
of the shape. A function is made that puts the values of another session there.
"""

from __future__ import annotations

import re
import struct
from binascii import unhexlify
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

from rollspan import health, ids, semconv
from rollspan.describe import SUBMISSION
from rollspan.noting import Noted, NotNotedError
from rollspan.record import event_attributes
from rollspan.rows import with_record
from rollspan.shapes import Shape, expressions, function
from rollspan.spandata import KIND_INTERNAL, Link, SpanData

from .keyvalues import LOG_ATTRIBUTES, SPAN_ATTRIBUTES, Attributes, small_numbers, varint
from .span_bytes import event_body, link_bytes, log_ids, span_body

_MOST_TEXTS: Final = 256  # of a key
_SHORT: Final = 24  # a text's bytes; longer ones are seldom met again


Writer: TypeAlias = Callable[..., bytes]
"""Takes the values of a session, each as an argument; raises struct.error for a number that OTLP cannot hold."""


def spans_writer(shape: Shape) -> Writer | None:
    """What writes the spans of its sessions, root first, each behind its tag; None where it cannot be made."""
    return _known(shape, "spans", _spans)


def event_writer(shape: Shape) -> Writer | None:
    """What writes the events of its records, behind their tags; None for sessions without spans to point to."""
    return _known(shape, "event", _event) if shape.export_spans else None


def _known(shape: Shape, name: str, make: Callable[[Shape], Writer]) -> Writer | None:
    made: dict[str, Writer | None] = shape.made
    if name not in made:
        made[name] = None
        try:
            made[name] = make(shape)
        except NotNotedError:
            pass  # there is the long way
        except Exception:  # noqa: BLE001 - likewise
            health.internal_error("shape_bytes")
    return made[name]


class _Function:
    """Source of a function that returns bytes."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {
            "halves": struct.Struct(">QQ").unpack,
            "numbers": small_numbers,
            "unhexlify": unhexlify,
            "varint": varint,
        }
        self._lines = ["trace = unhexlify(trace_id)"]
        self._marks: dict[bytes, tuple[str, str]] = {}
        self._pieces: dict[tuple[Attributes, str, str], str] = {}
        self._out: list[str] = []

    def span_ids(self, refs: Sequence[int]) -> None:
        """Name the ids of these spans i0, i1 and so on."""
        self._lines += ["high, low = halves(trace)", "seed = high ^ low"]
        self._lines += [
            f"i{n} = {ids.derived_span_id_source(ref)}.to_bytes(8, 'big')" for n, ref in enumerate(refs)
        ]

    def _name(self, thing: Any) -> str:
        name = f"c{len(self._names)}"
        self._names[name] = thing
        return name

    # Marks.

    def number(self, code: str, expression: str) -> int:
        """A number that marks the place of another one, which `struct` writes by `code` (8s: most significant first)."""
        mark = 0x7FF8_F8F8_F8F8_0000 + len(self._marks)  # a double that is no number; F8 is in no text
        self._marks[mark.to_bytes(8, "big" if code == "8s" else "little")] = code, expression
        return mark

    def double(self, expression: str) -> float:
        mark: float = struct.unpack("<d", struct.pack("<Q", self.number("d", expression)))[0]
        return mark

    def links(self, sample: Sequence[Link]) -> list[Link]:
        """A link that marks the place of all of them, where there are any."""
        if not sample:
            return []
        self._names["link_bytes"] = link_bytes
        self._lines.append("all_links = b''.join(map(link_bytes, links))")
        mark = Link(0, 0, {"\0": True})
        self._marks[link_bytes(mark)] = "", "all_links"
        return [mark]

    def trace_id(self) -> int:
        mark = 0xF8F8_F8F8_F8F8_F8F8_F8F8_F8F8_F8F8_F8F8
        self._marks[mark.to_bytes(16, "big")] = "16s", "trace"
        return mark

    def attributes(self, to: Attributes, given: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes with marks in the place of those of their values that differ from session to session."""
        return dict(self._attribute(to, key, value) for key, value in given.items())

    def _attribute(self, to: Attributes, key: str, value: Any) -> tuple[str, Any]:
        if not isinstance(value, Noted) or isinstance(value.value, float | bool):
            return key, self._within(value)
        mark = f"\0{len(self._marks)}"
        self._marks[to.encode(((mark, True),))] = "", self._piece(to, key, value)
        return mark, True

    def _within(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._within(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._within(item) for item in value]
        if not isinstance(value, Noted):
            return value
        if isinstance(value.value, float):
            return self.double(value.source)
        if isinstance(value.value, bool):  # functions are for one of both flags
            return value.value
        raise NotNotedError  # its length would change that of what it is in

    def _piece(self, to: Attributes, key: str, value: Noted) -> str:
        """The variable with the KeyValue."""
        sample, expression = value
        known = self._pieces.get((to, key, expression))
        if known is not None:
            return known
        name = self._pieces[to, key, expression] = f"p{len(self._pieces)}"
        x, whole = expression, f"{self._name(to.encode)}((({key!r}, {expression}),))"
        if _is_short(sample):
            made = f"{self._name(_texts(to, key))}[{x}]"
        elif isinstance(sample, list) and x.startswith("[") and _is_short(sample[0]):
            made = f"{self._name(_texts(to, key, listed=True))}{x}"
        elif isinstance(sample, str) and sample.isascii():
            before = to.encode(((key, sample),))[: -len(sample)]
            made = f"{before!r} + {x}.encode() if len({x}) == {len(sample)} and {x}.isascii() else {whole}"
        elif isinstance(sample, int):
            befores = to.encode(((key, 0),))[:-1], to.encode(((key, 128),))[:-2]
            number = f"(numbers[{x}] if {x} < {len(small_numbers)} else bytes(({x} & 127 | 128, {x} >> 7)))"
            made = f"{self._name(befores)}[{x} > 127] + {number} if 0 <= {x} < {1 << 14} else {whole}"
        else:
            made = whole
        self._lines.append(f"{name} = {made}")
        return name

    # Bytes.

    def message(self, body: bytes) -> None:
        """Put out a message with marks, behind tag 2 and its length."""
        parts = re.split(b"(" + b"|".join(map(re.escape, self._marks)) + b")", body)
        name = f"m{len(self._out)}"
        self._lines.append(f"{name} = b''.join(({', '.join(self._beside(parts))},))")
        size = f"len({name})"
        self._out.append(
            f"b'\\x12', numbers[{size}] if {size} < {len(small_numbers)} else varint({size}), {name}"
        )

    def _beside(self, parts: Sequence[bytes]) -> Iterator[str]:
        """Expressions for the parts: all of fixed size that lies together is packed in one go."""
        codes: list[str] = []
        values: list[str] = []
        for part in [*parts, b""]:
            code, value = self._marks.get(part, (f"{len(part)}s", repr(part)))
            if part and code:
                codes.append(code)
                values.append(value)
                continue
            if codes:
                yield f"{self._name(struct.Struct('<' + ''.join(codes)).pack)}({', '.join(values)})"
                codes, values = [], []
            if part:
                yield value

    def made(self, parameters: str) -> Writer:
        """The function."""
        lines = (f"def write({parameters}):", *self._lines, f"return b''.join(({', '.join(self._out)},))")
        return function("\n    ".join(lines), "write", self._names)


class _Texts(dict[str, bytes]):
    """KeyValues of one key by their text, or by the only text in a list, made when they are first met."""

    def __init__(self, to: Attributes, key: str, listed: bool) -> None:
        self._to, self._key, self._listed = to, key, listed

    def __missing__(self, text: str) -> bytes:
        written = self._to.encode(((self._key, [text] if self._listed else text),))
        if len(self) >= _MOST_TEXTS:
            self.clear()
        if len(text) <= _SHORT:
            self[text] = written
        return written


@lru_cache(maxsize=256)
def _texts(to: Attributes, key: str, *, listed: bool = False) -> _Texts:
    return _Texts(to, key, listed)


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _SHORT


def _spans(shape: Shape) -> Writer:
    writer = _Function()
    sample = shape.sample
    outline = sample.outline
    writer.span_ids([0, *outline.refs])
    root = expressions(SUBMISSION, sample.attributes, "r")

    def span(
        of: int, parent: int | None, name: str, kind: int, begin: str, end: str, given: Any, *rest: Any
    ) -> None:
        writer.message(
            span_body(
                SpanData(
                    writer.trace_id(),
                    writer.number("8s", f"i{of}"),
                    0 if parent is None else writer.number("8s", f"i{parent}"),
                    name,
                    kind,
                    writer.number("Q", begin),
                    writer.number("Q", end),
                    writer.attributes(SPAN_ATTRIBUTES, given),
                    *rest,
                )
            )
        )

    whole = with_record(root, shape.fields)
    links = writer.links(sample.links)
    said = sample.status, sample.message, links
    span(0, None, semconv.ROOT_NAME, KIND_INTERNAL, "start", "end", whole, *said)
    places = {ref: n for n, ref in enumerate((0, *outline.refs))}
    for n, extra in enumerate(sample.extras):
        name = outline.names[n]
        given = {
            semconv.SESSION_ID: root[semconv.SESSION_ID],
            semconv.PHASE: name,
            semconv.PARENT_PHASE: outline.parent_names[n],
            **expressions(name, extra, f"x{n}_"),
        }
        parent, kind = places[outline.parents[n]], outline.kinds[n]
        span(n + 1, parent, name, kind, f"b{n}", f"e{n}", given, outline.codes[n], outline.messages[n])
    return writer.made(shape.parameters)


def _event(shape: Shape) -> Writer:
    writer = _Function()
    writer.span_ids([0])
    given = writer.attributes(LOG_ATTRIBUTES, event_attributes(shape.fields))
    of_root = writer.trace_id().to_bytes(16, "big"), writer.number("8s", "i0")
    end = writer.number("Q", "end")
    writer.message(event_body(LOG_ATTRIBUTES.encode(given.items()), log_ids(*of_root), end, sampled=True))
    return writer.made(shape.parameters)
