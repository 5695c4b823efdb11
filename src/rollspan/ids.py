"""Trace and span ids from the operating system's randomness, never from the job's own generators."""

from __future__ import annotations

import os

from . import native

_BLOCK = 256  # ids made at a time: one system call for that many sessions
_GOLDEN = 0x9E3779B97F4A7C15  # odd, so that multiples of it are distinct modulo 2**64
_MASK64 = (1 << 64) - 1

_NONE = b"0" * 32

_pool: list[bytes] = []


def trace_hex() -> bytes:
    """A new trace id, never 0: 32 hex digits."""
    try:
        return _pool.pop()
    except IndexError:
        block = os.urandom(16 * _BLOCK).hex().encode()
        _pool.extend([each for i in range(0, len(block), 32) if (each := block[i : i + 32]) != _NONE])
        return trace_hex()


def span_id() -> int:
    """A new 64-bit span id, never 0, for a span outside its trace's own process."""
    return int(trace_hex()[16:], 16) or span_id()


def derived_span_id(trace: int, index: int) -> int:
    """The id of a trace's span number `index` (the root is 0): the same whenever it is derived again."""
    return ((trace ^ (trace >> 64)) + (index + 1) * _GOLDEN) & _MASK64 or 1


def derived_span_id_source(index: int) -> str:
    """Source of `derived_span_id`, where `seed` is one half of the trace's id `^` the other."""
    return f"(seed + {(index + 1) * _GOLDEN & _MASK64} & {_MASK64} or 1)"


def forget() -> None:
    """Drop ids made before a fork, so that parent and child never hand out the same ones."""
    _pool.clear()


native.works_with(ids=globals())
