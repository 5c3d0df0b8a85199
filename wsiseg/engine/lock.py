"""One run per folder: a lock file that tells a living holder from a dead one.

The file holds one JSON record (host, boot, process, token) and is born complete or not at all.
A holder on this host is judged by its process: one that is gone is succeeded at once. A holder
elsewhere is judged by its heartbeat alone, the file's mtime, which it renews every 15 s: it counts
as dead when that is old by the clock of the file system *and* does not move while we watch, so
that neither clock skew nor a wrong time zone can break a living lock.

To succeed a dead holder of token T a process creates ``lock.T``, which only one can do, sees that
the lock still says T, and renames its file over it. A claimant that dies on the way is succeeded
by the same rule. Results are safe even if a holder is misjudged: whoever saves compares its
token with the lock's (`current_token`), so only one run can publish.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from wsiseg.atomic import temporary_name, write_new, writing
from wsiseg.errors import LockedError

__all__ = [
    "LOCK",
    "Heartbeat",
    "RunLock",
    "clear",
    "current_token",
    "holder",
    "identity",
    "lives_here",
]

LOCK = "lock"
"""Name of the lock file; claims on it are called lock.<token>."""

_TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How often a holder shows that it lives, and when others stop believing it."""

    every_s: float = 15.0
    """Seconds between two signs of life."""
    stale_s: float = 120.0
    """A holder on another host that has been silent for longer may be dead."""

    @property
    def watch_s(self) -> float:
        """Seconds for which a silent holder is watched before it is succeeded."""
        return 2.2 * self.every_s


@dataclass(frozen=True, slots=True)
class _Record:
    host: str
    pids: str
    """The namespace in which pid counts: containers of one host may share a name."""
    boot: str
    pid: int
    start: float
    token: str
    since: str

    @property
    def who(self) -> str:
        """For an error message."""
        return f"process {self.pid} on {self.host}, since {self.since}"


