"""One rollout in the terminal: what it waited for and what it did, to scale."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from rollspan import semconv
from rollspan.record import Record
from rollspan.view.bars import TIMES, axis, bar, encodable
from rollspan.view.figures import WAIT_ORDER, steps_of
from rollspan.view.reading import label, total, verdict
from rollspan.view.text import count, duration, number, plain, safe, share
from rollspan.view.tree import Row, rows

_PHASE_STYLES = {
    semconv.QUEUE_WAIT: "yellow",
    semconv.RUNNER_WAIT: "yellow",
    semconv.POST_WAIT: "yellow",
    semconv.EXECUTION: "blue",
    semconv.GENERATE: "green",
    semconv.TOOLCALL: "cyan",
    semconv.REWARD: "magenta",
}
_OTHER_STYLES = ("bright_blue", "bright_magenta", "bright_cyan", "bright_green", "bright_red")
_STATUS_STYLES = {
    semconv.ACCEPTED: "green",
    semconv.REJECTED: "yellow",
    semconv.FAILED: "red",
    semconv.DROPPED: "magenta",
    semconv.PENDING: "cyan",
}
_MAX_INDENT = 5
_NARROW, _WIDE = 60, 100


def waterfall(record: Record, width: int | None = None, max_rows: int = 40) -> Waterfall:
    """One rollout as bars on a common scale, waits beside phases; `width` cells, else the console's.

    Phases are indented below those that contain them in time: a record does not say whose child a
    phase was. More than `max_rows` intervals are shown merged by name.
    """
    return Waterfall(record, width, max_rows)


def status_style(status: str) -> str:
    """The rich style of a status."""
    return _STATUS_STYLES.get(status, "")


def phase_style(name: str) -> str:
    """The rich style of a phase or wait: the same in each run for names of the user's own."""
    known = _PHASE_STYLES.get(name)
    return known or _OTHER_STYLES[zlib.crc32(name.encode("utf-8", "replace")) % len(_OTHER_STYLES)]


