"""One job at a time writes to an output directory.

A lock is a small file that names the process that writes: in a local directory, beside the prefix of an object store.
The process renews it while it works. A lock whose process is known to have ended, on this machine, is removed; that of
another machine only when it is not renewed for a while and the user asked to take over.

Object stores here have no atomic creation: a lock is written, and believed when it is still there a moment later.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import NoReturn

from vcls_model import output_directories, storage
from vcls_model.commands import JobError, UsageError
from vcls_model.states import LockFile, read_state

_RENEWED_SECONDS = 15.0
# Without a renewal for so long, the process has ended or hangs.
_WATCHED_SECONDS = 60.0
# Wakes a job whose lock another job took, even while it waits for its workers.
_LOST = signal.SIGUSR1
# Two writers of one object see each other within this time.
_SETTLED_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class _Holder:
    """A process that holds a lock.

    Attributes:
        token: of this lock alone.
        job: what the job is called: `preprocess`.
        host: name of the machine.
        machine: tells this boot of the machine, and this container, from others with its name.
        pid, born: number of the process, and when it began in ticks of its machine: numbers are used again.
        since: when it took the lock, for a person.
        renewed: how often it has renewed the lock.
    """

    token: str
    job: str
    host: str
    machine: str
    pid: int
    born: int
    since: str
    renewed: int = 0

    @classmethod
    def this_process(cls, job: str) -> "_Holder":
        pid = os.getpid()
        since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        return cls(uuid.uuid4().hex, job, socket.gethostname(), _machine(), pid, _born(pid), since)

    @classmethod
    def read(cls, path: str) -> "_Holder | None":
        """Who holds a lock; None where there is no lock."""
        try:
            if not storage.exists(path):
                if not os.path.islink(path):
                    return None
                raise JobError(f"{path} is a link to nothing")
            content = read_state(path, LockFile)
            return cls(**{field.name: content[field.name] for field in dataclasses.fields(cls)})  # type: ignore[literal-required]
        except FileNotFoundError:
            return None
        except (JobError, IsADirectoryError):
            raise UsageError(f"{path} is a damaged lock: delete it when no job writes there any more") from None

    def to_json(self) -> bytes:
        return storage.to_json(dataclasses.asdict(self)).encode()

    def has_ended(self) -> bool | None:
        """Whether the process has ended; None where only its own machine knows."""
        if self.machine != _machine():
            return None
        return _born(self.pid) != self.born

    def __str__(self) -> str:
        return f"{self.job}, process {self.pid} on {self.host}, since {self.since}"


def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as stream:
            return f"{socket.gethostname()} {stream.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _born(pid: int) -> int:
    """When a process of this machine began, in clock ticks; 0 without /proc, -1 if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            state, *fields = stream.read().rpartition(")")[2].split()
            return -1 if state == "Z" else int(fields[18])
    except FileNotFoundError:
        if os.path.exists("/proc/self"):
            return -1
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return -1
    except PermissionError:
        pass
    return 0


def lock_path(directory: str) -> str:
    """Where the lock of an output directory lies."""
    if storage.is_object_store(directory):
        return directory.rstrip("/") + ".lock"
    return os.path.join(directory, storage.LOCK_NAME)


