"""Endpoints that answer well, badly, late or never."""

from __future__ import annotations

import contextlib
import email.utils
import logging
import socket
import threading
import time
from typing import Any

import pytest

from rollspan.exporters.base import Delivered, Refused, Retry
from rollspan.exporters.otlp import RecordExporter, TraceExporter
from rollspan.testing_receiver import Answer, OtlpReceiver

from .samples import RESOURCE, send, session


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_refusal_for_the_moment_is_a_retry(receiver: OtlpReceiver, status: int) -> None:
    """These four are OTLP's retryable ones; one request is made, and Retry-After is handed on."""
    receiver.answer(Answer(status=status, message="too busy", retry_after=7))
    answer = send(TraceExporter(endpoint=receiver.endpoint), [session()])
    assert isinstance(answer, Retry)
    assert answer.after == 7.0
    assert str(status) in answer.reason and "too busy" in answer.reason
    assert len(receiver.requests) == 1


def test_retry_after_may_be_a_date(receiver: OtlpReceiver) -> None:
    """An HTTP date means the seconds until then; what is neither number nor date is ignored."""
    receiver.answer(
        Answer(status=429, retry_after=email.utils.formatdate(time.time() + 100, usegmt=True)), times=1
    )
    receiver.answer(Answer(status=429, retry_after="soon"), times=1)
    exporter = TraceExporter(endpoint=receiver.endpoint)
    dated = exporter.export([session()], RESOURCE, 5.0)
    assert isinstance(dated, Retry) and dated.after is not None and 50 < dated.after <= 100
    assert send(exporter, [session()]).after is None


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "DATA_LOSS", "CANCELLED"])
def test_a_retryable_grpc_code_is_a_retry(receiver: OtlpReceiver, code: str) -> None:
    """One call is made, and the delay of a RetryInfo is handed on."""
    receiver.answer(Answer(code=code, message="too busy", retry_after=2.5))
    answer = send(TraceExporter(protocol="grpc", endpoint=receiver.grpc_endpoint), [session()])
    assert answer == Retry(f"gRPC {code}: too busy", 2.5)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("status", "code", "unsupported"),
    [
        (400, "INVALID_ARGUMENT", False),
        (401, "UNAUTHENTICATED", False),
        (403, "PERMISSION_DENIED", False),
        (404, "UNIMPLEMENTED", True),
        (500, "INTERNAL", False),
    ],
)
def test_a_refusal_for_good_is_refused(
    receiver: OtlpReceiver, exporter: Any, status: int, code: str, unsupported: bool
) -> None:
    """No repetition mends these; a missing signal is told from all the others."""
    receiver.answer(Answer(status=status, code=code, message="no"))
    answer = send(exporter, [session()])
    assert isinstance(answer, Refused)
    assert answer.unsupported is unsupported
    assert len(receiver.requests) == 1


def test_one_signal_may_be_refused_alone(receiver: OtlpReceiver) -> None:
    """A backend that takes traces only, as Jaeger does, gets its traces."""
    receiver.answer(Answer(status=404), signal="logs")
    assert send(TraceExporter(endpoint=receiver.endpoint), [session()]) == Delivered()
    assert send(RecordExporter(endpoint=receiver.endpoint), [session()]).unsupported
    assert len(receiver.spans()) == 4


def test_a_redirect_is_not_taken_for_success(receiver: OtlpReceiver) -> None:
    """OTLP is not redirected; the answer says so."""
    receiver.answer(Answer(status=301))
    answer = send(TraceExporter(endpoint=receiver.endpoint), [session()])
    assert isinstance(answer, Refused) and "redirected" in answer.reason


def test_a_partial_success_counts_what_was_rejected(receiver: OtlpReceiver, exporter: Any) -> None:
    """The number and the words of the receiver are handed on."""
    receiver.answer(Answer(rejected=2, message="two too many"))
    assert send(exporter, [session()]) == Delivered(2, "two too many")


