"""`generate`: one span for each request to the inference server; what goes on after an abort is a continuation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from rollspan import clock, context, health, semconv, switch
from rollspan.instrumentation.patches import Patches
from rollspan.span import RolloutSpan

from . import session_events

_PROVIDERS = {"SGLangBackend": "sglang", "VLLMBackend": "vllm"}
_PROMPTS = ("input_ids", "prompt")
"""Where a request's payload has its tokens."""


class _Generation:
    """One call of `agenerate`, which goes on in a new request where an update of the weights aborted the last one."""

    __slots__ = ("_end", "_known", "_sent", "_span", "_version", "engine")

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self._span: RolloutSpan | None = None  # the last request's, answered and not yet described
        self._end = 0
        self._sent = 0
        self._known = 0  # output tokens of the requests before it
        self._version: Any = None

    @contextlib.contextmanager
    def request(self, payload: Any, address: Any) -> Iterator[None]:
        """A request is under way."""
        span = token = None
        try:
            sent = _tokens_in(payload)
            resumed = self._span is not None
            self._describe(sent - self._sent, "abort")
            self._sent = sent
            parent = context.current()
            if parent is not None:
                span = parent.owner.start_phase(semconv.GENERATE, self._said(address, resumed), parent)
            if span is not None:
                token = context.attach(span)
                session_events.made(semconv.GENERATE)
        except Exception:  # noqa: BLE001
            health.internal_error("areal.generate")
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            if span is not None:
                context.detach(token)
                self._answered(span, error)

    def _said(self, address: Any, resumed: bool) -> dict[str, Any]:
        backend = type(self.engine.backend).__name__
        said: dict[str, Any] = {"provider": _PROVIDERS.get(backend, backend)}
        if self._sent:
            said["input_tokens"] = self._sent
        host, _, port = str(address).rpartition(":")
        if host and port.isdigit():
            said["server.address"], said["server.port"] = host, int(port)
        if resumed:
            said["continuation"] = True
        return said

    def _answered(self, span: RolloutSpan, error: BaseException | None) -> None:
        if error is not None:
            span.fail(error)
            span.end()
            return
        self._span = span
        self._end = clock.monotonic_ns() + span.owner.offset
        self._version = self.engine.get_version()

    def _describe(self, produced: int, reason: str | None) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        produced = max(produced, 0)
        said = {"output_tokens": produced, "weight_version": self._version, "finish_reasons": reason}
        span.set_attributes({name: value for name, value in said.items() if value is not None})
        span.end(self._end)
        self._known += produced

    def close(self, response: Any) -> None:
        """It is over, with a response or without."""
        if response is None:
            if self._span is not None:
                self._span.end(self._end)
        else:
            self._describe(response.output_len - self._known, response.stop_reason)


_under_way: ContextVar[_Generation | None] = ContextVar("rollspan-areal-generation", default=None)


def wrap(patches: Patches, module: ModuleType, engine: type) -> None:
    """Follow `RemoteInfEngine.agenerate` and the requests that it makes."""

    def agenerate(inside: Callable[..., Any]) -> Callable[..., Any]:
        async def agenerate(self: Any, *args: Any, **kwargs: Any) -> Any:
            if switch.runtime() is None or context.current() is None:
                return await inside(self, *args, **kwargs)
            generation, response = _Generation(self), None
            token = _under_way.set(generation)
            try:
                response = await inside(self, *args, **kwargs)
                return response
            finally:
                _under_way.reset(token)
                try:
                    generation.close(response)
                except Exception:  # noqa: BLE001
                    health.internal_error("areal.generate")

        return agenerate

    def arequest_with_retry(inside: Callable[..., Any]) -> Callable[..., Any]:
        async def arequest_with_retry(*args: Any, **kwargs: Any) -> Any:
            generation = _under_way.get()
            if generation is None:  # not of a generation: weights, pauses
                return await inside(*args, **kwargs)
            with generation.request(kwargs.get("payload"), kwargs.get("addr")):
                return await inside(*args, **kwargs)

        return arequest_with_retry

    patches.wrap(engine, "agenerate", agenerate)
    patches.wrap(module, "arequest_with_retry", arequest_with_retry)


def _tokens_in(payload: Any) -> int:
    if isinstance(payload, dict):
        for name in _PROMPTS:
            if isinstance(payload.get(name), list):
                return len(payload[name])
    return 0
