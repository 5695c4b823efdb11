"""Names on the wire: attributes, phases, statuses and reasons of docs/specification.md."""

from __future__ import annotations

from typing import Final

SCOPE_NAME: Final = "rollspan"
RECORD_EVENT_NAME: Final = "rollout.session"

# Span names and values of rollout.phase.
ROOT_NAME: Final = "rollout"
SESSION: Final = "session"
STEP_NAME: Final = "step"
QUEUE_WAIT: Final = "queue_wait"
RUNNER_WAIT: Final = "runner_wait"
POST_WAIT: Final = "post_wait"
WAITS: Final = frozenset({QUEUE_WAIT, RUNNER_WAIT, POST_WAIT})
EXECUTION: Final = "execution"
GENERATE: Final = "generate"
REWARD: Final = "reward"
TOOLCALL: Final = "toolcall"

# Statuses.
PENDING: Final = "pending"
ACCEPTED: Final = "accepted"
REJECTED: Final = "rejected"
FAILED: Final = "failed"
DROPPED: Final = "dropped"

# Reasons.
SHOULD_ACCEPT_FALSE: Final = "should_accept_false"
WORKFLOW_RETURNED_NONE: Final = "workflow_returned_none"
WORKFLOW_EXCEPTION: Final = "workflow_exception"
INPUT_QUEUE_FULL: Final = "input_queue_full"
TIMEOUT: Final = "timeout"
CANCELLED: Final = "cancelled"
STALE_WEIGHT: Final = "stale_weight"
GROUP_FILTERED: Final = "group_filtered"
PROCESS_DIED: Final = "process_died"

# Every span of a session.
SESSION_ID: Final = "session.id"
PHASE: Final = "rollout.phase"
PARENT_PHASE: Final = "rollout.parent_phase"
LATE: Final = "rollout.late"  # bool: still open when its session ended, clipped there
FOREIGN: Final = "rollout.foreign"  # bool: of another process and exported by it; not in the record
CONTINUATION: Final = "rollout.continuation"  # bool: goes on from an aborted generation; no new turn

# Generate spans that were cut off by updates of the weights and went on: one entry for each part.
SEGMENT_WEIGHT_VERSION: Final = "rollout.segment.weight_version"
SEGMENT_OUTPUT_TOKENS: Final = "rollout.segment.output_tokens"
SEGMENT_DURATION: Final = "rollout.segment.duration_s"
SEGMENT_PAUSED: Final = "rollout.segment.paused_s"  # how long the engine was paused before the part
PAUSED: Final = "rollout.paused_s"  # float: their sum

# Root.
REQUEST_ID: Final = "rollout.request_id"
RANK: Final = "rollout.rank"
ROLE: Final = "rollout.role"
TASK_ID: Final = "rl.sample.task.id"
GROUP_ID: Final = "rollout.group.id"
WORKFLOW: Final = "rollout.workflow"
STATUS: Final = "rollout.status"
REASON: Final = "rollout.reason"
CONSUMED: Final = "rollout.consumed"
STEP_DISPATCH: Final = "rollout.step.dispatch"
STEP_CONSUME: Final = "rollout.step.consume"
STATS_PREFIX: Final = "rollout.stats."
COUNTER_PREFIX: Final = "rollout.counter."
LATE_SPANS: Final = "rollout.late_spans"
TURNS: Final = "rollout.turns"
REWARD_SCORE: Final = "rl.reward.score"
REWARD_NAME: Final = "rollout.reward.name"
WEIGHT_VERSION_MIN: Final = "rollout.weight_version.min"
WEIGHT_VERSION_MAX: Final = "rollout.weight_version.max"
ROOT_INPUT_TOKENS: Final = "rollout.input_tokens"  # sums; gen_ai.* is for generate and toolcall spans
ROOT_OUTPUT_TOKENS: Final = "rollout.output_tokens"
DURATION_PREFIX: Final = "rollout."  # rollout.total_s, rollout.queue_wait_s, rollout.<phase>_s ...
LINK_KIND: Final = "rollout.link"  # on a link: dispatch or consume
LINK_DISPATCH: Final = "dispatch"
LINK_CONSUME: Final = "consume"

# Step.
STEP: Final = "rollout.step"

# Generation and tool calls (OpenTelemetry GenAI semantic conventions).
ERROR_TYPE: Final = "error.type"
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"
OPERATION_TEXT_COMPLETION: Final = "text_completion"
OPERATION_CHAT: Final = "chat"
OPERATION_EXECUTE_TOOL: Final = "execute_tool"

# Resource.
RUN_ID: Final = "rl.run.id"
SYSTEM: Final = "rl.system"
ALGORITHM: Final = "rl.algorithm"
WORLD_SIZE: Final = "rollout.world_size"
STEP_DISPATCHED: Final = "rollout.step.dispatched"  # sessions submitted in the step
STEP_CONSUMED: Final = "rollout.step.consumed"  # sessions consumed in the step

# Timed scopes, which may be of a session, of a step, or of a process between its steps.
PROCESS_NAME: Final = "process"
PROCESS_EVENT: Final = "rollspan_process"  # in files: of which process the events behind it are
CATEGORY: Final = "rollout.category"  # compute, comm, io, sync, scheduler, instr, misc
INSTANT: Final = "rollout.instant"  # bool: a moment, without a length
PROCESS_ID: Final = "process.pid"
INSTANCE_ID: Final = "service.instance.id"
THREAD_ID: Final = "thread.id"
THREAD_NAME: Final = "thread.name"
CLOCK_ANCHOR: Final = "clock.anchor"  # name of a moment that several hosts share
CLOCK_ANCHOR_KEY: Final = "key"  # which of these it is
