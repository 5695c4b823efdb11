"""Draw README's picture from the records of a run, and print the same as text.

    rollspan demo --out rollspan-demo
    python docs/images/make.py rollspan-demo

The rollout drawn is one that the trainer consumed, that called a tool between two turns, and that new weights
reached on its way; of those, the one that spent the greatest share of its life generating. Commit the picture,
and put the text into README.md.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console, RenderableType

from rollspan import view

PICTURE = Path(__file__).with_name("rollout.svg")
WIDTH = 92
# Rich's own frame refers to a font on a web server; a picture should need nothing but itself.
SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; font-weight: bold; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def chosen(records: list[view.Record]) -> view.Record:
    """The rollout that shows most of what there is to see. Raises ValueError where none will do."""
    fitting = [
        record
        for record in records
        if "wait_return_ts" in record
        and "toolcall" in record["phases"]
        and record["turns"] == 2
        and record["weight_version_min"] < record["weight_version_max"]
    ]
    return max(fitting, key=lambda record: record["generate_s"] / record["total_s"])


def draw(what: RenderableType, path: Path, title: str, width: int) -> None:
    """Save what a terminal would show as an SVG."""
    drawing = Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    drawing.print(what)
    drawing.save_svg(str(path), title=title, code_format=SVG, unique_id="rollspan")


def main(folder: str) -> None:
    """Write the picture of a run's best rollout; the text goes to standard output."""
    record = chosen(view.load(folder))
    picture = view.waterfall(record, WIDTH)
    draw(picture, PICTURE, "rollspan show", WIDTH)
    Console(width=WIDTH, color_system=None).print(picture)


if __name__ == "__main__":
    main(sys.argv[1])
