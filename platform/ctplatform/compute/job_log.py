"""The log of a submitted job: followed to its end across lost connections, and the exit status that follows from it."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ctplatform.compute.ray_internals import SUBMISSION_LOGGERS, set_levels
from ctplatform.errors import StageError

RETRY_S = 2.0
SILENCE_S = 60.0  # a connection without a line for so long may be dead, and is replaced
ANSWER_S = 30.0
INTERRUPTED = 130  # exit status after Ctrl-C, as of shells
LOST = 75  # exit status EX_TEMPFAIL of sysexits.h: a temporary failure


@dataclass(frozen=True)
class FollowOptions:
    """How a job is followed.

    Args:
        patience_s: for which the dashboard may be unreachable before following ends; the job runs on.
        choose: called with the job's id after Ctrl-C, returns "detach", "stop" or "continue"; None: a prompt on the
            terminal.
    """

    patience_s: float = 900.0
    choose: Callable[[str], str] | None = None


def follow_job(job: str, *, address: str, client: Any = None, options: FollowOptions | None = None) -> int:
    """Follow a submitted job to its end.

    Args:
        job: its id.
        address: of the dashboard, http://host:8265.
        client: a client of the dashboard; None: a new one.
        options: patience and the choice after Ctrl-C.

    Returns:
        Exit status as of `submission.submit`.

    Raises:
        StageError: no dashboard at `address`, or no such job.
    """
    client = client or connect(address)
    options = options or FollowOptions()
    log = _Log(client, job, options.patience_s)
    again = f"drasclr submit --address {address} --attach {job}"
    while True:
        try:
            log.follow()
            break
        except KeyboardInterrupt:
            choice = (options.choose or choose_on_terminal)(job)
            if choice == "continue":
                continue
            if choice == "stop":
                client.stop_job(job)
                print(f"\nstopping {job}; the same command goes on where it stopped", file=sys.stderr)
            else:
                print(f"\n{job} runs on; follow it again with: {again}", file=sys.stderr)
            return INTERRUPTED
        except ConnectionError:
            print(
                f"\nno answer from {address} for {options.patience_s:.0f} s. The job runs on as long as its cluster "
                f"does; follow it again with: {again}",
                file=sys.stderr,
            )
            return LOST
    if log.status == "SUCCEEDED":
        return 0
    info = log.info
    print(f"job {job} ended as {log.status}: {info.message or ''}", file=sys.stderr, flush=True)
    return info.driver_exit_code or 1


def connect(address: str) -> Any:
    """A client of the dashboard.

    Raises:
        StageError: none answers, or it requires a token and there is none.
    """
    # Ray reads this at import. Clusters that require a token get it, others ignore it.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    set_levels(SUBMISSION_LOGGERS)
    try:
        return JobSubmissionClient(address)
    except RayError as error:
        raise StageError(
            f"there is no token for the cluster: {str(error).partition('.')[0]}",
            "Put it into RAY_AUTH_TOKEN, or its file into RAY_AUTH_TOKEN_PATH; a cluster without tokens is reached "
            "with RAY_AUTH_MODE=disabled",
            code="token",
        ) from None
    except (ConnectionError, RuntimeError) as error:
        problem = str(error).splitlines()[0]
        # A host or port may look like a reason (auth.example.org, 40155).
        if re.search(r"auth|token|\b401\b", problem.replace(address, ""), re.IGNORECASE):
            raise StageError(
                f"the dashboard at {address} refuses the connection: {problem}",
                "Put the cluster's token into RAY_AUTH_TOKEN, or its file into RAY_AUTH_TOKEN_PATH",
                code="token",
            ) from None
        raise StageError(
            f"no Ray dashboard answers at {address}: {problem}",
            "Start one with `ray start --head --include-dashboard=true`, or give --address",
            code="submit",
        ) from None


def choose_on_terminal(job: str) -> str:
    """Prompt for what to do with the job after Ctrl-C; "detach" without a terminal."""
    if not sys.stdin.isatty():
        return "detach"
    while True:
        try:
            print(
                f"\n{job} is running on the cluster. [d]etach, [s]top it, or [c]ontinue? ", end="", flush=True
            )
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            return "detach"
        choice = {"d": "detach", "s": "stop", "c": "continue"}.get(answer.strip().lower()[:1])
        if choice or not answer:
            return choice or "detach"


class _Log:
    """A job's log, each line printed once, however often the connection is lost."""

    def __init__(self, client: Any, job: str, patience_s: float) -> None:
        self.client, self.job, self.patience_s = client, job, patience_s
        self.printed = 0
        self.status = ""
        self.info: Any = None

    def follow(self) -> None:
        """Print until the job has ended.

        Raises:
            ConnectionError: nothing answered for longer than the patience.
            KeyboardInterrupt: Ctrl-C.
        """
        while True:
            try:
                asyncio.run(self._tail())
            except (TimeoutError, OSError, RuntimeError) as error:
                logging.getLogger(__name__).info("log of %s: %s", self.job, error)
            if self._ended():
                return
            time.sleep(RETRY_S)

    async def _tail(self) -> None:
        import aiohttp

        seen = 0
        lines = self.client.tail_job_logs(self.job)
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    text = await anext(lines)
                fresh = text[max(0, self.printed - seen) :]
                seen += len(text)
                if fresh:
                    print(fresh, end="", flush=True)
                    self.printed = max(self.printed, seen)
        except StopAsyncIteration:
            return
        except aiohttp.ClientError as error:
            raise ConnectionError(str(error)) from None

    def _ended(self) -> bool:
        """Whether the job has ended, as soon as the dashboard answers."""
        deadline = time.monotonic() + self.patience_s
        lost = False
        while True:
            try:
                self.info = _within_limit(lambda: self.client.get_job_info(self.job))
            except (OSError, RuntimeError) as error:
                if "does not exist" in str(error):
                    raise StageError(
                        f"the cluster has no job {self.job}",
                        "Look for it with `ray job list`",
                        code="submit",
                    ) from None
                if time.monotonic() > deadline:
                    raise ConnectionError(str(error)) from None
                if not lost:
                    print("\n[connection lost; the job runs on, trying again]", file=sys.stderr, flush=True)
                    lost = True
                time.sleep(RETRY_S)
                continue
            if lost:
                print("[connected again]", file=sys.stderr, flush=True)
            self.status = str(self.info.status.value)
            return bool(self.info.status.is_terminal())


def _within_limit(request: Callable[[], Any]) -> Any:
    """The answer to a request that has no time limit of its own.

    Raises:
        TimeoutError: none came within `ANSWER_S`.
    """
    answer: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()

    def run() -> None:
        try:
            answer.put((request(), None))
        except Exception as error:
            answer.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = answer.get(timeout=ANSWER_S)
    except queue.Empty:
        raise TimeoutError(f"no answer within {ANSWER_S:.0f} s") from None
    if error:
        raise error
    return value
