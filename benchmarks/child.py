"""The process of one contender: `python -m benchmarks.child NAME FOLDER ENDPOINT`, driven by lines of text.

It says `{"versions": ...}` when it is ready. Then each line on its standard input, `round FIRST COUNT` or
`profile FIRST COUNT`, is answered by one line of JSON. It ends with its input.
"""

from __future__ import annotations

import cProfile
import gc
import io
import json
import os
import pstats
import sys
import time
from pathlib import Path
from typing import Any

from .contenders import Contender, make
from .workload import rollouts

_PROFILE_LINES = 40
_PIECE = 256


def measured(contender: Contender, first: int, count: int) -> dict[str, Any]:
    """CPU microseconds a session: `hot` of the calling thread alone, `total` of the process with delivery."""
    work = rollouts(first, count)
    session = contender.session
    # The same for everybody: collections run as usual, over what this round makes and nothing else.
    gc.collect()
    gc.freeze()
    process, thread = time.process_time_ns(), time.thread_time_ns()
    for rollout in work:
        session(rollout)
    thread = time.thread_time_ns() - thread
    contender.finish()
    process = time.process_time_ns() - process
    return {"hot": thread / count / 1e3, "total": process / count / 1e3}


def profiled(contender: Contender, first: int, count: int) -> dict[str, Any]:
    """Where the calling thread spends its time, as text."""
    session = contender.session
    profile = cProfile.Profile()
    # In short pieces, each delivered before the next: waiting for other threads would look like work here.
    for begin in range(first, first + count, _PIECE):
        work = rollouts(begin, min(_PIECE, first + count - begin))
        profile.enable()
        for rollout in work:
            session(rollout)
        profile.disable()
        contender.finish()
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(_PROFILE_LINES)
    return {"profile": text.getvalue()}


def main(name: str, folder: str, endpoint: str) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a contender prints must not stand among the answers
    contender = make(name, Path(folder), endpoint)

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    say({"versions": contender.versions()})
    for line in sys.stdin:
        command, first, count = line.split()
        work = {"round": measured, "profile": profiled}[command]
        say(work(contender, int(first), int(count)))


if __name__ == "__main__":
    main(*sys.argv[1:])
