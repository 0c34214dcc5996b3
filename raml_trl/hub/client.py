"""Pushes models and datasets to the Hugging Face Hub, and checks beforehand that this is possible.

Calls are idempotent: an existing repository is kept, and a file that it already has is not sent again. So `insist` can
repeat a call from its start after a transient failure, and the user can run the same command again.
"""

import logging
import re
import stat
import time
from collections.abc import Callable, Sequence
from multiprocessing import TimeoutError as CallTimeout
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal, TypeVar

import httpx2
from huggingface_hub import HfApi, RepoUrl, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from raml_trl.runtime.errors import InputError

logger = logging.getLogger(__name__)

PAUSES_SECONDS = (1, 4, 16)  # the pauses before the second, third and fourth attempt
LONGEST_PAUSE_SECONDS = 300  # the Hub limits requests per five minutes, and may ask to wait for the next window

# The exceptions of huggingface_hub: HTTPError for an error response or no response, OSError for a missing token or
# offline mode, ValueError for an invalid argument, and RuntimeError around the failure of one of several files.
# KeyError, TypeError and AttributeError come from an answer in another form.
_FAILURES = (httpx2.HTTPError, OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError)
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN, with a token that has write access"

ANSWER_SECONDS = 60.0  # for a call that sends only a few requests
_BYTES_PER_SECOND = 50_000  # slower uploads are given up

T = TypeVar("T")
RepoType = Literal["model", "dataset"]


class SilentHub(OSError):
    """The Hub did not answer in time."""


def check_hub_access(repo_id: str, *, private: bool | None, repo_type: RepoType = "dataset") -> RepoUrl:
    """Check that a repository can be pushed to, create it if it does not exist, and return its URL.

    Commands call this before hours of work, so that a missing token costs no time. The returned URL has an attribute
    `repo_id` that includes the namespace, even if the argument does not.

    Args:
        repo_id: NAME or NAMESPACE/NAME.
        private: whether the repository must be private. With None the Hub decides: a new repository is public, unless
            the organisation has another default.
        repo_type: model or dataset.

    Raises:
        InputError: if the id is malformed, the token is missing, wrong or without write access, the repository is
            public but must be private, or the Hub cannot be reached.
    """

    def open_repo() -> RepoUrl:
        api = HfApi()
        api.whoami()  # gives the most precise error about a token
        url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        # `create_repo` also succeeds for an existing repository without write access.
        api.auth_check(url.repo_id, repo_type=repo_type, write=True)
        return url

    name = f"{repo_type} {repo_id}"
    url = insist(open_repo, name)
    # For an existing repository the Hub ignores `private`.
    if private and not insist(lambda: HfApi().repo_info(url.repo_id, repo_type=repo_type).private, name):
        raise InputError(f"the Hub {name} must be private, but exists and is public: choose another name")
    return url


def open_branch(repo_id: str, branch: str) -> None:
    """Create a branch of a model repository from `main`, unless the branch exists.

    Raises:
        InputError: if the branch cannot be created.
    """
    insist(lambda: HfApi().create_branch(repo_id, branch=branch, exist_ok=True), f"model {repo_id}")


def push_dataset(directory: Path, repo_id: str, *, private: bool | None, patterns: Sequence[str], message: str) -> str:
    """Push files of a directory to a dataset repository, and return its URL.

    Args:
        directory: the directory with the files, which is not changed.
        repo_id: NAME or NAMESPACE/NAME.
        private: as in `check_hub_access`.
        patterns: patterns of the files to push, such as `README.md` and `trajectories-*.parquet`. Files on the Hub that
            match a pattern but are not in `directory` are deleted, because old shards must not mix with new ones.
        message: the commit message.

    Raises:
        InputError: if the push fails.
    """
    assert all(any(directory.glob(pattern)) for pattern in patterns), "a pattern without files would delete on the Hub"
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
    """Push the files of a directory to a repository.

    Files that the repository already has are not sent again, so repeating an interrupted push continues it.

    Args:
        directory: the directory with the files, which is not changed.
        repo_id: NAMESPACE/NAME, as `check_hub_access` returns it.
        repo_type: model or dataset.
        patterns: patterns of the paths to send, relative to `directory`; None sends all files.
        ignored: patterns of paths to leave out, even if they match `patterns`.
        replaced: patterns of paths to delete on the Hub if they are not among the files to send.
        branch: the branch to push to, which must exist; None is `main`.
        message: the commit message.

    Raises:
        InputError: if the push fails.
    """
    size = sum(map(_file_size, directory.rglob("*")))
    # huggingface_hub 2 has no upload_large_folder: its upload_folder commits many files in batches and continues an
    # interrupted upload.
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
        f"{repo_type} {repo_id}",
        seconds=10 * ANSWER_SECONDS + size / _BYTES_PER_SECOND,
    )


