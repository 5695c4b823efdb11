"""The machinery of a process while rollspan is on: made at the first use, ended with the process."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import TracerProvider

from . import (
    config,
    exporters,
    health,
    joiner,
    lines,
    loading,
    owner,
    record,
    resource,
    semconv,
)
from .adoption import Adoption
from .attributes import fit
from .delivery import REST, ThreadedDelivery
from .journal import Journal
from .sampling import sampler_from_environment
from .worker import Worker

if TYPE_CHECKING:
    from .config import Settings
    from .machinery import OpenTrace

_ENDPOINT_VARIABLES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
)


def endpoints(settings: Settings) -> dict[str, str]:
    """Where this process's spans and records go, without secrets."""
    found = {name: os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)}
    if settings.endpoint:
        found["OTEL_EXPORTER_OTLP_ENDPOINT"] = settings.endpoint
    return found


_NEVER = object()


def _flush_provider(deadline: float) -> None:
    """In a child of multiprocessing: have a user's provider send what it holds, for no atexit handler of its does."""
    provider = otel_trace.get_tracer_provider()
    if multiprocessing.parent_process() is None or not isinstance(provider, TracerProvider):
        return
    flush = threading.Thread(target=provider.force_flush, name="rollspan-provider", daemon=True)
    flush.start()
    flush.join(max(deadline - time.monotonic(), 0.1))


