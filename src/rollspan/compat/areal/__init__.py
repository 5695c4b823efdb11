"""AReaL's tracer, on rollspan: `perf_tracer` and `perf_tracer_539` in the place of `areal.utils.perf_tracer`."""

from .installing import install

__all__ = ["install"]
