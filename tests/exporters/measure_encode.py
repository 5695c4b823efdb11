"""What encoding a session costs beside the stock encoder, in one interleaved run.

    python -m tests.exporters.measure_encode [rounds]

Both encode the same 128 sessions to bytes; the stock one is handed its SDK spans ready-made. Times are CPU
of this thread; ratios are of medians over the rounds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as stock_encode_spans

from rollspan.exporters.encode import encode_records, encode_spans
from rollspan.exporters.sdk_logs import sdk_logs
from rollspan.exporters.sdk_spans import sdk_spans

from .samples import RESOURCE, session

BATCH = 128


def main(rounds: int) -> None:
    """Print microseconds a session and the ratio, for spans and for records."""
    spent: dict[str, list[float]] = {}
    for round_ in range(rounds):
        traces = [session(round_ * BATCH + number) for number in range(BATCH)]  # new ids: no help from caches
        spans, logs = sdk_spans(traces, RESOURCE), sdk_logs(traces, RESOURCE)
        work: dict[str, Callable[[], object]] = {
            "spans, ours": lambda: encode_spans(traces, RESOURCE),  # noqa: B023 - called at once
            "spans, stock": lambda: stock_encode_spans(spans).SerializeToString(),  # noqa: B023
            "records, ours": lambda: encode_records(traces, RESOURCE),  # noqa: B023
            "records, stock": lambda: encode_logs(logs).SerializeToString(),  # noqa: B023
        }
        for name, encode in work.items():
            before = time.thread_time()
            encode()
            spent.setdefault(name, []).append((time.thread_time() - before) / BATCH * 1e6)
    median = {name: statistics.median(times) for name, times in spent.items()}
    for signal in ("spans", "records"):
        ours, stock = median[f"{signal}, ours"], median[f"{signal}, stock"]
        print(f"{signal:8} ours {ours:6.1f} us, stock {stock:6.1f} us a session: 1 / {stock / ours:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
