"""A MeterProvider of our own and the ways by which its metrics leave. Never set as the global provider."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
from opentelemetry.sdk.resources import Resource

from rollspan import health
from rollspan.spandata import AttributeValue

from . import official, third_party
from .answers import Answer, TooLarge
from .base import Delivered, Refused, Retry
from .otlp import open_transport, protocol_of
from .quiet import caught_logs, untraced

_PROTOCOLS = {"otlp_proto_http": "http/protobuf", "otlp_proto_grpc": "grpc"}


class _Way(Protocol):
    name: str

    def exporter(self) -> Any: ...
    def send(self, data: MetricsData, timeout: float) -> Answer: ...
    def close(self) -> None: ...


class _Otlp:
    name = "otlp.metrics"

    def __init__(self, protocol: str, endpoint: str | None) -> None:
        self._transport = open_transport("metrics", protocol, endpoint)

    def exporter(self) -> Any:
        return self._transport.exporter()

    def send(self, data: MetricsData, timeout: float) -> Answer:
        return self._transport.send(encode_metrics(data).SerializeToString(), lambda: data, timeout)

    def close(self) -> None:
        self._transport.close()


class _ThirdParty:
    def __init__(self, name: str) -> None:
        self.name = f"{name}.metrics"
        self._exporter: Any = third_party.find(name, "metrics").load()()

    def exporter(self) -> Any:
        return self._exporter

    def send(self, data: MetricsData, timeout: float) -> Answer:
        with untraced(), caught_logs() as said:
            result = self._exporter.export(data, timeout_millis=timeout * 1000)
        if getattr(result, "name", "") == "SUCCESS":
            return Delivered()
        return Retry(said[-1] if said else "the exporter failed")

    def close(self) -> None:
        self._exporter.shutdown()


class _Reader(MetricReader):
    """Collects when it is told to, and keeps what it collected."""

    def __init__(self, way: _Way) -> None:
        temporality, aggregation = official.metric_preferences(way.exporter())
        super().__init__(preferred_temporality=temporality, preferred_aggregation=aggregation)
        self.way = way
        self.off = False
        self._collected: MetricsData | None = None

    def take(self) -> MetricsData | None:
        """What the last `collect` brought, once."""
        collected, self._collected = self._collected, None
        return collected

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        self._collected = metrics_data

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing: the way is closed by whoever opened it."""


class Pipeline:
    """The provider and one reader for each exporter."""

    def __init__(
        self, names: Sequence[str], resource: Mapping[str, AttributeValue], endpoint: str | None
    ) -> None:
        """A name that is not known, or whose exporter cannot be made, is reported once and left out."""
        self._readers: list[_Reader] = []
        pulled: list[MetricReader] = []
        for name in names:
            try:
                way = _way(name, endpoint)
                made = way.exporter()
                if isinstance(made, MetricReader):  # such as Prometheus's, which is asked from outside
                    pulled.append(made)
                else:
                    self._readers.append(_Reader(way))
            except Exception as error:  # noqa: BLE001 - a wrong setting, or somebody else's constructor
                health.warn_once(
                    f"exporters.metrics.{name}",
                    "rollspan: no metrics to %r: %s",
                    name,
                    str(error) or type(error),
                )
        self.empty = not self._readers and not pulled
        self.provider = MeterProvider(
            [*self._readers, *pulled], Resource(dict(resource)), shutdown_on_exit=False
        )

    def export(self, timeout: float) -> bool:
        """Collect and send to each exporter, one attempt each; whether all of it was delivered."""
        deadline = time.monotonic() + timeout
        everything = True
        for reader in self._readers:
            if reader.off:
                continue
            left = max(deadline - time.monotonic(), 0.001)
            reader.collect(timeout_millis=left * 1000)
            if (collected := reader.take()) is not None:
                answer = reader.way.send(collected, max(deadline - time.monotonic(), 0.001))
                everything &= _settle(reader, answer)
        return everything

    def close(self) -> None:
        """Shut the provider down and let go of connections."""
        try:
            self.provider.shutdown()
            for reader in self._readers:
                reader.way.close()
        except Exception:  # noqa: BLE001 - somebody else's exporter, and over
            health.count("exporters.shutdown_failed")


def _way(name: str, endpoint: str | None) -> _Way:
    if name == "otlp" or name in _PROTOCOLS:
        return _Otlp(_PROTOCOLS.get(name) or protocol_of("metrics"), endpoint)
    return _ThirdParty(name)


def _settle(reader: _Reader, answer: Answer) -> bool:
    """Count and report the answer; a failure is made good by the next export, where sums are cumulative."""
    name = reader.way.name
    if isinstance(answer, Delivered):
        return True
    if isinstance(answer, Refused) and answer.unsupported:
        reader.off = True
        health.warn_once(f"off.{name}", "rollspan: %s is switched off (%s)", name, answer.reason)
        return True
    if isinstance(answer, Refused | TooLarge):
        health.lost(name, 1, "refused", answer.reason)
    else:
        health.count(f"retries.{name}")
    health.warn_once(f"unreachable.{name}", "rollspan: %s cannot deliver (%s)", name, answer.reason)
    return False
