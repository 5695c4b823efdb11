"""The demo against the real Collector and Jaeger: what they show is what was recorded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.backends.comparing import assert_jaeger_has, by_id, kept, resources
from tests.backends.services import Collector, Jaeger, wait_until
from tests.conftest import CLEAN
from tests.faults.jobs import in_file

SERVICE = "demo"


@pytest.fixture(scope="module")
def out(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the demo that sends everything to the Collector."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(
        [sys.executable, "-m", "rollspan.cli.main", "demo", "--steps", "12", "--out", str(out)],
        env={**CLEAN, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_SERVICE_NAME": SERVICE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return out


def test_jaeger_shows_every_span_as_it_was_recorded(out: Path, jaeger: Jaeger) -> None:
    """Ids, names, kinds, parents, links, attributes, statuses and nanoseconds are those of the kept journal."""
    expected = kept(out)
    assert len(expected) == len(in_file(out)) + 12  # the sessions and the steps
    assert_jaeger_has(jaeger, expected, SERVICE)
    assert any(span.links for spans in expected.values() for span in spans)


def test_jaeger_shows_the_process_that_recorded(out: Path, jaeger: Jaeger) -> None:
    """The resource of every trace is that of the one process which recorded it."""
    (resource,) = resources(out)
    wanted = {name: str(value) for name, value in resource.items()}
    groups = [group for answer in jaeger.answers(SERVICE) for group in answer["resourceSpans"]]
    assert groups
    for group in groups:
        shown = {a["key"]: str(*a["value"].values()) for a in group["resource"]["attributes"]}
        assert shown == wanted


def test_the_collectors_records_are_those_of_the_file(out: Path, collector: Collector) -> None:
    """Every record arrives as a log event and equals its line in the file, field for field."""
    expected = by_id(in_file(out))
    wait_until(lambda: len(collector.records()) >= len(expected), "every record to reach the Collector")
    assert by_id(collector.records()) == expected


def test_folding_the_collectors_traces_gives_the_records(out: Path, collector: Collector) -> None:
    """`rollspan fold` on the file of traces that the Collector wrote gives the same records again."""
    expected = by_id(in_file(out))
    done = subprocess.run(
        [sys.executable, "-m", "rollspan.cli.main", "fold", str(collector.traces_file)],
        env=CLEAN,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert by_id(map(json.loads, done.stdout.splitlines())) == expected


def test_durations_become_metrics_by_phase(out: Path, collector: Collector) -> None:
    """The Collector counts each phase's spans in a histogram, to be scraped by Prometheus."""
    expected = Counter(span.name for spans in kept(out).values() for span in spans)

    def counted() -> dict[str, int]:
        found: Counter[str] = Counter()
        for labels, value in re.findall(
            r"^traces_span_metrics_duration_seconds_count\{(.*)\} (\S+)$", collector.metrics(), re.MULTILINE
        ):
            found[dict(re.findall(r'(\w+)="([^"]*)"', labels))["span_name"]] += int(float(value))
        return dict(found)

    wait_until(lambda: counted() == expected, f"the metrics to say {dict(expected)}, not {counted()}")


def test_the_plugins_own_metrics_are_scraped_too(out: Path, collector: Collector) -> None:
    """Sessions by status, as rollspan's own metrics count them, agree with the file."""
    expected = Counter(record["status"] for record in in_file(out))

    def counted() -> dict[str, int]:
        found: Counter[str] = Counter()
        for labels, value in re.findall(
            r"^rollout_sessions_total\{(.*)\} (\S+)$", collector.metrics(), re.MULTILINE
        ):
            found[dict(re.findall(r'(\w+)="([^"]*)"', labels))["rollout_status"]] += int(float(value))
        return dict(found)

    wait_until(lambda: counted() == expected, f"the metrics to say {dict(expected)}, not {counted()}")