class Runtime:
    """Everything that sessions share. Threads and files come with the first session, not before."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lock = threading.RLock()
        health.wait_for(self.lock)
        self.request_ids = itertools.count()
        common = {
            semconv.PHASE: semconv.SESSION,
            semconv.STATUS: semconv.PENDING,
            semconv.RANK: settings.rank,
            **({semconv.RUN_ID: settings.run_id} if settings.run_id else {}),
            **({semconv.ROLE: settings.role} if settings.role is not None else {}),
        }
        self.common = fit(common, settings.attribute_max_bytes)
        self.common_json = orjson.Fragment(orjson.dumps(self.common))
        self.live: dict[bytes, Any] = {}
        self.steps: dict[bytes, Any] = {}
        self.stretches: dict[bytes, Any] = {}
        self.abandoned = False
        self.sampler = sampler_from_environment()
        self._owner: owner.Owner | None = None
        self._worker: Worker | None = None
        self._adoption: Adoption | None = None
        self.journal = Journal(self.lock, self._open, wake=self._wake)
        self._attached: weakref.WeakSet[Any] = weakref.WeakSet()
        self._tracer_of: tuple[object, otel_trace.Tracer | None] = (_NEVER, None)

    # Starting, with the first line.

    def _open(self) -> list[Any]:
        """Make the journal's folders and start the worker; called by the journal with its first line."""
        settings = self.settings
        config.hand_on(settings, os.environ)
        described = resource.build_resource(settings)
        self._owner = owner.Owner(settings, owner.header_of(settings, described, endpoints(settings)))
        folders = self._owner.open()
        self._adoption = Adoption(settings, endpoints(settings), skip=self._owner.name)
        self._worker = Worker(
            self.journal,
            self.lock,
            self.live,
            is_open=lambda trace: trace in self.live or trace in self.steps or trace in self.stretches,
            keep_up=self._keep_up,
            build=lambda: self._build(described),
            further=lambda after: self._further(described, after),
            max_bytes=settings.journal_max_bytes,
            checkpoint_interval=settings.checkpoint_interval,
            disk=self._owner.disk,
            keep=settings.journal_keep,
            save_cursors=self._owner.save_cursors,
        )
        self._worker.start()
        return folders

    def _build(self, described: Mapping[str, Any]) -> tuple[list[ThreadedDelivery], Any]:
        assert self._adoption is not None
        with loading.lock:
            exporters.load(self.settings)
        self._adoption.start()
        deliveries = [
            ThreadedDelivery(
                e,
                described,
                self.journal,
                after=self._adoption.written if e.name == "file" else None,
                rest=REST if e.name.startswith("otlp.") else 0.0,
            )
            for e in exporters.build(self.settings)
        ]
        metrics = exporters.build_metrics(
            self.settings,
            described,
            open_sessions=lambda: len(self.live),
            health=lambda: {**health.counters(), **{f"queued.{d.name}": d.queued for d in deliveries}},
        )
        return deliveries, metrics

    def _further(self, described: Mapping[str, Any], after: int) -> list[ThreadedDelivery]:
        """What came to be wanted since; whoever recovers this process is told of it."""
        assert self._owner is not None
        self._owner.say(also=exporters.about_further())
        return [ThreadedDelivery(e, described, self.journal) for e in exporters.further(after)]

    def _wake(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    def _keep_up(self) -> None:
        """Write what was timed since the last time."""
        for work in [*self.steps.values(), *self.stretches.values()]:
            work.keep_up()

    def start(self) -> None:
        """Make files and threads before the first session looks at the clock: its time is not theirs."""
        if self._owner is None:
            with loading.lock:  # what describes this process is loaded with the journal
                self.journal.start()

    # What sessions ask.

    def tracer(self, attach: Callable[[TracerProvider], None] | None = None) -> otel_trace.Tracer | None:
        """The tracer of a user's SDK provider, looked up anew for each session, or None for light spans.

        For a session or step, which has an `attach`: this starts with the first, and a new provider is given to it.
        """
        known, tracer = self._tracer_of
        if known is getattr(
            otel_trace, "_TRACER_PROVIDER", self
        ):  # asking the API costs more than all else here
            return tracer
        if attach is not None:
            self.start()
        tracer = self._look_up_tracer(attach)
        if attach is not None and (tracer is not None or self.settings.spans != "sdk"):
            self._tracer_of = getattr(otel_trace, "_TRACER_PROVIDER", _NEVER), tracer
        return tracer

    def _look_up_tracer(self, attach: Callable[[TracerProvider], None] | None) -> otel_trace.Tracer | None:
        wanted = self.settings.spans
        if wanted == "light":
            return None
        provider = otel_trace.get_tracer_provider()
        if not isinstance(provider, TracerProvider):
            if wanted == "sdk":
                health.warn_once(
                    "config.no_provider",
                    "rollspan: ROLLSPAN_SPANS=sdk, but no SDK TracerProvider is set; light spans are used until one is",
                )
            return None
        if attach is not None and provider not in self._attached:
            self._attached.add(provider)
            attach(provider)
        from . import __version__  # noqa: PLC0415

        return provider.get_tracer(semconv.SCOPE_NAME, __version__)

    def profile(self, step: Any) -> Any:
        """torch's profile of a step, begun; None where it was not chosen."""
        if step not in self.settings.profile_steps:
            return None
        from .perf.profiler import Profile  # noqa: PLC0415

        return Profile(self.settings, f"step-{step}").__enter__()

    def only_open_step(self) -> Any:
        """The step that is open in this process, where there is just one: executors call from other threads."""
        steps = self.steps
        if len(steps) != 1:
            return None
        try:
            return next(iter(steps.values()))
        except (StopIteration, RuntimeError):  # ended meanwhile
            return None

    def root_sums(self, trace_hex: bytes, part: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a whole session, given as one journal line's object, came to: attributes for its root."""
        line = lines.frame(lines.ENDS, trace_hex, orjson.dumps(part))
        finished = joiner.finish(trace_hex, [line])
        return {} if finished is None or finished.record is None else record.root_attributes(finished.record)

    # Ending.

    def flush(self, timeout: float | None, only: str | None = None) -> bool:
        """See `rollspan.flush`; `only` names the one exporter to wait for."""
        health.speak()
        if self._worker is None or self.abandoned:
            return True
        return self._worker.flush(time.monotonic() + (30.0 if timeout is None else timeout), only)

    def wait_until_built(self) -> None:
        """Let the worker load what it needs while the interpreter can still load it."""
        if self._worker is not None and not self.abandoned:
            self._worker.built.wait(self.settings.exit_timeout)

    def close(self, timeout: float | None) -> bool:
        """See `rollspan.shutdown`."""
        if self.abandoned:
            return True
        deadline = time.monotonic() + (self.settings.exit_timeout if timeout is None else timeout)
        forgotten = sum(getattr(trace, "status", None) == semconv.PENDING for trace in self.live.values())
        if forgotten:
            health.count("sessions.without_verdict", forgotten)
            health.logger.warning(
                "rollspan: %d sessions had no verdict when the process ended; they are dropped as cancelled "
                "(mark_accepted, mark_rejected, mark_failed or mark_dropped gives one)",
                forgotten,
            )
        for trace in [*self.live.values(), *self.steps.values(), *self.stretches.values()]:
            self._end(trace)
        health.speak()
        with self.lock:
            self.abandoned = True
        delivered = True
        if self._worker is not None and self._owner is not None and self._adoption is not None:
            self._adoption.stop(deadline)
            delivered = self._worker.close(deadline)
            health.tell_losses()
            keep = self.settings.journal_keep
            self.journal.close(self._owner.disk if keep or not delivered else None)
            self._owner.close(delivered=delivered, keep=keep)
            if not delivered:
                health.logger.warning(
                    "rollspan: not everything was delivered; it lies in %s and goes out with the next start, or by "
                    "`rollspan recover %s`",
                    self._owner.lies_in(),
                    self.settings.dir,
                )
            self._adoption.join()
        _flush_provider(deadline)
        return delivered

    @staticmethod
    def _end(trace: OpenTrace) -> None:
        try:
            trace.abort(semconv.CANCELLED)
        except Exception:  # noqa: BLE001
            health.internal_error("runtime.close")

    def forked(self) -> Runtime:
        """In a forked child: leave the parent's files, locks and sessions alone; a runtime of the child's own."""
        self.abandoned = True
        for trace in [*self.live.values(), *self.steps.values(), *self.stretches.values()]:
            trace.bare = False  # their phases look whether they are the parent's
        self.lock = threading.RLock()
        health.wait_for(self.lock)
        self.journal.abandon(self.lock)
        if self._worker is not None:
            self._worker.abandon()
        return Runtime(self.settings)
