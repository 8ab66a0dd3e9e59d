"""TODO."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ctplatform.errors import StageError

RETRY_S = 2.0
QUIET_S = 60.0  # a connection that says nothing for so long may be dead: take a new one
ANSWER_S = 30.0
INTERRUPTED = 130
LOST = 75  # sysexits.h: a temporary failure, try again


@dataclass(frozen=True)
class Follow:
    """How a job is followed.

    Args:
        patience_s: how long a dashboard may stay away before we leave the job to itself.
        ask: asked after Ctrl-C: "detach", "stop" or "continue".
    """

    patience_s: float = 900.0
    ask: Callable[[str], str] | None = None


def attach(job: str, *, address: str, client: Any = None, options: Follow | None = None) -> int:
    """Follow a submitted job to its end; exit status as of `submit`.

    Raises:
        StageError: no dashboard at `address`, or no such job.
    """
    client = client or connect(address)
    options = options or Follow()
    log = _Log(client, job, options.patience_s)
    again = f"drasclr submit --address {address} --attach {job}"
    while True:
        try:
            log.follow()
            break
        except KeyboardInterrupt:
            choice = (options.ask or ask_on_terminal)(job)
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
        StageError: none answers, or it wants a token that we do not have.
    """
    # Ray reads this when it is imported: clusters that ask for a token get it, others ignore it.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    for name in ("ray._private.runtime_env.packaging", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("ray._private.runtime_env.working_dir", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except RayError as error:
        raise StageError(
            f"there is no token for the cluster: {str(error).partition('.')[0]}",
            "Put it into RAY_AUTH_TOKEN, or its file into RAY_AUTH_TOKEN_PATH; a cluster that asks for none is reached "
            "with RAY_AUTH_MODE=disabled",
            code="token",
        ) from None
    except (ConnectionError, RuntimeError) as error:
        problem = str(error).splitlines()[0]
        if "auth" in problem.lower() or "401" in problem or "token" in problem.lower():
            raise StageError(
                f"the dashboard at {address} refuses us: {problem}",
                "Put the cluster's token into RAY_AUTH_TOKEN, or its file into RAY_AUTH_TOKEN_PATH",
                code="token",
            ) from None
        raise StageError(
            f"no Ray dashboard answers at {address}: {problem}",
            "Start one with `ray start --head --include-dashboard=true`, or give --address",
            code="submit",
        ) from None


def ask_on_terminal(job: str) -> str:
    """What to do with the job after Ctrl-C; without a terminal it is left alone."""
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
    """A job's log, printed once, however often the connection is lost."""

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
                async with asyncio.timeout(QUIET_S):
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
        """Ask until somebody answers."""
        deadline = time.monotonic() + self.patience_s
        told = False
        while True:
            try:
                self.info = _answered(lambda: self.client.get_job_info(self.job))
            except (OSError, RuntimeError) as error:
                if "does not exist" in str(error):
                    raise StageError(
                        f"the cluster knows no job {self.job}",
                        "Look for it with `ray job list`",
                        code="submit",
                    ) from None
                if time.monotonic() > deadline:
                    raise ConnectionError(str(error)) from None
                if not told:
                    print("\n[connection lost; the job runs on, trying again]", file=sys.stderr, flush=True)
                    told = True
                time.sleep(RETRY_S)
                continue
            if told:
                print("[connected again]", file=sys.stderr, flush=True)
            self.status = str(self.info.status.value)
            return self.info.status.is_terminal()


def _answered(ask: Callable[[], Any]) -> Any:
    """The answer to a request that knows no time limit of its own.

    Raises:
        TimeoutError: none came.
    """
    answer: queue.Queue = queue.Queue()

    def run() -> None:
        try:
            answer.put((ask(), None))
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
