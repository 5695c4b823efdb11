"""Where OTLP goes by the environment: what is wrong with an address, and whether something listens there."""

from __future__ import annotations

import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rollspan import config

CONNECT_TIMEOUT: Final = 2.0
SIGNALS: Final = {"traces": "TRACES", "records": "LOGS", "metrics": "METRICS"}
_SIGNAL_PATH: Final = re.compile(r"/v1/(traces|logs|metrics)/?$")


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
    said = f"{name}={without_user(address)}"
    if not address.lower().startswith(("http://", "https://")):
        return (
            f"{said}: expected http:// or https:// in front, such as http://{_host_of(address)}; only gRPC takes an "
            "address without"
        )
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
    """For each signal that goes out by OTLP: where to, and whether something listens there."""
    found = []
    seen: dict[tuple[str, int], str | None] = {}
    for way in _ways(settings, environ):
        entry: dict[str, Any] = {"signal": way.signal, "endpoint": without_user(way.address)}
        try:
            target = _target(way.address)
        except ValueError:
            found.append(
                entry | {"reachable": False, "error": "expected an address such as http://host:4318"}
            )
            continue
        proxy = _proxy(way.address)
        if proxy:
            found.append(entry | {"reachable": None, "error": f"by way of the proxy {proxy}; not tried"})
            continue
        if target not in seen:
            seen[target] = _connect(target)
        found.append(entry | {"reachable": seen[target] is None, "error": seen[target] or ""})
    return found


def problems(
    settings: config.Settings, environ: Mapping[str, str], examined: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What is wrong with the addresses themselves, and which of them do not answer."""
    wrong = [
        problem(way.variable, way.address, grpc=way.grpc, common=way.variable == config.COMMON_ENDPOINT)
        for way in _ways(settings, environ)
        if way.variable
    ]
    return [text for text in dict.fromkeys(wrong) if text] + [
        f"{each['signal']}: {each['endpoint']} does not answer: {each['error']}"
        for each in examined
        if each["reachable"] is False
    ]


def notes(settings: config.Settings, environ: Mapping[str, str]) -> list[str]:
    """What is no fault of an address, and good to know."""
    found = [
        f"{way.variable}={without_user(way.address)} names no scheme, so gRPC speaks TLS to it; put http:// in "
        "front where the receiver does not."
        for way in _ways(settings, environ)
        if way.variable
        and way.grpc
        and "://" not in way.address
        and not _insecure(environ, SIGNALS[way.signal])
    ]
    return list(dict.fromkeys(found))


def without_user(address: str) -> str:
    """An address without the user and the password that may stand in it."""
    scheme = address.partition("://")[0] + "://" if "://" in address else ""
    return scheme + _host_of(address)


def _host_of(address: str) -> str:
    """An address without scheme, user and password."""
    authority, slash, path = address.rpartition("://")[2].partition("/")
    return authority.rpartition("@")[2] + slash + path


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
    return without_user(proxy)


def _connect(target: tuple[str, int]) -> str | None:
    """Why no TCP connection came about, or None where one did."""
    try:
        with socket.create_connection(target, timeout=CONNECT_TIMEOUT):
            return None
    except (OSError, UnicodeError) as error:
        return str(error.strerror or error) if isinstance(error, OSError) else "no such host name"
