"""What a person sees of records: the table of a run, the waterfall of one rollout.

The way of the data: `load` (files to records) -> `summary`, `find`, `slowest` (records to figures) ->
`summary_table`, `waterfall`, `open_table` (rich renderables, for any width, with colours or without).
"""

from __future__ import annotations

from rollspan.record import Record
from rollspan.view.chart import waterfall
from rollspan.view.figures import summary
from rollspan.view.files import load
from rollspan.view.opened import by_age, open_table
from rollspan.view.reading import find, slowest
from rollspan.view.table import summary_table
from rollspan.view.text import duration, safe

__all__ = [
    "Record",
    "by_age",
    "duration",
    "find",
    "load",
    "open_table",
    "safe",
    "slowest",
    "summary",
    "summary_table",
    "waterfall",
]
