"""Every test of a failure mode, and the protection without which it has to fail (see `prove.py`)."""

from __future__ import annotations

from typing import NamedTuple


class Protection(NamedTuple):
    """`test` fails when, in `file` below src/rollspan, `text` is replaced by `without`."""

    test: str
    file: str
    text: str
    without: str


_JOURNAL_IN_A_FILE = ("segments.py", "        if folder is None:\n", "        if True:\n")

PROTECTIONS = (
    # The process.
    Protection("tests/faults/test_endings.py::test_an_abrupt_end_is_recovered", *_JOURNAL_IN_A_FILE),
    Protection(
        "tests/faults/test_endings.py::test_an_orderly_end_delivers",
        "lifecycle.py",
        "multiprocessing.util.Finalize(None, _at_exit, exitpriority=10)",
        "pass",
    ),
    Protection(
        "tests/faults/test_endings.py::test_the_next_start_delivers",
        "runtime.py",
        "self._adoption.start()",
        "self._adoption.written.set()",
    ),
    Protection(
        "tests/faults/test_ends.py::test_a_first_session_when_the_interpreter_is_ending_already",
        "loading.py",
        "with contextlib.suppress(RuntimeError):",
        "with contextlib.suppress():",
    ),
    Protection(
        "tests/test_recovery.py::test_recover_killed_at_any_moment_writes_nothing_twice",
        "recovery.py",
        'known(theirs.rank) if delivery.name == "file" else None',
        "None",
    ),
    Protection(
        "tests/faults/test_endings.py::test_recovery_killed_thirty_times",
        "recovery.py",
        'known(theirs.rank) if delivery.name == "file" else None',
        "None",
    ),
    Protection(
        "tests/faults/test_endings.py::test_more_open_sessions_than_a_batch_holds",
        "joiner.py",
        "at = Position(segment, place)",
        "at = Position(segment, 0)",
    ),
    Protection(
        "tests/test_recovery.py::test_a_long_session_is_recovered_with_its_phases",
        "worker.py",
        "            trace.checkpoint(older_than)\n",
        "            pass\n",
    ),
    Protection(
        "tests/test_recovery.py::test_the_journal_stays_bounded_and_open_sessions_survive_it",
        "worker.py",
        '                    self._journal.append(b"".join(here))\n',
        "                    pass\n",
    ),
    Protection(
        "tests/test_worker.py::test_a_session_that_has_ended_unread_keeps_its_segments",
        "worker.py",
        "                    whole = False\n",
        "                    pass\n",
    ),
    Protection(
        "tests/test_worker.py::test_a_worker_that_never_catches_up_looks_after_the_journal",
        "worker.py",
        "                    self._look_after()\n",
        "                    pass\n",
    ),
    Protection(
        "tests/test_worker.py::test_segments_full_of_open_sessions_stay_as_they_are",
        "worker.py",
        "FEW = 1 / 4\n",
        "FEW = 1.0\n",
    ),
    Protection(
        "tests/test_worker.py::test_a_file_that_is_behind_loses_nothing_by_the_bound",
        "worker.py",
        'if delivery.name == "file" and not delivery.off and delivery.ready():',
        "if False:",
    ),
    Protection(
        "tests/test_adoption.py::test_an_endpoint_that_hangs_holds_up_neither_file_nor_exit",
        "adoption.py",
        'lambda exporter: exporter == "file"',
        "lambda exporter: True",
    ),
    Protection(
        "tests/test_adoption.py::test_a_program_that_goes_on_sends_when_the_endpoint_is_well_again",
        "adoption.py",
        "            if self._stopped.wait(pause):\n                return\n",
        "            return\n",
    ),
    Protection(
        "tests/test_adoption.py::test_a_short_program_sends_what_was_left",
        "adoption.py",
        "            self._waiting.wait(max(self._seconds_left(), 0.0))\n",
        "            pass\n",
    ),
    Protection(
        "tests/test_adoption.py::test_a_forked_child_does_not_hold_what_its_parent_adopted",
        "owner.py",
        "os.register_at_fork(after_in_child=_leave_to_parent)",
        "pass",
    ),
    Protection(
        "tests/test_recovery.py::test_a_live_journal_is_left_alone",
        "owner.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
    ),
    Protection(
        "tests/faults/test_sharing.py::test_forks_in_the_middle_of_everything",
        "switch.py",
        "    ids.forget()\n",
        "    pass\n",
    ),
    Protection(
        "tests/faults/test_sharing.py::test_a_fork_while_another_thread_loads",
        "loading.py",
        'if hasattr(os, "register_at_fork"):',
        "if False:",
    ),
    Protection(
        "tests/exporters/test_otlp.py::test_sending_loads_nothing_more",
        "exporters/transport.py",
        "import netrc ",
        "pass ",
    ),
    Protection(
        "tests/faults/test_sharing.py::test_a_signal_handler_while_rollspan_is_loaded",
        "__init__.py",
        "        return _meanwhile\n",
        "        raise\n",
    ),
    Protection(
        "tests/test_routes.py::test_a_slow_processor_of_the_user_s_holds_up_its_own_session_alone",
        "tracelog.py",
        "self.lock = threading.RLock()",
        "self.lock = self.runtime.lock",
    ),
    Protection(
        "tests/faults/test_sharing.py::test_a_fork_while_a_connection_is_taken",
        "exporters/official.py",
        "os.register_at_fork(after_in_child=_free_connections)",
        "pass",
    ),
    Protection(
        "tests/faults/test_sharing.py::test_processes_with_the_same_folder",
        "exporters/lockedfile.py",
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
    ),
    Protection(
        "tests/test_journal.py::test_a_signal_handler_may_append",
        "journal.py",
        "        try:\n            self._write(line)\n        except ValueError:\n            self._append_",
        "        try:\n            list(map(self._write, (line[:9], line[9:])))\n"
        "        except ValueError:\n            self._append_",
    ),
    Protection(
        "tests/test_left.py::test_who_looks_at_a_journal_that_is_just_removed_leaves_nothing_in_it",
        "left.py",
        "owner.lock_file(folder / LOCK, make=False)",
        "owner.lock_file(folder / LOCK)",
    ),
    Protection(
        "tests/test_left.py::test_journals_that_come_and_go_beside_others_leave_no_folders",
        "left.py",
        "owner.lock_file(folder / LOCK, make=False)",
        "owner.lock_file(folder / LOCK)",
    ),
    Protection(
        "tests/test_left.py::test_folders_that_hold_only_a_lock_are_swept",
        "left.py",
        "if time.time() - folder.stat().st_mtime < _UNTOUCHED:",
        "if False:",
    ),
    Protection(
        "tests/test_left.py::test_doctor_tells_of_journals_whose_data_directory_is_gone",
        "left.py",
        "                if standing is Standing.LEFT:\n                    found",
        "                if False:\n                    found",
    ),
    Protection(
        "tests/test_left.py::test_what_died_on_another_host_is_dead",
        "recovery.py",
        "alive = standing is Standing.HELD",
        "alive = standing is not Standing.LEFT",
    ),
    Protection(
        "tests/test_left.py::test_what_a_gone_host_left_is_delivered_and_cleared_on_request",
        "recovery.py",
        "if standing is Standing.ELSEWHERE and not discard:",
        "if standing is Standing.ELSEWHERE:",
    ),
    # Endpoints and backends.
    Protection(
        "tests/faults/test_endpoints.py::test_the_file_is_complete_and_the_program_ends[hangs]",
        "delivery.py",
        "        self._deadline = deadline\n",
        "        self._deadline = deadline + 3600\n",
    ),
    Protection(
        "tests/faults/test_endpoints.py::test_the_setting_bounds_the_wait_at_the_end",
        "runtime.py",
        "self.settings.exit_timeout if timeout is None",
        "(9.0 - self.settings.exit_timeout) if timeout is None",
    ),
    Protection(
        "tests/faults/test_endpoints.py::test_what_the_endpoint_did_not_take_is_delivered_later",
        "exporters/answers.py",
        "_TRANSIENT: Final = frozenset({429, 502, 503, 504})",
        "_TRANSIENT: Final = frozenset()",
    ),
    Protection(
        "tests/faults/test_endpoints.py::test_what_is_refused_for_good_is_said_and_not_kept",
        "exporters/answers.py",
        "    return Refused(said, unsupported=status == 404)",
        "    return Retry(said)",
    ),
    Protection(
        "tests/faults/test_endpoints.py::test_what_was_lost_is_summed_up_at_the_end",
        "runtime.py",
        "            health.tell_losses()\n",
        "            pass\n",
    ),
    Protection(
        "tests/test_end_to_end.py::test_a_long_outage_is_caught_up_from_the_journal",
        "delivery.py",
        "            self._behind = True\n",
        "            pass\n",
    ),
    Protection(
        "tests/backends/test_outages.py::test_a_collector_killed_and_restarted_in_the_middle[http/protobuf]",
        "exporters/transport.py",
        "return Retry(_said(got.error, parts.url))",
        "return Delivered()",
    ),
    Protection(
        "tests/backends/test_outages.py::test_a_collector_killed_and_restarted_in_the_middle[grpc]",
        "exporters/answers.py",
        "return Retry(said, _retry_delay(trailers))",
        "return Delivered()",
    ),
    Protection(
        "tests/backends/test_outages.py::test_a_collector_that_starts_when_the_job_has_ended",
        "exporters/transport.py",
        "return Retry(_said(got.error, parts.url))",
        "return Delivered()",
    ),
    Protection(
        "tests/backends/test_outages.py::test_jaeger_alone_is_endpoint_enough",
        "exporters/answers.py",
        "unsupported=status == 404",
        "unsupported=False",
    ),
    Protection(
        "tests/backends/test_kills.py::test_a_demo_killed_at_random_moments_loses_no_session",
        *_JOURNAL_IN_A_FILE,
    ),
    Protection(
        "tests/perf/test_scopes.py::test_scopes_survive_a_kill",
        "worker.py",
        "            self._guarded(self._keep_up)\n",
        "",
    ),
    # Disks.
    Protection(
        "tests/faults/test_disks.py::test_a_full_disk_under_the_file",
        "exporters/files.py",
        'return Retry(f"cannot write {what} to {part.why(error)}")',
        "return Delivered()",
    ),
    Protection(
        "tests/faults/test_disks.py::test_a_disk_that_fills_up_under_the_file",
        "exporters/lockedfile.py",
        "            os.ftruncate(self._fd, before)\n            raise\n",
        "            raise\n",
    ),
    Protection(
        "tests/faults/test_disks.py::test_a_full_disk_under_the_journal",
        "segments.py",
        "os.posix_fallocate(descriptor, 0, size)",
        "os.ftruncate(descriptor, size)",
    ),
    Protection(
        "tests/faults/test_disks.py::test_a_disk_that_fills_up_under_the_journal",
        "segments.py",
        "os.posix_fallocate(descriptor, 0, size)",
        "os.ftruncate(descriptor, size)",
    ),
    Protection(
        "tests/faults/test_disks.py::test_a_journal_that_went_on_in_a_third_folder",
        "left.py",
        "dict.fromkeys((self.hot, self.disk, *others))",
        "dict.fromkeys((self.hot, self.disk))",
    ),
    Protection(
        "tests/faults/test_disks.py::test_a_data_directory_that_is_read_only",
        "place.py",
        "            _MEMORY / user / key_of(directory),\n            disk_root(directory),\n"
        "            Path(tempfile.gettempdir()) / user / key_of(directory),\n",
        "            disk_root(directory),\n",
    ),
    Protection(
        "tests/faults/test_disks.py::test_recovery_onto_a_full_disk_keeps_the_journal",
        "recovery.py",
        "tries=tries):\n                outcome.unreached.append(delivery.name)",
        "tries=tries):\n                pass",
    ),
    # Damage.
    Protection(
        "tests/faults/test_damage.py::test_damage_costs_only_the_lines_it_hits",
        "lines.py",
        "checked = int(raw[:8], 16) == crc32(raw[KIND_AT:])",
        "checked = True",
    ),
    Protection(
        "tests/faults/test_damage.py::test_a_header_that_was_lost",
        "left.py",
        "                    found.setdefault(folder.name, _without_header(folder))\n",
        "                    pass\n",
    ),
    Protection(
        "tests/faults/test_damage.py::test_cursors_that_were_damaged",
        "owner.py",
        "    except (OSError, ValueError):\n        return {}",
        "    except OSError:\n        return {}",
    ),
    # What a job does and gives.
    Protection(
        "tests/faults/test_hostile.py::test_hostile_values_and_names",
        "attributes.py",
        "    return NOT_FINITE[0 if value != value else 1 if value > 0 else 2]",
        "    return value",
    ),
    Protection(
        "tests/faults/test_hostile.py::test_ten_thousand_sessions_at_once",
        "delivery.py",
        "            self._behind = True\n",
        "            pass\n",
    ),
    Protection(
        "tests/faults/test_hostile.py::test_a_session_with_forty_thousand_phases",
        "exporters/otlp.py",
        "MAX_REQUEST_BYTES: Final = 4_000_000",
        "MAX_REQUEST_BYTES: Final = 1 << 40",
    ),
    Protection(
        "tests/faults/test_hostile.py::test_a_wall_clock_that_steps",
        "clock.py",
        "monotonic_ns = time.monotonic_ns",
        "monotonic_ns = time.time_ns",
    ),
    Protection(
        "tests/faults/test_hostile.py::test_ranks_that_are_seeded_alike",
        "ids.py",
        "os.urandom(16 * _BLOCK)",
        '__import__("random").randbytes(16 * _BLOCK)',
    ),
    Protection(
        "tests/faults/test_secrets.py::test_content_is_nowhere",
        "span.py",
        "keep = self.owner.runtime.settings.capture_content",
        "keep = True",
    ),
    # Contexts and providers.
    Protection(
        "tests/faults/test_context.py::test_generators_left_early_leave_nothing_current",
        "scope.py",
        "            late_context().detach(self._token)\n\n    def closing",
        "            pass\n\n    def closing",
    ),
    Protection(
        "tests/test_sessions.py::test_a_logging_handler_may_use_the_session",
        "health.py",
        'getattr(lock, "_is_owned", bool)',
        "bool",
    ),
    Protection(
        "tests/faults/test_context.py::test_an_exception_of_a_signal_handler_arrives",
        "health.py",
        "if by_a_signal_handler(sys.exc_info()[1]):",
        "if False:",
    ),
    Protection(
        "tests/faults/test_context.py::test_sessions_that_signal_handlers_break_off_have_a_verdict",
        "verdicts.py",
        "            self._write_end(end, rows)\n            self.row[END] = end\n",
        "            self.row[END] = end\n            self._write_end(end, rows)\n",
    ),
    Protection(
        "tests/exporters/test_jsonl.py::test_a_line_that_a_killed_writer_left_torn_is_cut_off",
        "exporters/known.py",
        "                        mend(path)\n",
        "                        pass\n",
    ),
    Protection(
        "tests/faults/test_context.py::test_generators_closed_by_the_garbage_collector",
        "context.py",
        'return next(reversed(_collector)) == "start"',
        "return False",
    ),
    Protection(
        "tests/faults/test_context.py::test_tasks_threads_and_executors_keep_to_their_session",
        "carriers.py",
        "token = otel_context.attach(captured)",
        "token = otel_context.attach(otel_context.get_current())",
    ),
    Protection(
        "tests/faults/test_context.py::test_cancelled_sessions_do_not_stay_pending",
        "verdicts.py",
        "    asyncio.CancelledError,\n",
        "",
    ),
    Protection(
        "tests/test_routes.py::test_a_provider_that_comes_late_is_found",
        "runtime.py",
        "        provider = otel_trace.get_tracer_provider()\n",
        "        provider = self.__dict__.setdefault('_first', otel_trace.get_tracer_provider())\n",
    ),
    Protection(
        "tests/test_routes.py::test_records_are_complete_where_a_provider_samples",
        "tracelog.py",
        "self.sampled = mirror.is_recording()",
        "assert mirror.is_recording()",
    ),
    Protection(
        "tests/test_routes.py::test_own_route_samples_traces_and_keeps_records",
        "exporters/jsonl.py",
        "            if (record := trace.record) is not None:\n",
        "            if (record := trace.record) is not None and trace.export_spans:\n",
    ),
)
