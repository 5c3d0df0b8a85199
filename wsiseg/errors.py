"""The errors of wsiseg: what went wrong, where, what was expected, and the remedy.

Each is also a builtin, so that code which knows nothing of wsiseg can catch it::

    WsisegError
    ├── UnreadableSlideError (OSError)          the file cannot be opened or decoded
    │   └── UnsupportedFormatError (ValueError) the file is sound, but no reader takes it
    ├── MissingSpacingError (ValueError)        no believable pixel size; the remedy is --mpp
    ├── SpaceError (ValueError)                 a box, space or shape that does not fit
    ├── ModelError (ValueError)                 a model, its weights or its maps are not usable
    ├── UnknownModelError (KeyError)            no model of that name
    ├── MissingExtraError (ImportError)         an optional package is needed; names the extra
    ├── OutOfMemoryError (MemoryError)          a single forward does not fit into memory
    ├── RegionError (RuntimeError)              work on one region failed; names the region
    ├── ClusterError (ConnectionError)          no scheduler, or no worker that can be used
    ├── RunFolderError (OSError)                the run folder cannot be used
    │   ├── DamagedFolderError (ValueError)       what it says of itself cannot be read
    │   ├── ForeignFolderError (FileExistsError)  it holds files that are not ours
    │   ├── KeyMismatchError (ValueError)         it holds another run
    │   ├── LockedError (BlockingIOError)         another run works in it
    │   └── OutputError (OSError)                 it cannot be written (full, read-only, quota)
    ├── InputFileError (ValueError)             a GeoJSON or label image is not as it should be
    ├── SettingsError (ValueError)              a setting or option that cannot be
    └── InterruptedRunError (RuntimeError)      the run was told to stop; the folder can be resumed
"""

from __future__ import annotations

__all__ = [
    "ClusterError",
    "DamagedFolderError",
    "ForeignFolderError",
    "InputFileError",
    "InterruptedRunError",
    "KeyMismatchError",
    "LockedError",
    "MissingExtraError",
    "MissingSpacingError",
    "ModelError",
    "OutOfMemoryError",
    "OutputError",
    "RegionError",
    "RunFolderError",
    "SettingsError",
    "SpaceError",
    "UnknownModelError",
    "UnreadableSlideError",
    "UnsupportedFormatError",
    "WsisegError",
]


class WsisegError(Exception):
    """Root of every error that wsiseg raises on purpose."""

    def __str__(self) -> str:  # KeyError and OSError would quote or reorder the message
        return str(self.args[0]) if self.args else ""


class UnreadableSlideError(WsisegError, OSError):
    """The file cannot be opened, or a part of it cannot be decoded."""


class UnsupportedFormatError(UnreadableSlideError, ValueError):
    """The file may be sound, but no reader takes it."""


class MissingSpacingError(WsisegError, ValueError):
    """The pixel size is unknown or not believable; give it with ``--mpp`` (or ``mpp=``)."""


class SpaceError(WsisegError, ValueError):
    """A box, shape or space does not fit where it is used."""


class ModelError(WsisegError, ValueError):
    """A model, its weights or what it returned cannot be used."""


class UnknownModelError(WsisegError, KeyError):
    """No model has that name."""


class MissingExtraError(WsisegError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


class OutOfMemoryError(WsisegError, MemoryError):
    """A forward of one batch does not fit into memory, though nothing else runs beside it."""


class RegionError(WsisegError, RuntimeError):
    """Work on one region failed; the message names the region."""

    cause: str | None = None
    """What became of its process, such as SIGSEGV or timeout, where it had one to itself."""


class ClusterError(WsisegError, ConnectionError):
    """A cluster cannot be used: no scheduler, or no worker that computes as this process does."""


class RunFolderError(WsisegError, OSError):
    """The run folder cannot be used as it is."""


class ForeignFolderError(RunFolderError, FileExistsError):
    """The folder holds files that wsiseg did not write."""


class DamagedFolderError(RunFolderError, ValueError):
    """What the folder says of its run is damaged: it can only be started over."""


class KeyMismatchError(RunFolderError, ValueError):
    """The folder holds a run with other inputs, model or parameters."""


class LockedError(RunFolderError, BlockingIOError):
    """Another run is at work in the folder."""


class OutputError(RunFolderError):
    """The folder cannot be written: full disk, read-only, quota or a vanished mount."""


class InputFileError(WsisegError, ValueError):
    """A GeoJSON, label image or settings file is not what was expected."""


class SettingsError(WsisegError, ValueError):
    """A setting is outside what can be done; the message names it and what is possible."""


class InterruptedRunError(WsisegError, RuntimeError):
    """The run was told to stop; what is done is kept, and the same command resumes."""
