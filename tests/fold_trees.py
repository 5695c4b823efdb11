"""Traces for the tests of fold: a short way to write spans, and generated trees with a naive judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from rollspan import semconv
from rollspan.spandata import KIND_INTERNAL, Link, SpanData

TRACE_ID = 0x0123456789ABCDEF0123456789ABCDEF
EPOCH_NS = 1_763_937_000_000_000_000
MS = 1_000_000
ROOT_ID = 1

OWN_FIELDS = frozenset(
    {"queue_wait_s", "runner_wait_s", "post_wait_s", "total_s", "unattributed_s", "generate_paused_s"}
)


def make_span(
    span_id: int,
    phase: str | None,
    begin: float,
    end: float,
    parent: int = ROOT_ID,
    attributes: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    unit: int = MS,
    **changes: Any,
) -> SpanData:
    """A span from `begin` to `end` in `unit`s (ms) since the session's start."""
    given: dict[str, Any] = {} if phase is None else {semconv.PHASE: phase}
    span = SpanData(
        TRACE_ID,
        span_id,
        parent,
        name if name is not None else phase or "other",
        KIND_INTERNAL,
        EPOCH_NS + round(begin * unit),
        EPOCH_NS + round(end * unit),
        {**given, **(attributes or {})},
    )
    return span._replace(**changes)


def make_root(
    end: float = 1000, attributes: Mapping[str, Any] | None = None, *, unit: int = MS, **changes: Any
) -> SpanData:
    """The root of a session of `end` units (ms)."""
    return make_span(
        ROOT_ID,
        semconv.SESSION,
        0,
        end,
        0,
        {semconv.STATUS: semconv.ACCEPTED, **(attributes or {})},
        name=semconv.ROOT_NAME,
        unit=unit,
        **changes,
    )


def at(ms: float) -> float:
    """The record's stamp for `ms` after the session's start."""
    return (EPOCH_NS + round(ms * MS)) / 10**9


# Generated trees. Time is a grid of LENGTH slots, so that the judge can count slots.

LENGTH = 40
UNITS = (1, 333, MS, 7_100_000_001)
ODD_NAMES = (
    "total",
    "total_",
    "queue_wait_",
    "x",
    "x_wall",
    "unattributed",
    "reward_calc",
    "counters.x",
    "step.dispatch",
    "a.b",
    "",
    "session",
    "phases",
    "Größe 🎲",
)
names = st.sampled_from(
    (semconv.EXECUTION, semconv.GENERATE, semconv.GENERATE, semconv.REWARD, semconv.TOOLCALL, *ODD_NAMES)
) | st.text(max_size=4)

_OFTEN_ODD = (
    semconv.INPUT_TOKENS,
    semconv.OUTPUT_TOKENS,
    semconv.WEIGHT_VERSION_MIN,
    semconv.WEIGHT_VERSION_MAX,
    semconv.REWARD_SCORE,
    semconv.CONTINUATION,
    semconv.PAUSED,
    semconv.LATE,
    semconv.PARENT_PHASE,
)
_ROOT_KEYS = (
    semconv.SESSION_ID,
    semconv.REQUEST_ID,
    semconv.RANK,
    semconv.ROLE,
    semconv.TASK_ID,
    semconv.GROUP_ID,
    semconv.WORKFLOW,
    semconv.STATUS,
    semconv.REASON,
    semconv.CONSUMED,
    semconv.STEP_DISPATCH,
    semconv.STEP_CONSUME,
    semconv.STATS_PREFIX + "accepted",
    semconv.STATS_PREFIX + "running",
    semconv.ERROR_TYPE,
    semconv.REWARD_SCORE,
)
# What attributes are after they were made fit for OTLP.
values = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.sampled_from(("NaN", "Infinity", "-Infinity", "execution", "")),
    st.text(max_size=3),
    st.lists(st.integers(0, 3), max_size=2),
)


