"""Where OTLP goes by the environment: what is wrong with an address, and what answers there."""

from __future__ import annotations

import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from rollspan import config, values
from rollspan.exporters.base import Delivered, Refused
from rollspan.exporters.otlp import DEFAULT_PROTOCOL, open_transport

CONNECT_TIMEOUT: Final = 2.0
ANSWER_TIMEOUT: Final = 5.0
SIGNALS: Final = {"traces": "TRACES", "records": "LOGS", "metrics": "METRICS"}
_SIGNAL_PATH: Final = re.compile(r"/v1/(traces|logs|metrics)/?$")
_NOT_ALLOWED: Final = re.compile(r"HTTP 40[13]\b|gRPC (UNAUTHENTICATED|PERMISSION_DENIED)\b")


class _Way(NamedTuple):
    """How one signal goes out: the variable that says where to ("" where none does), the address, over what."""

    signal: str
    variable: str
    address: str
    grpc: bool


def problem(name: str, address: str, *, grpc: bool, common: bool) -> str:
    """What the official exporters make nothing of in an address that `name` gives; "" where that is nothing.

    `common`: it is for all signals, whose paths are added to it.
    """
    if grpc:
        return ""  # host:port is an address there, and a path is not looked at
    said = f"{name}={values.without_user(address)}"
    if not address.lower().startswith(("http://", "https://")):
        right = f"http://{values.host_of(address)}"
        return f"{said}: expected http:// or https:// in front, such as {right}; only gRPC takes an address without"
    path = _SIGNAL_PATH.search(address)
    if path and common:
        own = f"OTEL_EXPORTER_OTLP_{path[1].upper()}_ENDPOINT"
        return f"{said}: leave off {path[0]}, each signal's path is added to it ({own} takes a whole address)"
    return ""


