"""Event files of TensorBoard, written by tensorboardX. The only module that uses its undocumented writer.

`tensorboardX.SummaryWriter` queues events for another thread and has no call that returns once they are all on disk,
which a checkpoint relies on. Its `EventsWriter` writes without a queue, but keeps the name of its file in a private
attribute; the name is found here by listing the folder instead.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path


class EventFile:
    """One event file, open for writing.

    Args:
        folder: that the file is created in; it must exist.
        number: of the file within its run; ends its name, for TensorBoard reads files in the order of their names.

    Attributes:
        path: of the file.
    """

    def __init__(self, folder: Path, number: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        suffix = f".{number:05d}"
        self._writer = EventsWriter(str(folder / "events"), suffix)
        self.path = max(folder.glob(f"events.*{suffix}"), key=lambda path: path.stat().st_mtime_ns)

    def restart(self, step: int) -> None:
        """Mark the start of a resumed run: TensorBoard drops what earlier files hold from this step on."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=step, session_log=start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one step, by tag."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        rows = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=rows)))

    def flush(self) -> None:
        """Write everything to disk before returning."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()
