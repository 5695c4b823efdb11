"""AReaL's `PerfTracer`: scopes by `rollspan.perf`, and their file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from rollspan import health, perf, stretches, switch
from rollspan.exporters.lockedfile import HeldByAnotherError
from rollspan.null import NULL
from rollspan.perf.categories import CategoryLike
from rollspan.perf.scopes import GLOBAL_STEP, step_number
from rollspan.values import numbers

from . import configs, files, profile
from .chrome import ChromeEvents
from .files import Output
from .paths import PERF, SESSIONS, file_of
from .session_tracer import SessionTracer, SessionTracer539
from .turning_on import turn_on


class _Tracer:
    """What both versions have."""

    def __init__(self, config: Any, rank: int, role: str | None) -> None:
        configs.check(config, rank, role)
        self._config = config
        self._rank = rank
        self._role = role
        self._pid = os.getpid()
        self._enabled = bool(config.enabled)
        self._save_interval = max(config.save_interval, 1)
        self._profile_steps = _steps(getattr(config, "profile_steps", None))
        self._events = ChromeEvents(rank, role)
        self._output = Output(file_of(config, PERF, rank, role), self._events)
        self._lanes: dict[tuple[int, int], int] = {}
        self._is_open = False
        self._session_tracer: Any = None
        if configs.traces_sessions(config):
            turn_on(config, rank, role)
            self._session_tracer = self._make_session_tracer(config.session_tracer)
        self._open()

    def _make_session_tracer(self, config: Any) -> Any:
        raise NotImplementedError

    def _open(self) -> None:
        if self._enabled and not self._is_open:
            turn_on(self._config, self._rank, self._role)
            self._output.open()
            self._is_open = True

    @property
    def enabled(self) -> bool:
        """Whether scopes are recorded."""
        return self._enabled

    def set_enabled(self, flag: bool) -> None:
        """Record scopes, or no longer."""
        self._enabled = flag
        self._open()

    def _scope(
        self, name: str, category: CategoryLike, args: Any, profiled: bool = False, how: Any = None
    ) -> Any:
        if not self._enabled:
            return NULL
        return perf.trace_scope(
            name,
            category=category,
            args=args,
            enable_profiler=profiled and self._is_chosen(args),
            profiler_args=how,
        )

    def _is_chosen(self, args: Any) -> bool:
        """Whether AReaL's configuration names the step that this is in. The arguments come first, as there."""
        said = args if isinstance(args, Mapping) else {}
        number = said.get(GLOBAL_STEP, step_number(said) if switch.runtime() is not None else None)
        return number in self._profile_steps

    def instant(
        self, name: str, *, category: CategoryLike = None, args: dict[str, Any] | None = None
    ) -> None:
        """A moment."""
        if self._enabled:
            perf.instant(name, category=category, args=args)

    def merge_profiler_trace(
        self, profiler_traces: Any, base_time_ns: int, *, args: dict[str, Any] | None = None
    ) -> None:
        """Put a profile of torch's, which began at `base_time_ns` by `time.perf_counter_ns`, into the file."""
        if not self._enabled:
            return
        began = time.time_ns() - (time.perf_counter_ns() - base_time_ns)
        events = profile.merged(
            profiler_traces,
            start_us=(began - self._events.origin_ns) / 1000,
            pid=self._pid,
            who=self._events.who,
            lanes=self._lanes,
        )
        self._append(list(events))

    def _append(self, events: list[Any]) -> None:
        try:
            self._output.append(events, patience=0.1)
        except (OSError, HeldByAnotherError) as error:
            health.warn_once("compat.areal.profile", "rollspan: a profile was not written: %s", error)
        except Exception:  # noqa: BLE001
            health.internal_error("compat.areal.profile")

    def save(self, *, step: int | None = None, force: bool = False) -> None:
        """The trainer's step is over. All of it is in the file now with `force`, and every `save_interval` steps."""
        try:
            due = force or step is None or (step + 1) % self._save_interval == 0
            if self._enabled:
                perf.save()
                runtime = switch.runtime()
                if due and runtime is not None:
                    stretches.end_idle(runtime)
            if (due and self._enabled) or (force and self._session_tracer is not None):
                files.wait()
        except Exception:  # noqa: BLE001
            health.internal_error("compat.areal.save")

    def reset(self) -> None:
        """Write what there is, cancel open sessions, and begin anew, as configured."""
        self.save(force=True)
        if self._session_tracer is not None:
            self._session_tracer.reset()
        self._events.begin()
        self._enabled = bool(self._config.enabled)
        self._save_interval = max(self._config.save_interval, 1)

    def close(self) -> None:
        """Write no more to its files."""
        self._output.close()
        self._is_open = False
        if self._session_tracer is not None:
            self._session_tracer.close()


class PerfTracer(_Tracer):
    """Of AReaL 1.0.4."""

    def __init__(self, config: Any, *, rank: int, role: str | None = None) -> None:
        super().__init__(config, rank, role)

    def _make_session_tracer(self, config: Any) -> SessionTracer:
        path = file_of(self._config, SESSIONS, self._rank, self._role)
        return SessionTracer(config, output_path=str(path), rank=self._rank, role=self._role)

    @property
    def session_tracer(self) -> SessionTracer | None:
        """The tracer of sessions, where the configuration turns it on."""
        return self._session_tracer  # type: ignore[no-any-return]

    def trace_scope(
        self,
        name: str,
        *,
        category: CategoryLike = None,
        enable_profiler: bool = False,
        profiler_args: dict[str, Any] | None = None,
        args: dict[str, Any] | None = None,
    ) -> Any:
        """A timed scope, see `rollspan.perf.trace_scope`."""
        return self._scope(name, category, args, enable_profiler, profiler_args)

    atrace_scope = trace_scope


class PerfTracer539(_Tracer):
    """Of pull request 539."""

    def __init__(self, config: Any, *, rank: int) -> None:
        super().__init__(config, rank, None)

    def _make_session_tracer(self, config: Any) -> SessionTracer539:
        path = file_of(self._config, SESSIONS, self._rank)
        return SessionTracer539(config, output_path=str(path), rank=self._rank)

    @property
    def session_tracer(self) -> SessionTracer539 | None:
        """The tracer of sessions, where the configuration turns it on."""
        return self._session_tracer  # type: ignore[no-any-return]

    def trace_scope(
        self, name: str, *, category: CategoryLike = None, args: dict[str, Any] | None = None
    ) -> Any:
        """A timed scope, see `rollspan.perf.trace_scope`."""
        return self._scope(name, category, args)

    atrace_scope = trace_scope


def _steps(given: Any) -> tuple[int, ...]:
    try:
        return numbers(given or ())
    except ValueError as expected:
        health.warn_once("compat.areal.steps", "rollspan: profile_steps=%r: expected %s", given, expected)
        return ()