class Waterfall:
    """A rich renderable, see `waterfall`."""

    def __init__(self, record: Record, width: int | None = None, max_rows: int = 40) -> None:
        self._record, self._width, self._max_rows = record, width, max_rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(30, min(self._width or options.max_width, options.max_width))
        lines = [*_header(self._record, width), Text(), *self._chart(width, options.ascii_only)]
        lines += [Text(), *_footer(self._record, width)]
        for line in lines:
            text = _to_ascii(line) if options.ascii_only else line
            text.rstrip()
            text.truncate(width, overflow="crop")
            text.no_wrap = True
            yield text

    def _chart(self, width: int, ascii_only: bool) -> list[Text]:
        length = total(self._record)
        shown, left_out = rows(self._record, self._max_rows)
        if not shown:
            return [Text("neither waits nor phases are in this record", style="dim")]
        times = [encodable(duration(row.seconds), ascii_only) for row in shown]
        begins = ["" if not row.spans else "+" + encodable(duration(row.start), ascii_only) for row in shown]
        shares = [share(row.seconds, length) for row in shown]
        columns = [(times, "time")]
        if width >= _NARROW:
            columns.insert(0, (begins, "start"))
        if width >= _WIDE:
            columns.append((shares, "share"))
        # Names take a third at most; the bars get what is left.
        name_width = min(max(cell_len(_name(row, 40)) for row in shown), max(10, min(width // 3, 30)))
        widths = [max(map(len, [*texts, title])) for texts, title in columns]
        bar_width = max(8, width - name_width - 2 - sum(widths) - 2 * len(widths))
        labels, ruler = axis(length, bar_width, ascii_only)

        def line(name: Text, middle: Text, right: Iterable[str], style: str = "") -> Text:
            name.truncate(name_width, overflow="ellipsis", pad=True)
            text = Text.assemble(name, "  ", middle)
            for value, column in zip(right, widths, strict=True):
                text.append("  " + value.rjust(column), style)
            return text

        titles = [title for _, title in columns]
        result = [
            line(Text(), Text(labels, "dim"), titles, "dim"),
            line(Text(), Text(ruler, "dim"), [""] * len(columns)),
        ]
        for at, row in enumerate(shown):
            style = phase_style(row.name)
            if row.spans:
                drawn = Text(bar(row.spans, length, bar_width, row.is_wait, ascii_only), style)
            else:
                drawn = Text("(the record does not say when)"[:bar_width].ljust(bar_width), "dim")
            name = Text(_name(row, name_width), "italic" if row.is_wait else "")
            result.append(line(name, drawn, [texts[at] for texts, _ in columns]))
        if left_out:
            result.append(Text(f"and {count(left_out)} shorter ones", "dim"))
        return result


def _name(row: Row, width: int) -> str:
    indent = "  " * min(row.depth, _MAX_INDENT)
    times = f" {TIMES}{count(len(row.spans))}" if len(row.spans) > 1 else ""
    return indent + safe(row.name, max(4, width - len(indent) - len(times))) + times


def _header(record: Record, width: int) -> list[Text]:
    status, reason = verdict(record)
    title = Text.assemble(("rollout ", "bold"), (label(record, width - 8), "bold"))
    lines = [title]
    trace_id = record.get("trace_id")
    if trace_id is not None and trace_id != record.get("session_id"):
        lines.append(Text.assemble(("trace   ", "dim"), safe(trace_id, width - 8)))
    state = Text(safe(status, 20), f"bold {status_style(status)}")
    if reason:
        state.append(f" ({safe(reason, 40)})", status_style(status))
    facts = [state]
    if status == semconv.ACCEPTED:
        facts.append(Text("consumed" if "wait_return_ts" in record else "not consumed"))
    if (error := record.get("error_type")) is not None:
        facts.append(_fact("error", error))
    facts += [
        _fact(name, record[key])
        for name, key in (
            ("task", "task_id"),
            ("group", "group_id"),
            ("workflow", "workflow"),
            ("role", "role"),
            ("rank", "rank"),
            ("request", "request_id"),
        )
        if record.get(key) is not None
    ]
    dispatch, consume = steps_of(record)
    if dispatch is not None or consume is not None:
        facts.append(_fact("step", " → ".join(str(step) for step in (dispatch, consume) if step is not None)))
    lines += _flowing(facts, width)
    outcome = []
    if (reward := record.get("reward")) is not None:
        outcome.append(_fact("reward", plain(reward) if isinstance(reward, float) else reward))
    low, high = (number(record, f"weight_version_{end}") for end in ("min", "max"))
    if low is not None and high is not None:
        many = f" {low:.0f}" if low == high else f"s {low:.0f} to {high:.0f}"
        outcome.append(Text(f"weight version{many}"))
    if (turns := number(record, "turns")) is not None:
        outcome.append(Text(f"{count(turns)} turn{'' if turns == 1 else 's'}"))
    tokens = [
        f"{count(value)} {name}"
        for name, key in (("in", "input_tokens"), ("out", "output_tokens"))
        if (value := number(record, key)) is not None
    ]
    if tokens:
        outcome.append(Text("tokens " + " / ".join(tokens)))
    return lines + _flowing(outcome, width)


def _footer(record: Record, width: int) -> list[Text]:
    length = total(record)
    facts = [Text.assemble("total ", (duration(length), "bold"))]
    waited = sum(number(record, f"{name}_s") or 0.0 for name in WAIT_ORDER)
    if waited > 0:
        facts.append(Text(f"waiting {share(waited, length)}"))
    if (rest := number(record, "unattributed_s")) is not None:
        facts.append(Text(f"unattributed {duration(rest)} ({share(rest, length) or '0.0 %'})"))
    for key in record:
        wall, summed = number(record, key), number(record, key.replace("_wall_s", "_s"))
        if key.endswith("_wall_s") and wall is not None and summed is not None and len(facts) < 6:
            name = safe(key.removesuffix("_wall_s"), 24)
            facts.append(Text(f"{name} in parallel: {duration(summed)} of work in {duration(wall)}"))
    if late := number(record, "late_spans"):
        facts.append(Text(f"{count(late)} still open at the end, cut there"))
    counters = record.get("counters")
    for name, value in list(counters.items())[:8] if isinstance(counters, dict) else ():
        facts.append(_fact(safe(name, 24), value))
    return _flowing(facts, width)


def _fact(name: str, value: object) -> Text:
    return Text.assemble((f"{name} ", "dim"), safe(value, 40))


def _flowing(facts: Iterable[Text], width: int) -> list[Text]:
    """The facts with dots between them, broken between facts only."""
    lines: list[Text] = []
    for fact in facts:
        if lines and lines[-1].cell_len + 3 + fact.cell_len <= width:
            lines[-1].append(" · ", "dim")
            lines[-1].append_text(fact)
        else:
            lines.append(Text().append_text(fact))
    return lines


def _to_ascii(text: Text) -> Text:
    result = Text()
    for piece in text.divide(sorted({at for span in text.spans for at in (span.start, span.end)})):
        result.append(encodable(piece.plain, True), piece.spans[0].style if piece.spans else "")
    return result
