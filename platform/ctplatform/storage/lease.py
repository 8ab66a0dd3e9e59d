"""A lease: one process at a time works on a part of a workspace, and the error of the others names it.

The lease is a small JSON file with the holder's host and process id, renewed every few seconds. On a disk it is created
only where it does not exist, atomically. Object stores offer no such operation through pyarrow: there it is written and
read again a moment later, and of two processes that started within that moment the one that wrote last has it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from ctplatform.errors import StageError
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

#: Seconds between two renewals.
BEAT_S = 10.0
#: Age of the last renewal in seconds from which a lease is stale: its holder has ended, or is cut off.
STALE_S = 60.0
#: Seconds between writing and reading again on an object store.
SETTLE_S = 1.0


@dataclass(frozen=True)
class Holder:
    """Content of a lease.

    Attributes:
        token: unlike that of any other holder.
        host: its name.
        pid: of the process.
        namespace: of process ids: equal on one machine, unlike in different containers on it.
        born: when the process started, by its operating system.
        since: when it took the lease, seconds since 1970.
        beat: when it last renewed the lease, seconds since 1970.
    """

    token: str
    host: str
    pid: int
    namespace: str
    born: float
    since: float
    beat: float

    def text(self) -> str:
        """Who and since when."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {self.pid} on {self.host} since {since}"

    def ended(self) -> bool:
        """Whether it is known to have ended: a process of this machine that is not there."""
        if (self.host, self.namespace) != (socket.gethostname(), _namespace()):
            return False
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.born) > 1)
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


def _interrupt_main() -> None:
    """Raise KeyboardInterrupt in the main thread, also where a library has replaced Python's handler of SIGINT."""
    main = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(KeyboardInterrupt))


class Lease:
    """A context in which this process alone works on a part of a workspace.

    Should another process take the lease over, this one is interrupted (KeyboardInterrupt in its main thread), and
    `lost` is true.

    Args:
        workspace: where.
        run: the training run; empty for what all runs share.
        take_over: take a stale lease.

    Raises:
        StageError: on entering: another process has it (code "in-use").
    """

    def __init__(self, workspace: Workspace, run: str = "", *, take_over: bool = False) -> None:
        self.workspace, self.parts, self.take_over = workspace, layout.lease(run), take_over
        self.what = f"run {run} of {workspace.display()}" if run else workspace.display()
        self.lost = False
        now = time.time()
        born = psutil.Process().create_time()
        self.holder = Holder(
            uuid.uuid4().hex, socket.gethostname(), os.getpid(), _namespace(), born, since=now, beat=now
        )
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        other = self._read()
        if other is not None and not other.ended():
            self._refuse_unless_stale(other)
        if other is not None or not self.workspace.is_local:
            self._write()
            if not self.workspace.is_local:
                time.sleep(SETTLE_S)
        elif not self.workspace.create_json(asdict(self.holder), *self.parts):
            self._refuse(self._read() or self.holder)
        if self._read() != self.holder:
            self._refuse(self._read() or self.holder)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        with contextlib.suppress(StageError):
            if not self.lost and self._mine():
                self.workspace.delete(*self.parts)

    def _refuse_unless_stale(self, other: Holder) -> None:
        age = time.time() - other.beat
        if age < STALE_S:
            self._refuse(other)
        if not self.take_over:
            raise StageError(
                f"{self.what} was in use by {other.text()}, which has given no sign of life for {age / 60:.0f} min",
                "If it has ended, or its machine has, give --take-over",
                code="in-use",
            )

    def _refuse(self, other: Holder) -> None:
        raise StageError(
            f"{self.what} is in use by {other.text()}",
            f"Wait until it has ended, or end it; --take-over takes what has been left for {STALE_S:.0f} s",
            code="in-use",
        )

    def _renew(self) -> None:
        while not self._end.wait(BEAT_S):
            with contextlib.suppress(StageError):  # the store failed; the next renewal may succeed
                if not self._mine():
                    self.lost = True
                    _interrupt_main()
                    return
                self._write(beat=time.time())

    def _mine(self) -> bool:
        now = self._read()
        return now is not None and now.token == self.holder.token

    def _read(self) -> Holder | None:
        """The holder; one of unknown identity and age where the file was cut."""
        try:
            return self.workspace.read_record(Holder, *self.parts)
        except StageError as error:
            if error.code == "missing":
                return None
            if error.code == "damaged":
                return Holder("", "an unknown host", 0, "", 0.0, since=0.0, beat=0.0)
            raise

    def _write(self, *, beat: float | None = None) -> None:
        values = asdict(self.holder) | ({} if beat is None else {"beat": beat})
        self.workspace.write_json(values, *self.parts)


def _namespace() -> str:
    """Of process ids, where the system has such; else that of the whole machine."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return (
                os.readlink("/proc/self/ns/pid")
                + Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            )
    return ""