@dataclass
class Tree:
    """A generated trace and what the judge says of it, in slots."""

    spans: list[SpanData]
    unit: int
    _slots: dict[int, set[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = next(s for s in self.spans if s.span_id == ROOT_ID)
        self.by_id = {s.span_id: s for s in self.spans}
        self.work = [s for s in self.spans if self._is_work(s)]

    def slots(self, span: SpanData) -> set[int]:
        """The slots of the session that the span fills."""
        begin, end = ((ns - EPOCH_NS) // self.unit for ns in (span.start_ns, span.end_ns))
        return set(range(max(begin, 0), min(end, LENGTH)))

    def seconds(self, slots: float) -> float:
        return slots * self.unit / 1e9

    def _is_work(self, span: SpanData) -> bool:
        phase = span.attributes.get(semconv.PHASE)
        return (
            span.span_id != ROOT_ID
            and phase is not None
            and phase not in semconv.WAITS
            and span.attributes.get(semconv.FOREIGN) is not True
        )

    def waits(self) -> set[int]:
        """Slots of all waits."""
        waits = (s for s in self.spans if s.attributes.get(semconv.PHASE) in semconv.WAITS)
        return set().union(*map(self.slots, waits))

    def leaf_work(self) -> set[int]:
        """Slots in which some leaf phase is open, less the waits."""
        inner = {self._phase_above(s) for s in self.work}
        leaves = (s for s in self.work if s.span_id not in inner)
        return set().union(*map(self.slots, leaves)) - self.waits()

    def _phase_above(self, span: SpanData) -> int | None:
        above = span.parent_id
        while above in self.by_id:
            if self.by_id[above] in self.work:
                return above
            if above == ROOT_ID:
                return None
            above = self.by_id[above].parent_id
        named = [
            s
            for s in self.work
            if s.attributes[semconv.PHASE] == span.attributes.get(semconv.PARENT_PHASE)
            and self._order(s) < self._order(span)
            and self._clipped(s)[1] >= self._clipped(span)[1]
        ]
        return max(named, key=self._order).span_id if named else None

    def _clipped(self, span: SpanData) -> tuple[int, int]:
        low, high = self.root.start_ns, self.root.end_ns
        return min(max(span.start_ns, low), high), min(max(span.end_ns, low), high)

    def _order(self, span: SpanData) -> tuple[Any, ...]:
        begin, end = self._clipped(span)
        return begin, -end, span.attributes[semconv.PHASE], span.span_id

    def by_name(self) -> dict[str, tuple[int, int]]:
        """Sum and union per phase, in slots."""
        lengths = {}
        for name in {s.attributes[semconv.PHASE] for s in self.work}:
            filled = [self.slots(s) for s in self.work if s.attributes[semconv.PHASE] == name]
            lengths[name] = sum(map(len, filled)), len(set().union(*filled))
        return lengths


_work_spans = st.lists(
    st.tuples(
        st.integers(0, 99),  # which of the spans so far is the parent
        names,
        st.integers(-4, LENGTH + 4),
        st.integers(0, 25),
        st.sampled_from(("work",) * 8 + ("foreign", "other", "lost")),
        st.dictionaries(st.sampled_from(_OFTEN_ODD), values, max_size=3),
    ),
    max_size=10,
)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A session with waits and phases: parallel, nested, repeated, late, foreign, without a parent."""
    unit = draw(st.sampled_from(UNITS))
    root_attributes = draw(st.dictionaries(st.sampled_from(_ROOT_KEYS), values, max_size=8))
    counters = draw(st.dictionaries(st.text(max_size=3), values, max_size=4))
    for name, value in counters.items():
        root_attributes[semconv.COUNTER_PREFIX + name] = value
    links = tuple(
        Link(77, 78 + i, {semconv.LINK_KIND: kind, semconv.STEP: step})
        for i, (kind, step) in enumerate(
            draw(st.lists(st.tuples(st.sampled_from(("dispatch", "consume", "x")), values), max_size=2))
        )
    )
    spans = [make_root(LENGTH, root_attributes, unit=unit, links=links)]
    ids = [ROOT_ID]
    cuts = sorted(draw(st.lists(st.integers(0, LENGTH), min_size=4, max_size=4)))
    waits = (semconv.QUEUE_WAIT, semconv.RUNNER_WAIT, None, semconv.POST_WAIT)
    for name, begin, end in zip(waits, [0, *cuts], cuts, strict=False):
        if name is not None and draw(st.booleans()):
            ids.append(2 + len(ids))
            spans.append(make_span(ids[-1], name, begin, end, unit=unit))
    for parent, name, begin, length, what, attributes in draw(_work_spans):
        above = ids[parent % len(ids)]
        ids.append(2 + len(ids))
        if what == "lost":
            continue
        if what == "foreign":
            attributes[semconv.FOREIGN] = True
        phase = None if what == "other" else name
        span_name = "POST" if what == "other" else name
        spans.append(
            make_span(ids[-1], phase, begin, begin + length, above, attributes, name=span_name, unit=unit)
        )
    return Tree(spans, unit)


def shuffled_with_repeats(spans: Iterable[SpanData], order: Any) -> list[SpanData]:
    """The spans in another order, some of them twice; equal copies, not the same objects."""
    many = [span._replace(attributes=dict(span.attributes)) for span in spans]
    many += [span for span in many if order.random() < 0.3]
    order.shuffle(many)
    return many
