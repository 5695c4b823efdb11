"""The official OTLP exporters: made from OTEL_EXPORTER_OTLP_*, and their inner parts, which send our bytes.

They take no bytes by their public way. This is the only module that looks inside them; where a part is not
what version 1.45 has, the answer is None, and the caller uses their public `export`.
"""

# ruff: noqa: SLF001 - looking inside is what this module is for

from __future__ import annotations

import contextlib
import os
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

_CLASSES: Final = {
    "traces": ("trace_exporter", "OTLPSpanExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
}
_SIGNAL_PATH: Final = re.compile(r"/v1/(traces|logs|metrics)$")


def load(protocol: str, signal: str) -> Any:
    """The official exporter's class, with all that comes with loading it; arguments as for `make`."""
    module, name = _CLASSES[signal]
    return getattr(import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.{module}"), name)


def make(protocol: str, signal: str, endpoint: str | None) -> Any:
    """The official exporter of `signal` over `protocol` ("http" or "grpc"); connects to nothing yet.

    `endpoint` goes before the environment: for HTTP a base address, as OTEL_EXPORTER_OTLP_ENDPOINT is.
    Raises whatever the exporter raises for a wrong setting.
    """
    made = load(protocol, signal)
    if endpoint and protocol == "http":
        base = _SIGNAL_PATH.sub("", endpoint.rstrip("/")).rstrip("/")
        endpoint = f"{base if '://' in base else f'http://{base}'}/v1/{signal}"
    exporter = made(endpoint=endpoint)
    if protocol == "http":
        _ask_environment_once(exporter)
        _of_this_process.add(exporter)
    return exporter


_of_this_process: weakref.WeakSet[Any] = weakref.WeakSet()


def _free_connections() -> None:
    """In a forked child: make inherited connections' locks anew, which a thread of the parent's may have held.

    urllib3 wants them once more when the process ends, to close what is open.
    """
    for exporter in list(_of_this_process):
        with contextlib.suppress(AttributeError):  # built otherwise
            adapters = exporter._client._transport._session.adapters.values()
            for pool in {p for adapter in adapters for p in adapter.poolmanager.pools._container.values()}:
                pool.pool.__init__(pool.pool.maxsize)
    _of_this_process.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_connections)


def _ask_environment_once(exporter: Any) -> None:
    """Keep what requests reads from the environment (proxies, certificates), which it does for every request.

    That takes longer than the request itself. And OTEL_EXPORTER_OTLP_CERTIFICATE shall count where
    REQUESTS_CA_BUNDLE is set as well: requests lets its own variable beat the certificate of a session.
    """
    try:
        session = exporter._client._transport._session
        merge, certificate = session.merge_environment_settings, session.verify
    except AttributeError:
        return
    known: dict[Any, dict[str, Any]] = {}

    def merge_once(url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        if verify is None and isinstance(certificate, str):
            verify = certificate
        if proxies or cert:
            return merge(url, proxies, stream, verify, cert)
        if (url, stream, verify) not in known:
            known[url, stream, verify] = merge(url, proxies, stream, verify, cert)
        return dict(known[url, stream, verify])

    session.merge_environment_settings = merge_once


class HttpParts(NamedTuple):
    """What it takes to send a body over HTTP as the official exporter would."""

    request: Callable[..., Any]
    """(method, url, *, headers, data, timeout) -> an object with error, status_code, reason, headers(), content()"""
    url: str
    headers: Mapping[str, str]
    compress: Callable[[bytes], bytes]
    timeout: float
    total_timeout: bool
    """Whether `request` understands urllib3's `Timeout`, which bounds connecting and reading together."""


def http_parts(exporter: Any) -> HttpParts | None:
    """The parts of an OTLP/HTTP exporter, or None where it is built otherwise."""
    try:
        client = exporter._client
        transport = client._transport
        parts = HttpParts(
            transport.request,
            client._endpoint,
            client._headers,
            client._compress,
            client._timeout,
            type(transport).__name__ == "RequestsHTTPTransport",
        )
    except AttributeError:
        return None
    wanted = (Callable, str, Mapping, Callable, int | float, bool)
    return parts if _all(parts, wanted) else None


class GrpcParts(NamedTuple):
    """What it takes to make a call over gRPC as the official exporter would."""

    unary_unary: Callable[..., Any]
    address: str
    metadata: Sequence[tuple[str, str]]
    timeout: float
    retryable: frozenset[str]
    """Names of the status codes after which a repetition makes sense."""


def grpc_parts(exporter: Any) -> GrpcParts | None:
    """The parts of an OTLP/gRPC exporter, or None where it is built otherwise."""
    try:
        parts = GrpcParts(
            exporter._channel.unary_unary,
            exporter._endpoint,
            exporter._headers,
            exporter._timeout,
            frozenset(code.name for code in exporter._retryable_error_codes),
        )
    except (AttributeError, TypeError):
        return None
    return parts if _all(parts, (Callable, str, tuple, int | float, frozenset)) else None


def _all(values: Sequence[Any], types: Sequence[Any]) -> bool:
    return all(isinstance(value, kind) for value, kind in zip(values, types, strict=True))


def metric_preferences(exporter: Any) -> tuple[Any, Any]:
    """The temporality and aggregation that a metric exporter asks its reader for; None for the defaults."""
    return getattr(exporter, "_preferred_temporality", None), getattr(
        exporter, "_preferred_aggregation", None
    )