def grpc_is_meant(environ: Mapping[str, str], word: str = "") -> bool:
    """Whether the environment asks for gRPC, for the signal that its variables call `word` or for all."""
    names = (f"OTEL_EXPORTER_OTLP_{word}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    return next((text for name in names if (text := environ.get(name, "").strip())), "") == "grpc"


def examine(settings: config.Settings, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """For each signal that goes out by OTLP: where to, whether something listens there, and takes what is sent.

    That is found out by an empty request, with the headers and certificates that the run's would have.
    """
    ways = list(_ways(settings, environ))
    with ThreadPoolExecutor(len(SIGNALS)) as pool:
        return list(pool.map(_examined, ways))


def _examined(way: _Way) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "signal": way.signal,
        "endpoint": values.without_user(way.address),
        "reachable": None,
        "accepts": None,
        "lacks_signal": False,
        "error": "",
        "advice": "",
    }
    try:
        target = _target(way.address)
    except ValueError:
        return entry | {"reachable": False, "error": "expected an address such as http://host:4318"}
    if proxy := _proxy(way.address):
        return entry | {"error": f"by way of the proxy {proxy}; not tried"}
    if error := _connect(target):
        return entry | {"reachable": False, "error": error}
    return entry | {"reachable": True} | ({} if _wrong_with(way) else _tried(way))


def _tried(way: _Way) -> dict[str, Any]:
    word = SIGNALS[way.signal]
    transport = open_transport(word.lower(), "grpc" if way.grpc else DEFAULT_PROTOCOL, None)
    try:
        answer = transport.send(b"", list, ANSWER_TIMEOUT)
    finally:
        transport.close()
    if isinstance(answer, Delivered):
        return {"accepts": True}
    lacks = isinstance(answer, Refused) and answer.unsupported
    if lacks:
        advice = f"check the address; if it takes no {way.signal}, OTEL_{word}_EXPORTER=none sends it none"
    elif _NOT_ALLOWED.match(answer.reason):
        advice = (
            f"check OTEL_EXPORTER_OTLP_HEADERS, or OTEL_EXPORTER_OTLP_{word}_HEADERS: what it refuses is lost"
        )
    elif isinstance(answer, Refused):
        advice = "what it refuses is lost"
    elif way.signal == "metrics":
        advice = "a run tries again with each export"
    else:
        advice = "what a run records stays in its journal until this is mended"
    said = answer.reason.replace(way.address, values.without_user(way.address))
    return {"accepts": False, "lacks_signal": lacks, "error": said, "advice": advice}


def _wrong_with(way: _Way) -> str:
    if not way.variable:
        return ""
    return problem(way.variable, way.address, grpc=way.grpc, common=way.variable == config.COMMON_ENDPOINT)


def problems(
    settings: config.Settings, environ: Mapping[str, str], examined: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What is wrong with the addresses themselves, which of them do not answer, and which refuse."""
    wrong = dict.fromkeys(map(_wrong_with, _ways(settings, environ)))
    return [text for text in wrong if text] + [
        _does_not_take(each)
        if each["reachable"]
        else f"{each['signal']}: {each['endpoint']} does not answer: {each['error']}"
        for each in examined
        if each["reachable"] is False
        or (each["accepts"] is False and not _takes_traces_alone(each, examined))
    ]


def _does_not_take(each: Mapping[str, Any]) -> str:
    return f"{each['signal']}: {each['endpoint']} does not take an empty request: {each['error']}; {each['advice']}"


def _takes_traces_alone(each: Mapping[str, Any], examined: Sequence[Mapping[str, Any]]) -> bool:
    """Whether it is a backend for traces that lacks another signal, as Jaeger does."""
    return each["lacks_signal"] and any(
        other["accepts"] and other["signal"] == "traces" and other["endpoint"] == each["endpoint"]
        for other in examined
    )


def notes(
    settings: config.Settings, environ: Mapping[str, str], examined: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What is no fault of an address, and good to know."""
    found = [
        f"{way.variable}={values.without_user(way.address)} names no scheme, so gRPC speaks TLS to it; put http:// in "
        "front where the receiver does not."
        for way in _ways(settings, environ)
        if way.variable
        and way.grpc
        and "://" not in way.address
        and not _insecure(environ, SIGNALS[way.signal])
    ]
    found += [_does_not_take(each) for each in examined if _takes_traces_alone(each, examined)]
    return list(dict.fromkeys(found))


def _ways(settings: config.Settings, environ: Mapping[str, str]) -> Iterator[_Way]:
    for signal, word in SIGNALS.items():
        names = [name for name in getattr(settings, f"{signal}_exporters") if name.startswith("otlp")]
        if not names:
            continue
        grpc = names[0] == "otlp_proto_grpc" or (names[0] == "otlp" and grpc_is_meant(environ, word))
        for variable in (f"OTEL_EXPORTER_OTLP_{word}_ENDPOINT", config.COMMON_ENDPOINT):
            address = environ.get(variable, "").strip()
            if address:
                break
        else:
            variable, address = "", f"http://localhost:{4317 if grpc else 4318}"
        yield _Way(signal, variable, address, grpc)


def _insecure(environ: Mapping[str, str], word: str) -> bool:
    asked = (environ.get(f"OTEL_EXPORTER_OTLP_{part}INSECURE", "") for part in (f"{word}_", ""))
    return any(text.strip().lower() == "true" for text in asked)


def _target(address: str) -> tuple[str, int]:
    """Host and port. Raises: ValueError where there are none in it."""
    parts = urllib.parse.urlsplit(address if "://" in address else f"grpc://{address}")
    if not parts.hostname:
        raise ValueError(address)
    return parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme, 4317)


def _proxy(address: str) -> str | None:
    parts = urllib.parse.urlsplit(address)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    return values.without_user(proxy)


def _connect(target: tuple[str, int]) -> str | None:
    """Why no TCP connection came about, or None where one did."""
    try:
        with socket.create_connection(target, timeout=CONNECT_TIMEOUT):
            return None
    except (OSError, UnicodeError) as error:
        return str(error.strerror or error) if isinstance(error, OSError) else "no such host name"
