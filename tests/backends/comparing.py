"""What was recorded, beside what backends show of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rollspan import left
from rollspan.spandata import SpanData
from rollspan.testing import Recording

from .services import Jaeger, wait_until


def kept(directory: Path) -> dict[str, list[SpanData]]:
    """The spans of every trace in the kept journals of a data directory, by trace id."""
    traces: dict[str, list[SpanData]] = {}
    for trace in Recording(directory).traces():
        for span in trace.spans:
            traces.setdefault(f"{span.trace_id:032x}", []).append(span)
    return traces


def resources(directory: Path) -> list[dict[str, Any]]:
    """The resource of each process that kept a journal."""
    return [journal["resource"] for journal in left.journals(directory)]


def by_id(records: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Records by session id; none may be there twice."""
    found = list(records)
    repeated = [name for name, n in Counter(record["session_id"] for record in found).items() if n > 1]
    assert not repeated, f"there more than once: {repeated[:5]}"
    return {record["session_id"]: record for record in found}


def exact(span: SpanData) -> tuple[object, ...]:
    """Everything of a span, in a form that compares types too (1, 1.0 and True are three values)."""
    # Jaeger notes on spans, for good, that it was asked for their trace before all of it was there.
    own = {name: value for name, value in span.attributes.items() if not name.startswith("@jaeger@")}
    attributes = sorted((name, _typed(value)) for name, value in own.items())
    links = [
        (link.trace_id, link.span_id, sorted((name, _typed(v)) for name, v in link.attributes.items()))
        for link in span.links
    ]
    return (*span[:7], attributes, span.status, span.status_message, links)


def _typed(value: Any) -> tuple[str, object]:
    if isinstance(value, list | tuple):
        return "list", [_typed(item) for item in value]
    return type(value).__name__, value


def assert_jaeger_has(jaeger: Jaeger, expected: Mapping[str, list[SpanData]], service: str) -> None:
    """Every trace is there to the last attribute and nanosecond, each span once, and no other trace."""
    assert expected
    number = sum(map(len, expected.values()))
    shown: dict[str, list[SpanData]] = {}

    def complete() -> bool:
        shown.clear()
        shown.update(jaeger.traces(service))
        return sum(map(len, shown.values())) >= number

    wait_until(complete, f"all of {number} spans to reach Jaeger")
    assert shown.keys() == expected.keys()
    for trace_id, spans in expected.items():
        assert sorted(map(exact, shown[trace_id])) == sorted(map(exact, spans))
