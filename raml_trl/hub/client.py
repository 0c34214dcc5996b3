"""Push what a run has made to the Hub, as a model or a data set; and find out before the run whether that is possible.

huggingface_hub does every step here once, however often it is asked: a repository that exists stays, a file that is
there is not sent again. So what fails for a time is done again from the start, here or by the same command later.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import httpx2
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from raml_trl.runtime.errors import InputError

logger = logging.getLogger(__name__)

PAUSES_SECONDS = (1, 4, 16)  # before each further attempt
LONGEST_PAUSE_SECONDS = 300  # the Hub counts requests over five minutes, and may ask to wait for their end

# What huggingface_hub raises: an answer that is an error, or none; no token, or offline; a value that is refused; and
# around what went wrong with one file of several, a RuntimeError.
_FAILURES = (httpx2.HTTPError, OSError, ValueError, RuntimeError)
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write there"

T = TypeVar("T")
RepoType = Literal["model", "dataset"]
_NOUNS: dict[RepoType, str] = {"model": "model", "dataset": "data set"}


def check_hub_access(repo_id: str, *, private: bool | None, repo_type: RepoType = "dataset") -> RepoUrl:
    """The repository of a model or a data set, made if there is none, once it is certain that it can be pushed to.

    Called before hours of work, it finds a missing token while that costs nothing. The `repo_id` of what it returns
    has the namespace that the argument may leave out.

    Args:
        private: None leaves it to the Hub: public, where an organisation has nothing else set.

    Raises:
        InputError: if the id is malformed, there is no token or a wrong one, it may not write there, what is to be
            private is public, or the Hub cannot be reached.
    """

    def open_repo() -> RepoUrl:
        api = HfApi()
        api.whoami()  # says most about what is wrong with a token
        url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        # One that exists has passed so far, whoever may write to it.
        api.auth_check(url.repo_id, repo_type=repo_type, write=True)
        return url

    name = f"{_NOUNS[repo_type]} {repo_id}"
    url = insist(open_repo, name)
    # Of one that exists, the Hub ignores `private`.
    if private and not insist(lambda: HfApi().repo_info(url.repo_id, repo_type=repo_type).private, name):
        raise InputError(f"the Hub {name} is to be private, but exists and is public: choose another name")
    return url


def open_branch(repo_id: str, branch: str) -> None:
    """Make a branch of the repository of a model, from what `main` holds, if there is none of that name.

    Raises:
        InputError: if it cannot be made.
    """
    insist(lambda: HfApi().create_branch(repo_id, branch=branch, exist_ok=True), f"model {repo_id}")


def push_dataset(directory: Path, repo_id: str, *, private: bool | None, patterns: Sequence[str], message: str) -> str:
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
    push_folder(directory, url.repo_id, repo_type="dataset", patterns=patterns, replaced=patterns, message=message)
    return str(url)


def push_folder(
    directory: Path,
    repo_id: str,
    *,
    repo_type: RepoType,
    patterns: Sequence[str] | None = None,
    ignored: Sequence[str] = (),
    replaced: Sequence[str] = (),
    branch: str | None = None,
    message: str,
) -> None:
    """Send the files of `directory` that are not in the repository yet; sent before and cut off, it is carried on.

    Args:
        repo_id: with its namespace, as `check_hub_access` returns it.
        patterns: of the paths to send, below `directory`; None for all of them.
        ignored: patterns of paths that are not sent all the same.
        replaced: patterns of paths that are deleted on the Hub if `directory` has none such to send.
        branch: which must exist; None for `main`.
        message: of the commit.

    Raises:
        InputError: if they cannot be pushed; `directory` is as it was.
    """
    # Not upload_large_folder, which huggingface_hub 2 no longer has: its upload_folder commits many files in batches
    # and carries on where it was cut off.
    insist(
        lambda: HfApi().upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            folder_path=directory,
            allow_patterns=None if patterns is None else list(patterns),
            ignore_patterns=list(ignored),
            delete_patterns=list(replaced) or None,
            revision=branch,
            commit_message=message,
        ),
        f"{_NOUNS[repo_type]} {repo_id}",
    )


def insist(call: Callable[[], T], name: str) -> T:
    """What `call` returns, called again while the Hub is busy or out of reach.

    huggingface_hub itself asks again only where it sends files, not where it makes a repository or a commit.

    Args:
        name: of what it is about, such as `model USER/NAME`.

    Raises:
        InputError: if it fails for good.
    """
    pauses = iter(PAUSES_SECONDS)
    while True:
        try:
            return call()
        except _FAILURES as error:
            cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
            failure = f"the Hub {name}: {reason(cause)}"
            pause = next(pauses, None) if _passes(cause) else None
            if pause is None:
                raise InputError(f"{failure}; nothing here is lost, the same command tries again") from error
        pause = min(max(pause, _asked_for(cause)), LONGEST_PAUSE_SECONDS)
        logger.warning("%s; again in %d seconds", failure, pause)
        time.sleep(pause)


def reason(error: BaseException) -> str:
    """Why the Hub could not be used, in one line, and what to do about it."""
    match error:
        case LocalTokenNotFoundError():
            text = f"there is no token: {_LOG_IN}"
        case OfflineModeIsEnabled():
            text = "HF_HUB_OFFLINE is set, so nothing can be pushed"
        case HfHubHTTPError(response=response, server_message=said):
            remedy = f": {_LOG_IN}" if response.status_code in (401, 403) else ""
            text = f"the Hub answers {response.status_code} ({said or response.reason_phrase}){remedy}"
        case httpx2.TransportError():
            text = f"the Hub cannot be reached ({error})"
        case _:
            text = str(error)
    return " ".join(text.split())


def _passes(error: BaseException) -> bool:
    """Whether a failure may be over in a while."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING
    return isinstance(error, httpx2.TransportError)


def _asked_for(error: BaseException) -> int:
    """Seconds that the Hub asks to wait for, 0 where it does not."""
    seconds = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return int(seconds) if seconds.isdecimal() else 0
