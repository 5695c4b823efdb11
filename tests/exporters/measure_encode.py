"""What encoding a session costs beside the stock encoder, in one interleaved run.

    python -m tests.exporters.measure_encode [rounds]

All encode the same 128 sessions to bytes. The stock encoder is measured twice: handed its SDK objects
ready-made, and with the making of these from our spans, which is what using it would take. Times are CPU of
this thread; ratios are of medians over the rounds.
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
from rollspan.finished import FinishedTrace

from .samples import RESOURCE, session

BATCH = 128


def encoders(traces: list[FinishedTrace]) -> dict[str, Callable[[], object]]:
    """What is compared, by name, each ready to be called."""
    spans, logs = sdk_spans(traces, RESOURCE), sdk_logs(traces, RESOURCE)
    return {
        "spans, ours": lambda: encode_spans(traces, RESOURCE),
        "spans, stock": lambda: stock_encode_spans(spans).SerializeToString(),
        "spans, stock with objects": lambda: stock_encode_spans(
            sdk_spans(traces, RESOURCE)
        ).SerializeToString(),
        "records, ours": lambda: encode_records(traces, RESOURCE),
        "records, stock": lambda: encode_logs(logs).SerializeToString(),
        "records, stock with objects": lambda: encode_logs(sdk_logs(traces, RESOURCE)).SerializeToString(),
    }


def main(rounds: int) -> None:
    """Print microseconds a session and ratios."""
    spent: dict[str, list[float]] = {}
    for round_ in range(rounds):
        # New sessions in each round: what one has taught the caches, ids and numbers of the next do not use.
        for name, encode in encoders([session(round_ * BATCH + n) for n in range(BATCH)]).items():
            before = time.thread_time()
            encode()
            spent.setdefault(name, []).append((time.thread_time() - before) / BATCH * 1e6)
    median = {name: statistics.median(times) for name, times in spent.items()}
    for name, cost in median.items():
        ours = median[f"{name.partition(',')[0]}, ours"]
        print(f"{name:28} {cost:6.1f} us a session, {cost / ours:4.1f} times ours")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
