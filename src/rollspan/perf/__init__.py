"""Timed scopes of training: spans of its steps, and a file for each rank that Perfetto opens."""

from rollspan.api import step

from .anchors import clock_anchor
from .categories import Category
from .scopes import atrace_scope, instant, save, trace_perf, trace_scope

__all__ = ["Category", "atrace_scope", "clock_anchor", "instant", "save", "step", "trace_perf", "trace_scope"]
