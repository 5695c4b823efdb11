"""One rollout as bars: where they lie, what stands beside them, and that nothing breaks them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from rollspan import view
from rollspan.view.bars import axis, bar

from .view_records import BEGIN, a_record, rendered


def chart(record: dict[str, Any], width: int = 80, **options: Any) -> list[str]:
    """The rows of a waterfall below its ruler."""
    lines = rendered(view.waterfall(record, **options), width).splitlines()
    ruler = next(at for at, line in enumerate(lines) if "├" in line)
    return lines[ruler + 1 : lines.index("", ruler)]


# Bars


def test_bars_lie_where_their_time_lies() -> None:
    """A bar covers its part of the scale to an eighth of a cell."""
    assert bar([(0, 0.5)], 1.0, 8) == "████    "
    assert bar([(0.5, 1)], 1.0, 8) == "    ████"
    assert bar([(0, 1 / 16)], 1.0, 8) == "▌       "
    assert bar([(0, 3 / 64)], 1.0, 8) == "▍       "
    assert bar([(1 / 16, 1 / 4)], 1.0, 8) == "▐█      "
    assert bar([(0, 0.25), (0.75, 1)], 1.0, 8) == "██    ██"


def test_several_intervals_show_how_much_they_fill() -> None:
    """In a merged row, a cell is as high as its time was busy."""
    assert bar([(0, 1 / 16), (1 / 4, 1 / 2)], 1.0, 8) == "▄ ██    "
    assert bar([(n / 1000, (n + 0.25) / 1000) for n in range(1000)], 1.0, 8) == "▂" * 8


def test_waits_differ_from_work_without_colour() -> None:
    """Waits are shaded, work is solid, in plain ASCII too."""
    assert bar([(0, 0.5)], 1.0, 8, light=True) == "░░░░    "
    assert bar([(0, 0.5)], 1.0, 8, light=True, ascii_only=True) == "----    "
    assert bar([(0, 0.5)], 1.0, 8, ascii_only=True) == "####    "


@given(
    st.lists(
        st.tuples(st.floats(-1, 3), st.floats(-1, 3)).map(lambda pair: (min(pair), max(pair))), min_size=1
    ),
    st.floats(0, 2),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
)
def test_no_bar_is_invisible_or_too_long(
    spans: list[tuple[float, float]], length: float, width: int, light: bool, ascii_only: bool
) -> None:
    """Even an interval without length, or outside the scale, leaves a mark within the width."""
    drawn = bar(spans, length, width, light, ascii_only)
    assert cell_len(drawn) == width
    assert drawn.strip()


@given(st.floats(0, 1e7), st.integers(8, 200), st.booleans())
@example(75.0, 143, False)  # five seconds a tick, and labels of a minute and more
def test_the_axis_fits_and_its_labels_keep_apart(length: float, width: int, ascii_only: bool) -> None:
    """Labels and ruler have the width of the bars, and no label runs into the next."""
    labels, ruler = axis(length, width, ascii_only)
    assert cell_len(labels) == cell_len(ruler) == width
    assert labels.startswith("0")
    pieces = [piece for piece in labels.split("  ") if piece.strip()]
    assert all(len(piece.split()) in (1, 2, 4) for piece in pieces)


def test_the_axis_has_round_labels_above_its_ticks() -> None:
    """Ticks stand at round times, each under the beginning of its label."""
    labels, ruler = axis(2.0, 40)
    assert [at for at, glyph in enumerate(ruler) if glyph == "┬"] == [
        labels.index("500"),
        20,
        labels.index("1.5"),
    ]
    assert labels.split() == ["0", "500", "ms", "1", "s", "1.5", "s"]


# Waterfall


def test_waits_and_phases_share_one_scale_in_order_of_start() -> None:
    """Waits stand beside phases; what ran inside execution is indented below it."""
    names = [line.split("  ")[0] or "  " + line.split()[0] for line in chart(a_record())]
    assert names == ["queue_wait", "runner_wait", "execution", "  generate", "  reward", "post_wait"]


def test_rows_tell_when_and_how_long() -> None:
    """Each row ends in its start since the submission and its duration; wide ones in a share too."""
    generate = next(line for line in chart(a_record()) if "generate" in line)
    assert generate.split()[-4:] == ["+210", "ms", "400", "ms"]
    generate = next(line for line in chart(a_record(), 120) if "generate" in line)
    assert generate.split()[-6:] == ["+210", "ms", "400", "ms", "40.0", "%"]


def test_a_wait_ends_where_the_next_begins() -> None:
    """The derived waits and the execution tile the rollout without gap or overlap."""
    rows = {line.split()[0]: line for line in chart(a_record(), 120)}
    ends = {name: max(rows[name].rindex(glyph) for glyph in "░█" if glyph in rows[name]) for name in rows}
    starts = {name: min(rows[name].index(glyph) for glyph in "░█▐▕" if glyph in rows[name]) for name in rows}
    for before, after in (
        ("queue_wait", "runner_wait"),
        ("runner_wait", "execution"),
        ("execution", "post_wait"),
    ):
        assert abs(starts[after] - ends[before] - 1) <= 1


def test_a_retry_shows_both_of_its_runner_waits() -> None:
    """Where the gaps between executions add up to the wait, each gap is a row of its own."""
    runs = [(0.2, 0.3), (0.5, 0.7)]
    execution = [{"start_ts": BEGIN + start, "end_ts": BEGIN + end} for start, end in runs]
    record = a_record(phases={"execution": execution}, runner_wait_s=0.3)
    waits = [line for line in chart(record) if line.startswith("runner_wait")]
    assert [line.split()[-4:] for line in waits] == [["+100", "ms", "100", "ms"], ["+300", "ms", "200", "ms"]]


def test_a_wait_that_cannot_be_placed_gets_no_bar() -> None:
    """A sum that the stamps do not explain is shown as a sum, not as an invented interval."""
    wait = next(line for line in chart(a_record(runner_wait_s=0.07)) if line.startswith("runner_wait"))
    assert "does not say when" in wait
    assert wait.endswith("70.0 ms")
    assert "░" not in wait


def test_a_drop_in_the_queue_is_all_waiting() -> None:
    """A rollout that never ran has its wait over the whole scale."""
    record = a_record(
        status="dropped", rejection_reason="input_queue_full", phases={}, enqueue_ts=None,
        wait_return_ts=None, queue_wait_s=0.25, runner_wait_s=None, post_wait_s=None, total_s=0.25,
    )  # fmt: skip
    assert [line.split()[0] for line in chart(record)] == ["queue_wait"]
    text = rendered(view.waterfall(record))
    assert "dropped (input_queue_full)" in text
    assert "waiting 100.0 %" in text


def test_calls_side_by_side_are_siblings() -> None:
    """Of two tool calls at once, the short one is not indented below the long one."""
    calls = [{"start_ts": BEGIN + 0.3, "end_ts": BEGIN + end} for end in (0.6, 0.4)]
    record = a_record(phases=a_record()["phases"] | {"toolcall": calls, "generate": []}, toolcall_wall_s=0.3)
    assert [line.index("toolcall") for line in chart(record) if "toolcall" in line] == [2, 2]
    assert "toolcall in parallel" in rendered(view.waterfall(record | {"toolcall_s": 0.4}))


def test_many_intervals_are_merged_by_name() -> None:
    """An agent with hundreds of turns gets a row per phase, with their number and their sum."""
    turns = [
        {"start_ts": BEGIN + 0.2 + n / 1000, "end_ts": BEGIN + 0.2 + n / 1000 + 0.0005} for n in range(400)
    ]
    rows = chart(a_record(phases=a_record()["phases"] | {"generate": turns}))
    merged = next(line for line in rows if "generate" in line)
    assert len(rows) == 6
    assert "generate ×400" in merged  # noqa: RUF001
    assert merged.endswith("200 ms")


def test_too_many_names_leave_the_longest() -> None:
    """Where merging is not enough, waits and the longest phases stay and the rest is counted."""
    phases = {f"p{n}": [{"start_ts": BEGIN + 0.2, "end_ts": BEGIN + 0.2 + n / 1000}] for n in range(100)}
    rows = chart(a_record(phases=phases), max_rows=10)
    assert len(rows) == 11
    assert any(line.strip().startswith("p99 ") for line in rows)
    assert rows[-1] == "and 93 shorter ones"


def test_the_header_tells_who_and_how() -> None:
    """Session, trace, verdict, task, reward, versions, turns, tokens and steps are named where known."""
    text = rendered(
        view.waterfall(
            a_record(
                session_id="mine",
                status="failed",
                rejection_reason="workflow_exception",
                error_type="ValueError",
                group_id="g1",
                reward=0.25,
                weight_version_min=3,
                weight_version_max=5,
                turns=2,
                input_tokens=1200,
                output_tokens=34,
                links={"dispatch_step": 1, "consume_step": 2},
            )
        ),
        120,
    )
    for part in (
        "rollout mine", "trace   " + "ab" * 16, "failed (workflow_exception)", "error ValueError", "task 7",
        "group g1", "reward 0.25", "weight versions 3 to 5", "2 turns", "tokens 1,200 in / 34 out",
        "step 1 → 2",
    ):  # fmt: skip
        assert part in text
    assert "trace" not in rendered(view.waterfall(a_record()))


def test_an_open_rollout_is_drawn_to_its_end() -> None:
    """A phase without an end reaches as far as the scale does."""
    record = a_record(status="pending", phases={"execution": [{"start_ts": BEGIN + 0.5, "end_ts": None}]})
    execution = next(line for line in chart(record) if line.startswith("execution"))
    assert execution.split()[-4:] == ["+500", "ms", "500", "ms"]


HOSTILE = "\x1b[31m[red]a\nb\u202e[/red]\x9b" + "x" * 500


@pytest.mark.parametrize("width", [40, 80, 120])
def test_hostile_names_break_nothing(width: int) -> None:
    """Escapes, markup, line ends and endless names are shown as text within the width."""
    record = a_record(
        session_id=HOSTILE, task_id=HOSTILE, status=HOSTILE, rejection_reason=HOSTILE, error_type=HOSTILE,
        counters={HOSTILE: 1}, phases={HOSTILE: [{"start_ts": BEGIN, "end_ts": BEGIN + 1}]},
    )  # fmt: skip
    sessions = [record | {"age_s": 3.0, "host": HOSTILE, "pid": 1, "open_phases": [HOSTILE]}]
    for what in (view.waterfall(record), view.summary_table([record]), view.open_table(sessions)):
        text = rendered(what, width)
        assert not {"\x1b", "\x9b", "\u202e"} & set(text)
        assert all(cell_len(line) <= width for line in text.splitlines())
    assert "\\x1b[31m[red]a\\x0ab" in rendered(view.waterfall(record), 120)


def test_a_terminal_of_ascii_gets_ascii() -> None:
    """Where the encoding has no blocks, the waterfall is drawn with what it has."""
    text = rendered(view.waterfall(a_record(task_id="é", queue_wait_s=1e-5)), encoding="ascii")
    assert text.isascii()
    assert "####" in text
    assert "10.0 us" in text


def test_colours_follow_the_phase() -> None:
    """With colours, each bar has its phase's: yellow for waits, green for generation."""
    stream = io.StringIO()
    Console(file=stream, width=80, force_terminal=True, color_system="standard").print(
        view.waterfall(a_record())
    )
    lines = stream.getvalue().splitlines()
    assert "\x1b[33m░" in next(line for line in lines if "queue_wait" in line)
    assert "\x1b[32m" in next(line for line in lines if "generate" in line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
STAMP = st.one_of(st.floats(-1e10, 1e10), st.just(BEGIN), st.just(BEGIN + 1), JSON)
SPANS = st.lists(st.fixed_dictionaries({"start_ts": STAMP, "end_ts": STAMP}) | JSON, max_size=4)
FIELDS = [
    *a_record(),
    "links",
    "counters",
    "reward",
    "turns",
    "input_tokens",
    "weight_version_min",
    "x_wall_s",
]


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS), STAMP),
    st.one_of(JSON, st.dictionaries(st.sampled_from(["execution", "generate", "q"]) | st.text(), SPANS)),
    st.integers(30, 130),
)
def test_no_record_breaks_the_view(fields: dict[str, Any], phases: object, width: int) -> None:
    """Whatever a file holds under whatever name, table and waterfall appear, within the width."""
    record = fields | {"phases": phases}
    for what in (view.waterfall(record), view.summary_table([record, a_record()])):
        assert all(cell_len(line) <= width for line in rendered(what, width).splitlines())
