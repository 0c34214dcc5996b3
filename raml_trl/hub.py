"""Push what a run has made to the Hub as a data set; and find out before the run whether that will be possible.

huggingface_hub does every step here once, however often it is asked: a repository that exists stays, a file that is
there is not sent again. So what fails for a time is done again from the start, here or by the same command later.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from raml_trl.errors import InputError

logger = logging.getLogger(__name__)

PAUSES_SECONDS = (1, 4, 16)  # before each further attempt
LONGEST_PAUSE_SECONDS = 300  # the Hub counts requests over five minutes, and may ask to wait for their end

# What huggingface_hub raises: an answer that is an error, or none; no token, or offline; a value that is refused; and
# around what went wrong with one file of several, a RuntimeError.
_FAILURES = (httpx2.HTTPError, OSError, ValueError, RuntimeError)
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write there"

T = TypeVar("T")


def check_hub_access(repo_id: str, *, private: bool) -> RepoUrl:
    """The repository of a data set, made if there is none, once it is certain that it can be pushed to.

    Called before hours of work, it finds a missing token while that costs nothing. The `repo_id` of what it returns
    has the namespace that the argument may leave out.

    Raises:
        InputError: if the id is malformed, there is no token or a wrong one, it may not write there, what is to be
            private is public, or the Hub cannot be reached.
    """

    def open_repo() -> RepoUrl:
        api = HfApi()
        api.whoami()  # says most about what is wrong with a token
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        # One that exists has passed so far, whoever may write to it.
        api.auth_check(url.repo_id, repo_type="dataset", write=True)
        return url

    url = _insist(open_repo, repo_id)
    # Of one that exists, the Hub ignores `private`.
    if private and not _insist(lambda: HfApi().dataset_info(url.repo_id).private, repo_id):
        raise InputError(f"the Hub data set {repo_id} is to be private, but exists and is public: choose another name")
    return url


def push_dataset(directory: Path, repo_id: str, *, private: bool, patterns: Sequence[str], message: str) -> str:
    """Make a data set on the Hub hold what `directory` holds, and return its URL.

    Args:
        patterns: of the files, such as `README.md` and `trajectories-*.parquet`. What matches them on the Hub and is
            not in `directory` is deleted there: shards of an earlier run must not mix with these.
        message: of the commit.

    Raises:
        InputError: if it cannot be pushed; `directory` is as it was.
    """
    assert all(any(directory.glob(pattern)) for pattern in patterns), "what is not here would be deleted there"
    url = check_hub_access(repo_id, private=private)
    # Not upload_large_folder, which huggingface_hub 2 no longer has: its upload_folder commits many files in batches
    # and carries on where it was cut off.
    _insist(
        lambda: HfApi().upload_folder(
            repo_id=url.repo_id,
            repo_type="dataset",
            folder_path=directory,
            allow_patterns=list(patterns),
            delete_patterns=list(patterns),
            commit_message=message,
        ),
        repo_id,
    )
    return str(url)


def _insist(call: Callable[[], T], repo_id: str) -> T:
    """What `call` returns, called again while the Hub is busy or out of reach.

    huggingface_hub itself asks again only where it sends files, not where it makes a repository or a commit.

    Raises:
        InputError: if it fails for good.
    """
    pauses = iter(PAUSES_SECONDS)
    while True:
        try:
            return call()
        except _FAILURES as error:
            cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
            failure = f"the Hub data set {repo_id}: {_reason(cause)}"
            pause = next(pauses, None) if _passes(cause) else None
            if pause is None:
                raise InputError(f"{failure}; the files here are untouched, the same command tries again") from error
        pause = min(max(pause, _asked_for(cause)), LONGEST_PAUSE_SECONDS)
        logger.warning("%s; again in %d seconds", failure, pause)
        time.sleep(pause)


def _reason(error: BaseException) -> str:
    match error:
        case LocalTokenNotFoundError():
            reason = f"there is no token: {_LOG_IN}"
        case OfflineModeIsEnabled():
            reason = "HF_HUB_OFFLINE is set, so nothing can be pushed"
        case HfHubHTTPError(response=response, server_message=said):
            remedy = f": {_LOG_IN}" if response.status_code in (401, 403) else ""
            reason = f"the Hub answers {response.status_code} ({said or response.reason_phrase}){remedy}"
        case httpx2.TransportError():
            reason = f"the Hub cannot be reached ({error})"
        case _:
            reason = str(error)
    return " ".join(reason.split())


def _passes(error: BaseException) -> bool:
    """Whether a failure may be over in a while."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING
    return isinstance(error, httpx2.TransportError)


def _asked_for(error: BaseException) -> int:
    """Seconds that the Hub asks to wait for, 0 where it does not."""
    seconds = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return int(seconds) if seconds.isdecimal() else 0
