"""The child process of `grading_pool`: compares answers by algebra, where it may hang, swell or die alone.

    python -m raml_trl.grading.worker 8

Its argument is how many seconds of work its parent grants to one comparison. It says once on stdout that it is ready;
then every line of stdin, `{"predicted": ..., "answer": ...}`, is answered by one line, an outcome.
"""

import json
import logging
import os
import resource
import signal
import sys

from raml_trl.grading.grader import compare

MEMORY_BYTES = 4 * 2**30
"""Of address space, for all of the process: what grows beyond it fails, and the machine goes on."""


def main(seconds: float) -> None:
    """Answer the lines of stdin until it closes, which it does when the parent dies as well."""
    # Whatever a library prints goes to stderr: the real stdout carries replies and nothing else.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    logging.disable()  # nobody reads it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # nobody is left to answer
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES if hard < 0 else min(MEMORY_BYTES, hard), hard))
    compare("x + 1", "2x")  # importing math-verify takes a second, which is no comparison's
    replies.write('"ready"\n')
    for line in sys.stdin:
        # SIGPROF ends a process by default, inside one long instruction too. The parent is there first, if it lives.
        signal.setitimer(signal.ITIMER_PROF, 2 * seconds)
        replies.write(json.dumps(compare(**json.loads(line))) + "\n")


if __name__ == "__main__":
    main(float(sys.argv[1]))