@contextlib.contextmanager
def locked_output(directory: str, job: str, *, take_over: bool) -> Iterator[None]:
    """Holds the lock of an output directory for as long as the block runs.

    Args:
        directory: where the job writes; it is made if it is not there, and removed again if it stays empty.
        job: what the job is called in messages.
        take_over: --resume or --overwrite: the lock of a machine that seems to be gone is removed.

    Raises:
        UsageError: another job writes there.
        JobError: another job took the lock while the block ran, which is interrupted.
    """
    output_directories.check_writable(directory)
    directory = storage.absolute(directory)
    path = lock_path(directory)
    made = not storage.is_object_store(directory) and not os.path.exists(directory)
    holder = _Holder.this_process(job)
    while not _create(path, holder):
        _remove_if_ended(directory, path, take_over)
    stopped, lost = threading.Event(), threading.Event()
    interrupts = threading.current_thread() is threading.main_thread()
    before = signal.signal(_LOST, _interrupt) if interrupts else None
    arguments = (path, holder, stopped, lost, interrupts)
    renewal = threading.Thread(target=_renew, args=arguments, name="lock", daemon=True)
    renewal.start()
    try:
        try:
            yield
        except KeyboardInterrupt:
            if not lost.is_set():
                raise
        if lost.is_set():
            raise JobError(f"another job took over {directory} while this one wrote there: see {path}")
    finally:
        stopped.set()
        renewal.join()
        if interrupts:
            signal.signal(_LOST, before)
        _release(path, holder)
        if made and os.path.isdir(directory) and not os.listdir(directory):
            os.rmdir(directory)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _create(path: str, holder: _Holder) -> bool:
    """Takes a lock if there is none."""
    if storage.is_object_store(path):
        if storage.exists(path):
            return False
        storage.write_atomically(path, holder.to_json())
        time.sleep(_SETTLED_SECONDS)
        winner = _Holder.read(path)
        return winner is not None and winner.token == holder.token
    os.makedirs(os.path.dirname(path), exist_ok=True)
    scratch = f"{path}-{holder.token}"
    try:
        _write_new(scratch, holder)
        try:
            os.link(scratch, path)  # all of it or nothing, unlike a file that is opened and then written
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                _write_new(path, holder)
            except FileExistsError:
                return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
    return True


def _write_new(path: str, holder: _Holder) -> None:
    with open(path, "xb", buffering=0) as stream:
        try:
            stream.write(holder.to_json())
        except OSError:  # a full disk: half a lock would have to be deleted by hand
            os.unlink(path)
            raise


def _remove_if_ended(directory: str, path: str, take_over: bool) -> None:
    holder = _Holder.read(path)
    if holder is None:
        return
    ended = holder.has_ended()
    if ended is None and take_over:
        print(
            f"note: {directory} is locked by {holder}; watching for {_WATCHED_SECONDS:g} s whether it still works",
            file=sys.stderr,
            flush=True,
        )
        deadline = time.monotonic() + _WATCHED_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(_RENEWED_SECONDS, _WATCHED_SECONDS) / 4)
            now = _Holder.read(path)
            if now != holder:
                ended = False
                break
        else:
            ended = True
    if not ended:
        gone = "" if ended is False else "; if that machine is gone, --resume takes over"
        raise UsageError(
            f"{directory} is being written by another job ({holder}): wait for its end, or name another --output{gone}"
        )
    print(f"note: removing the lock of a job that has ended ({holder})", file=sys.stderr)
    if storage.is_object_store(path):
        storage.delete(path)
        return
    # Two jobs may have come to this point: what is renamed is looked at before it goes.
    aside = f"{path}-{uuid.uuid4().hex}"
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        removed = _Holder.read(aside)
        if removed is not None and removed.token != holder.token:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        os.unlink(aside)


def _renew(path: str, holder: _Holder, stopped: threading.Event, lost: threading.Event, interrupts: bool) -> None:
    while not stopped.wait(_RENEWED_SECONDS):
        try:
            now = _Holder.read(path)
            if now is None or now.token != holder.token:
                lost.set()
                if interrupts:  # whoever took over must not find this job's files among its own
                    signal.pthread_kill(threading.main_thread().ident or 0, _LOST)
                return
            storage.write_atomically(path, dataclasses.replace(now, renewed=now.renewed + 1).to_json())
        except (OSError, JobError, UsageError):  # a store that does not answer for a moment; the next renewal tells
            continue


def _release(path: str, holder: _Holder) -> None:
    """Removes the lock if it is still this job's."""
    with contextlib.suppress(OSError, JobError, UsageError):  # nothing that the job did depends on it
        now = _Holder.read(path)
        if now is not None and now.token == holder.token:
            storage.delete(path)