def _file_size(path: Path) -> int:
    """Return the number of bytes of a file; 0 for a directory, and for a lock that was deleted in the meantime."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def insist(call: Callable[[], T], name: str, *, seconds: float = ANSWER_SECONDS) -> T:
    """Return the result of `call`. If the Hub is busy or cannot be reached, pause and call again, three times at most.

    A Hub that does not answer in time counts as one that cannot be reached. huggingface_hub would wait without end.

    huggingface_hub itself retries uploads of files, but not the creation of a repository or a commit.

    Args:
        call: sends one or more requests, and can be repeated from its start.
        name: the name of the repository in messages, such as `model USER/NAME`.
        seconds: the time that one call may take, all its requests together.

    Raises:
        InputError: if the failure is permanent, or remains after the last attempt.
    """
    pauses = iter(PAUSES_SECONDS)
    while True:
        try:
            return _within(call, seconds)
        except _FAILURES as error:
            cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
            failure = f"the Hub {name}: {reason(cause)}"
            pause = next(pauses, None) if _is_transient(cause) else None
            if pause is None:
                raise InputError(f"{failure}; no local file is lost, run the same command to try again") from error
        pause = min(max(pause, _retry_after(cause)), LONGEST_PAUSE_SECONDS)
        logger.warning("%s; trying again in %d seconds", failure, pause)
        time.sleep(pause)


def _within(call: Callable[[], T], seconds: float) -> T:
    """Return the result of `call`, which runs in a thread of its own.

    Raises:
        SilentHub: if the call takes longer. Its thread then goes on, but does not keep the program from ending.
        Exception: what the call raises.
    """
    pool = ThreadPool(1)  # its threads are daemons
    result = pool.apply_async(call)
    pool.close()
    try:
        return result.get(timeout=seconds)
    except CallTimeout as error:
        raise SilentHub(f"it did not answer within {seconds:.0f} s") from error


def reason(error: BaseException) -> str:
    """Explain in one line why a request failed, with a remedy if there is one."""
    match error:
        case LocalTokenNotFoundError():
            text = f"there is no token: {_LOG_IN}"
        case OfflineModeIsEnabled():
            text = "HF_HUB_OFFLINE is set, so nothing can be pushed: unset it"
        case HfHubHTTPError(response=response, server_message=message):
            remedy = f": {_LOG_IN}" if response.status_code in (401, 403) else ""
            text = f"the Hub answers {response.status_code} ({message or response.reason_phrase}){remedy}"
        case KeyError() | TypeError() | AttributeError():
            text = f"its answer is not one of the Hub's protocol ({type(error).__name__}: {error})"
        case SilentHub() | httpx2.TransportError():
            text = f"the Hub cannot be reached ({error})"
        case _:
            text = str(error)
    token = get_token()
    return " ".join((text if token is None else text.replace(token, "***")).split())


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    return isinstance(error, httpx2.TransportError | SilentHub)


def _retry_after(error: BaseException) -> int:
    """Return the number of seconds that the Hub asks to wait, or 0."""
    seconds = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return int(seconds) if re.fullmatch(r"[0-9]{1,9}", seconds) else 0
