"""Draw a rollout's life: what each call begins and ends, and every way in which a rollout may end.

    python docs/images/life.py

It writes rollout-life.svg beside this file, for docs/rollouts.md. Times are places, not to scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

PICTURE = Path(__file__).with_name("rollout-life.svg")
WIDTH, HEIGHT = 1280, 588

SUBMITTED, HANDED_OVER, STARTED, ENDED, JUDGED, CONSUMED = 36, 266, 412, 892, 972, 1228
"""Where on the line of time each of these is."""
WAITS_AND_WORK, PHASES, SEGMENTS, CALLS, EXITS = 142, 196, 239, 278, 362
"""Where each row begins, from the top."""
BAR, CHIP, GAP = 38, 88, 14

COLOURS = {"accepted": "#1a7f37", "dropped": "#57606a", "rejected": "#9a6700", "failed": "#cf222e"}

STYLE = """\
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 13px; fill: #1f2328; }
.title { font-size: 20px; font-weight: 600; }
.code { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.small { font-size: 12px; fill: #57606a; }
.tiny { font-size: 11px; }
.bold { font-weight: 600; }
.light { fill: #ffffff; }
.middle { text-anchor: middle; }
.end { text-anchor: end; }
.lead { stroke: #8c959f; stroke-width: 1; stroke-dasharray: 3 3; fill: none; }"""

DEFS = """\
<pattern id="waiting" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="8" height="8" fill="#f0f2f5"/><rect width="2" height="8" fill="#d5dae0"/></pattern>
<pattern id="paused" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="6" height="6" fill="#fff1c2"/><rect width="2" height="6" fill="#e3b341"/></pattern>"""


def text(x: float, y: float, said: str, kinds: str = "") -> str:
    """One line of text, whose base is at `y`."""
    return f'<text x="{x}" y="{y}" class="{kinds}">{escape(said)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    """A rectangle."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" {more}/>'


def line(x: float, y: float, *further: tuple[float, float]) -> str:
    """A dotted line from one point over others."""
    return f'<path class="lead" d="M{x} {y}{"".join(f" L{a} {b}" for a, b in further)}"/>'


def leads_down(x: float, y: float, to: float) -> str:
    """The same with an arrow at its end: the way out."""
    return line(x, y, (x, to - 6)) + f'<path d="M{x - 4} {to - 7} h8 l-4 6 z" fill="#8c959f"/>'


def bar(begins: float, ends: float, y: float, name: str, fill: str, kinds: str, stroke: str = "none") -> str:
    """A wait or a phase, with its name in it."""
    rounded = f'rx="5" stroke="{stroke}"'
    return box(begins, y, ends - begins, BAR, fill, rounded) + text(
        (begins + ends) / 2, y + BAR / 2 + 4.5, name, f"code middle {kinds}"
    )


def moment(x: float, call: str, said: Sequence[str], *, to_the_left: bool = False) -> str:
    """What happens at a moment, above its line down to the bars."""
    at, end = (x - 8, " end") if to_the_left else (x + 8, "")
    words = [text(at, 88, call, "code bold" + end)]
    words += [text(at, 105 + 16 * i, row, "small" + end) for i, row in enumerate(said)]
    return line(x, 76, (x, WAITS_AND_WORK + BAR + 6)) + "".join(words)


def chip(x: float, y: float, width: float, status: str, reason: str, *said: str) -> str:
    """A way to end: the verdict, the reason, and when that is so."""
    colour = COLOURS[status]
    parts = [
        box(x, y, width, CHIP, "#ffffff", f'rx="6" stroke="{colour}" stroke-opacity="0.55"'),
        box(x, y + 8, 4, CHIP - 16, colour, 'rx="2"'),
        text(x + 14, y + 20, status, "bold").replace("<text", f'<text style="fill:{colour}"'),
        text(x + 14, y + 38, reason, "code bold"),
    ]
    parts += [text(x + 14, y + 57 + 16 * i, row, "small") for i, row in enumerate(said)]
    return "".join(parts)


def timeline() -> list[str]:
    """The moments, and the waits and phases between them."""
    y, phases = WAITS_AND_WORK, PHASES
    blue, violet, green = "#0969da", "#8250df", "#1a7f37"
    first = STARTED + 12
    cut, on, over = first + 84, first + 146, first + 224
    return [
        moment(SUBMITTED, "submit()", ["or prepare_batch(), rollout_batch():", "the session begins"]),
        moment(HANDED_OVER, "handed over", ["max_staleness", "lets it begin"]),
        moment(STARTED, "started", ["fewer than max_concurrent_rollouts", "rollouts run"]),
        moment(ENDED, "arun_episode() returns", ["or raises, or takes too long"], to_the_left=True),
        moment(JUDGED, "should_accept_fn", ["once its group", "is over: accepted"]),
        moment(CONSUMED, "wait()", ["or prepare_batch() ...", "gives it: consumed"], to_the_left=True),
        bar(SUBMITTED, HANDED_OVER, y, "queue_wait", "url(#waiting)", "", "#afb8c1"),
        bar(HANDED_OVER, STARTED, y, "runner_wait", "url(#waiting)", "", "#afb8c1"),
        bar(STARTED, ENDED, y, "execution", "#ddf4ff", "bold", "#54aeff"),
        bar(ENDED, CONSUMED, y, "post_wait", "url(#waiting)", "", "#afb8c1"),
        f'<circle cx="{CONSUMED}" cy="{y + BAR / 2}" r="11" fill="{green}"/>',
        f'<path d="M{CONSUMED - 5} {y + BAR / 2} l4 4 l7 -8" stroke="#ffffff" stroke-width="2.2" fill="none"/>',
        text(STARTED - 14, phases + 24, "phases", "small end"),
        bar(first, over, phases, "", blue, ""),
        box(cut, phases, on - cut, BAR, "url(#paused)"),
        text((first + cut) / 2, phases + 23.5, "generate", "code light middle"),
        bar(over + 8, over + 84, phases, "toolcall", violet, "light"),
        bar(over + 92, over + 168, phases, "generate", blue, "light"),
        bar(over + 176, ENDED - 10, phases, "reward", green, "light"),
        text(STARTED - 14, SEGMENTS + 13, "segments", "small end"),
        box(first, SEGMENTS, cut - first - 1, 19, "#b6e3ff", 'rx="3"'),
        text((first + cut) / 2, SEGMENTS + 13.5, "version 3", "tiny middle"),
        text((cut + on) / 2, SEGMENTS + 13.5, "paused", "tiny middle"),
        box(on, SEGMENTS, over - on, 19, "#80ccff", 'rx="3"'),
        text((on + over) / 2, SEGMENTS + 13.5, "version 4", "tiny middle"),
        text(first, CALLS, "agenerate()", "code small"),
        line((cut + on) / 2, SEGMENTS + 19, ((cut + on) / 2, CALLS + 12)),
        text(first, CALLS + 26, "update_weights()", "code small bold"),
        text(first + 126, CALLS + 26, "cuts generations off; they go on under new weights", "small"),
        text(over + 46, CALLS, 'phase("toolcall")', "code small middle"),
        text(ENDED - 10, CALLS, "AsyncReward", "code small end"),
    ]


def exits() -> list[str]:
    """How rollouts end that the trainer does not get, below where it happens."""
    y, below = EXITS, EXITS + CHIP + GAP
    bars, calls = WAITS_AND_WORK + BAR, CALLS + 36
    last = WIDTH - SUBMITTED - 132
    raised = "the workflow or should_accept_fn raised,", "or the trajectory is wrong"
    killed = (
        "before the verdict its process is killed: the next start, or",
        "rollspan recover, writes its record",
    )
    return [
        text(SUBMITTED + 24, y - 16, "Other ends, below where they come about", "small"),
        leads_down(SUBMITTED + 12, bars, y),
        leads_down(HANDED_OVER + 60, bars, y),
        leads_down(STARTED + 30, calls, y),
        leads_down(ENDED, bars + 6, y),
        leads_down(JUDGED, bars + 6, y),
        leads_down(last + 66, bars, y),
        chip(SUBMITTED, y, 180, "dropped", "input_queue_full", "the queue has no room,", 'when_full="drop"'),
        chip(230, y, 168, "dropped", "cancelled", "close(), while it waits", "or runs"),
        chip(STARTED, y, 276, "dropped", "timeout", "it took longer than rollout_timeout"),
        chip(702, y, 206, "rejected", "workflow_returned_none", "arun_episode() gave None"),
        chip(922, y, 176, "rejected", "should_accept_false", "it said no, of a group", "to all of it"),
        chip(last, y, 132, "dropped", "stale_weight", "too old, since", "set_version()"),
        chip(SUBMITTED, below, 362, "dropped", "process_died", *killed),
        chip(STARTED, below, 276, "failed", "workflow_exception", *raised),
        chip(922, below, 176, "dropped", "group_filtered", "of its group too few", "were good"),
        chip(last, below, 132, "accepted", "not consumed", "close(), before", "it was taken"),
    ]


def picture() -> str:
    """All of it, as SVG."""
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg" role="img" '
        'aria-label="A rollout from submission to the trainer, and how it may end on the way">',
        f"<style>\n{STYLE}\n</style>",
        f"<defs>\n{DEFS}\n</defs>",
        box(0.5, 0.5, WIDTH - 1, HEIGHT - 1, "#ffffff", 'rx="12" stroke="#d0d7de"'),
        text(SUBMITTED, 42, "A rollout, from submit() to the trainer", "title"),
        text(WIDTH - SUBMITTED, 42, "time goes to the right, not to scale", "small end"),
        *timeline(),
        *exits(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture())