def test_an_endpoint_that_never_answers_is_left(receiver: OtlpReceiver, exporter: Any) -> None:
    """The call comes back when its time is over, and the next one is served."""
    receiver.answer(Answer(hang=True), times=1)
    assert isinstance(exporter.export([session()], RESOURCE, 0.5), Retry)
    assert send(exporter, [session()]) == Delivered()


def test_an_answer_that_breaks_off_is_a_retry(receiver: OtlpReceiver) -> None:
    """Half an answer, followed by the end of the connection or by silence, is no answer."""
    receiver.answer(Answer(half=True), times=1)
    receiver.answer(Answer(half=True, hang=True), times=1)
    exporter = TraceExporter(endpoint=receiver.endpoint)
    assert isinstance(exporter.export([session()], RESOURCE, 5.0), Retry)
    assert isinstance(exporter.export([session()], RESOURCE, 0.5), Retry)
    assert send(exporter, [session()]) == Delivered()


def test_a_password_in_the_address_is_not_said() -> None:
    """Why nothing was delivered is logged; who may deliver is not."""
    answer = send(TraceExporter(endpoint="http://me:s3cret@127.0.0.1:1"), [session()])
    assert isinstance(answer, Retry)
    assert answer.reason.startswith("http://127.0.0.1:1/v1/traces: ConnectionError")
    assert "s3cret" not in answer.reason


def trickle(listening: socket.socket) -> None:
    """Answer every request with one byte after the other, for ever."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=drip, args=(connection,), daemon=True).start()


def drip(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.01)


def test_an_answer_that_trickles_in_holds_nobody_up() -> None:
    """Calls are left when their time is over although bytes keep coming, and few threads stay behind."""

    def helpers() -> int:
        return sum(thread.name.startswith("rollspan-otlp") for thread in threading.enumerate())

    before = helpers()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        threading.Thread(target=trickle, args=(listening,), daemon=True).start()
        exporter = TraceExporter(endpoint=f"http://127.0.0.1:{listening.getsockname()[1]}")
        answers = [exporter.export([session()], RESOURCE, 0.1) for _ in range(8)]
        exporter.close()
        assert all(isinstance(answer, Retry) for answer in answers)
        assert answers[0].reason.startswith("no answer within ")
        assert "still hang" in answers[-1].reason
        assert helpers() - before <= 3
        listening.shutdown(socket.SHUT_RDWR)


def test_nobody_listening_is_a_retry_that_names_the_place(protocol: str) -> None:
    """A refused connection says where, and the same exporter delivers once somebody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    answer = send(TraceExporter(protocol=protocol, endpoint=f"http://127.0.0.1:{port}"), [session()], 5.0)
    assert isinstance(answer, Retry)
    assert str(port) in answer.reason


def test_grpc_recovers_at_once_when_its_endpoint_comes_back() -> None:
    """The channel's own pause before a new connection, up to minutes, is not waited for."""
    with OtlpReceiver() as first:
        address = first.grpc_endpoint
        exporter = TraceExporter(protocol="grpc", endpoint=address)
        assert exporter.export([session()], RESOURCE, 5.0) == Delivered()
    for _ in range(5):
        assert isinstance(exporter.export([session()], RESOURCE, 1.0), Retry)
    with OtlpReceiver() as second:
        second.serve_grpc(int(address.rpartition(":")[2]))
        assert send(exporter, [session()]) == Delivered()
        assert len(second.spans()) == 4


def test_the_port_of_the_other_protocol_is_pointed_out() -> None:
    """HTTP to port 4317 fails with a hint: Python's stock exporters use gRPC there by default."""
    answer = send(TraceExporter(endpoint="http://127.0.0.1:4317"), [session()], 5.0)
    assert isinstance(answer, Retry)
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in answer.reason


def test_failures_are_returned_and_not_logged(receiver: OtlpReceiver, exporter: Any, caplog: Any) -> None:
    """Ten failures give ten reasons and not one line in the log."""
    receiver.answer(Answer(status=503, code="UNAVAILABLE"))
    for _ in range(10):
        assert isinstance(exporter.export([session()], RESOURCE, 5.0), Retry)
    exporter.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