class RunLock:
    """The lock on one folder, held from creation until `release` or the end of the block.

    A holder elsewhere that showed life not long ago is an error at once, or, with ``waiting``, is
    watched until it shows life again (then it is an error) or counts as dead; ``waiting`` is called
    every now and then with the name of the holder, and may raise to end the wait.

    Raises LockedError where a living run holds it, OutputError where it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        heartbeat: Heartbeat | None = None,
        *,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        self.path = folder / LOCK
        self.token = uuid4().hex
        """Drawn anew for every run; fences off those who hold an older one."""
        self._heartbeat, self._waiting = heartbeat or Heartbeat(), waiting
        self._record = _own_record(self.token)
        with writing(self.path):
            self._acquire()
            self._remove_claims()
            self._file = os.open(self.path, os.O_RDONLY)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="wsiseg-lock", daemon=True)
        self._thread.start()

    @property
    def held(self) -> bool:
        """Whether the lock is still ours: false once released, succeeded or deleted."""
        return current_token(self.path.parent) == self.token

    def release(self) -> None:
        """Give the lock back; does nothing if it is no longer ours."""
        if os.getpid() != self._record.pid or self._stop.is_set():  # a forked child holds nothing
            return
        self._stop.set()
        self._thread.join()
        os.close(self._file)
        with suppress(OSError):
            if self.held:
                self.path.unlink()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self) -> None:
        # on the open file, not on the path: a successor's lock is never kept alive by us
        while not self._stop.wait(self._heartbeat.every_s):
            with suppress(OSError):
                os.utime(self._file)

    def _acquire(self) -> None:
        for _ in range(100):  # each failed turn means that another process moved the lock
            if _create(self.path, self._record) or self._succeed(self.path):
                return
        raise LockedError(f"{self.path} keeps changing hands: are several runs being started?")

    def _remove_claims(self) -> None:
        """Clear away claims on former holders: they came too late, and can no longer win."""
        for claim in self.path.parent.glob(f"{LOCK}.*"):
            if claim.name != f"{LOCK}.{self.token}":
                claim.unlink(missing_ok=True)

    def _succeed(self, target: Path) -> bool:
        """Take ``target`` over from a dead holder; False if it moved meanwhile."""
        seen = _read(target)
        if seen is None:
            return False
        token, record = seen
        self._must_be_dead(target, token, record)
        claim = self.path.with_name(f"{LOCK}.{token}")
        if not _create(claim, self._record) and not self._succeed(claim):
            return False
        if _token(target) != token:  # another claimant was faster, and has finished
            claim.unlink(missing_ok=True)
            return False
        os.replace(claim, target)
        return True

    def _must_be_dead(self, target: Path, token: str, record: _Record | None) -> None:
        _must_be_dead(target, token, record, self._heartbeat, self._waiting)


def current_token(folder: Path) -> str | None:
    """The token of the run that may publish in ``folder``; None if no run is at work there."""
    return _token(folder / LOCK)


def holder(folder: Path, heartbeat: Heartbeat | None = None) -> str | None:
    """Who holds the lock of ``folder``, None where nobody does who lives; writes nothing.

    Judged as whoever wants the lock does, but that a holder elsewhere is not watched, and its last
    sign of life is compared with the clock of this machine.
    """
    seen = _read(folder / LOCK)
    if seen is None:
        return None
    _, record = seen
    lives = _lives(folder / LOCK, record)
    if lives is None:
        lives = time.time() - _mtime(folder / LOCK) <= (heartbeat or Heartbeat()).stale_s
    return _who(record) if lives else None


def clear(
    folder: Path,
    heartbeat: Heartbeat | None = None,
    *,
    waiting: Callable[[str], None] | None = None,
) -> None:
    """Remove the lock of a dead holder, which fences it off should it live after all.

    Raises LockedError where it lives; for ``waiting`` see RunLock.
    """
    target = folder / LOCK
    seen = _read(target)
    if seen is None:
        return
    with writing(target):
        _must_be_dead(target, *seen, heartbeat or Heartbeat(), waiting)
        if _token(target) == seen[0]:
            target.unlink(missing_ok=True)


def identity(token: str) -> dict[str, Any]:
    """A record of this process for locks elsewhere: host, boot, pid, start, ``token``, since."""
    return asdict(_own_record(token))


def lives_here(told: Mapping[str, Any]) -> bool | None:
    """Whether the process of an `identity` lives; None where it is of another host or boot.

    Raises TypeError for what is no identity.
    """
    record, own = _Record(**told), _own_record("")
    return _runs(record) if _is_local(record, own) and record.boot == own.boot else None


def _lives(target: Path, record: _Record | None) -> bool | None:
    """Whether the holder of ``target`` lives; None where only its heartbeat can tell."""
    own = _own_record("")
    if record is None or not _is_local(record, own):
        return None
    if record.boot == own.boot:
        return _runs(record)
    # older than this boot, so of a former one; else of another host with the same name
    return None if _mtime(target) >= psutil.boot_time() else False


def _must_be_dead(
    target: Path,
    token: str,
    record: _Record | None,
    heartbeat: Heartbeat,
    waiting: Callable[[str], None] | None,
) -> None:
    lives = _lives(target, record)
    if lives is None:
        _must_be_silent(target, token, _who(record), heartbeat, waiting)
    elif lives:
        raise LockedError(
            f"{target.parent.parent} is in use by {_who(record)}: wait for it, stop it, or choose "
            "another --out"
        )


def _must_be_silent(
    target: Path,
    token: str,
    who: str,
    heartbeat: Heartbeat,
    waiting: Callable[[str], None] | None,
) -> None:
    first = _mtime(target)
    age = _file_system_time(target.parent) - first
    left = heartbeat.stale_s - age if waiting else 0.0  # until it may be dead
    watched = heartbeat.watch_s + min(max(0.0, left), heartbeat.stale_s)
    deadline = time.monotonic() + watched
    silent = age > heartbeat.stale_s or waiting is not None
    while silent and time.monotonic() < deadline:
        if waiting:
            waiting(who)
        time.sleep(heartbeat.every_s / 10)
        if _token(target) != token:
            return  # gone or succeeded: the caller finds that out
        if _mtime(target) != first:
            age, silent = 0.0, False
    if not silent:
        raise LockedError(
            f"{target.parent.parent} is in use by {who} (last sign of life {age:.0f} s ago): wait "
            f"for it, or, if it is dead, for {heartbeat.stale_s:.0f} s"
        )


def _who(record: _Record | None) -> str:
    return record.who if record else "a run whose record cannot be read"


def _create(path: Path, record: _Record) -> bool:
    """Bring ``path`` into being with its whole content; False if it exists."""
    text = json.dumps(asdict(record)).encode()
    temporary = path.parent / temporary_name(record.token)
    write_new(temporary, [text])
    try:
        os.link(temporary, path)  # unlike O_EXCL, nobody can see an empty lock
        return True
    except (FileExistsError, FileNotFoundError):  # or a holder has just swept our file away
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        return _create_exclusively(path, text)  # exFAT, SMB and some FUSE mounts have no links
    finally:
        temporary.unlink(missing_ok=True)


def _create_exclusively(path: Path, text: bytes) -> bool:
    try:
        write_new(path, [text])
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> tuple[str, _Record | None] | None:
    """Token and record of a lock file, None if there is none; no record if it is damaged."""
    try:
        text, inode = path.read_bytes(), path.stat().st_ino
    except FileNotFoundError:
        return None
    with suppress(ValueError, TypeError):
        record = _Record(**json.loads(text))
        if _TOKEN.fullmatch(record.token):  # it becomes a part of file names
            return record.token, record
    return f"torn-{inode}", None  # after a power cut nobody can say whose it was


def _token(path: Path) -> str | None:
    seen = _read(path)
    return seen[0] if seen else None


def _own_record(token: str) -> _Record:
    pid = os.getpid()
    since = datetime.now(UTC).isoformat(timespec="seconds")
    start, _ = _process(pid) or (0.0, False)
    return _Record(socket.gethostname(), _pid_namespace(), _boot(), pid, start, token, since)


def _is_local(record: _Record, own: _Record) -> bool:
    return (record.host, record.pids) == (own.host, own.pids)


def _runs(record: _Record) -> bool:
    """Whether the process of a record of this boot lives; errs towards believing that it does."""
    if not psutil.pid_exists(record.pid):
        return False
    found = _process(record.pid)
    if found is None:  # another user's, and hidden from us
        return True
    start, zombie = found
    return not zombie and abs(start - record.start) < 2


def _process(pid: int) -> tuple[float, bool] | None:
    """When a process started, and whether it is a zombie; None if that cannot be seen."""
    try:
        # field 22 of proc(5), ticks since boot: psutil's create_time moves when the clock is set
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return float(fields[18]), state in "ZX"
    except OSError:
        return _process_without_proc(pid)


def _process_without_proc(pid: int) -> tuple[float, bool] | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        process = psutil.Process(pid)
        return float(process.create_time()), process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _file_system_time(folder: Path) -> float:
    """Now, by the clock that stamps the files of ``folder``."""
    probe = folder / temporary_name()
    with probe.open("xb") as file:
        probe.unlink()
        return os.fstat(file.fileno()).st_mtime
