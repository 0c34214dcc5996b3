"""The child process of `GradingPool`: compares answers with algebra, so that a hang or a crash harms no other process.

    python -m raml_trl.grading.worker 8

The argument is the time limit of one comparison in seconds. The parent kills a worker that takes longer. The worker
first writes one line to stdout to report that it is ready. It then answers every line of stdin,
`{"predicted": ..., "answer": ...}`, with one line that holds the outcome.
"""

import json
import logging
import os
import resource
import signal
import sys

from raml_trl.grading.grader import decide_with_algebra, load_algebra

MEMORY_BYTES = 4 * 2**30
"""Limit of the address space of the process. Allocations beyond it fail, so the machine does not run out of memory."""


def main(seconds: float) -> None:
    """Compare one pair per line of stdin until stdin closes, which also happens when the parent dies.

    `seconds` is the time limit of one comparison. The parent kills this process if it takes longer. Without a parent,
    the process ends itself after 2 * `seconds` of CPU time in one comparison.
    """
    # Output of libraries goes to stderr, because the real stdout must carry only replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    logging.disable()  # nobody reads the log of a worker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # schedulers signal all processes of a job
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly if the parent is gone
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES if hard < 0 else min(MEMORY_BYTES, hard), hard))
    load_algebra()
    replies.write('"ready"\n')
    for line in sys.stdin:
        # If the parent dies, nobody enforces the time limit. SIGPROF then ends the process after twice the limit of CPU
        # time, even inside a single long instruction.
        signal.setitimer(signal.ITIMER_PROF, 2 * seconds)
        replies.write(json.dumps(decide_with_algebra(**json.loads(line))) + "\n")


if __name__ == "__main__":
    main(float(sys.argv[1]))
