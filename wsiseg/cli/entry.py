"""The command line as a whole: its commands, and its errors and signals as exit codes."""

from __future__ import annotations

import signal
import sys
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from wsiseg.cli.archive import manifest, status, verify
from wsiseg.cli.batch import batch
from wsiseg.cli.dataset import dataset
from wsiseg.cli.demo import demo
from wsiseg.cli.evaluate import evaluate
from wsiseg.cli.look import info, models
from wsiseg.cli.say import FAILED, INTERRUPTED, LOCKED, TERMINATED, USAGE, say
from wsiseg.cli.segment import segment
from wsiseg.cli.train import train
from wsiseg.errors import LockedError, SettingsError, WsisegError

__all__ = ["app", "main"]

app = typer.Typer(
    name="wsiseg",
    help="Gigapixel pathology slides into cells one can count on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(segment)
app.command()(info)
app.command()(demo)
app.command()(batch)
app.command()(status)
app.command()(verify)
app.command()(manifest)
app.command()(evaluate)
app.command()(train)
app.add_typer(dataset, name="dataset")
app.command()(models)


class Terminated(BaseException):
    """SIGTERM arrived."""


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, TextIOWrapper):  # names of files may be in another encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this code without a word
            _stopped("interrupted", INTERRUPTED)
    except WsisegError as error:
        code = _failed(error)
    except (KeyboardInterrupt, typer.Abort):
        code = _stopped("interrupted", INTERRUPTED)
    except Terminated:
        code = _stopped("terminated", TERMINATED)
    except BrokenPipeError:  # the reader of our output has gone, which is its right
        sys.stderr.close()
        code = FAILED
    except Exception as error:
        code = _usage(error)
    sys.exit(int(code or 0))


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Gigapixel pathology slides into cells one can count on."""
    if version:
        from wsiseg import __version__

        print(f"wsiseg {__version__}")
        raise typer.Exit


def _failed(error: WsisegError) -> int:
    # names of files may hold what a terminal would obey
    say("wsiseg: " + "".join(c if c.isprintable() or c == "\n" else "?" for c in str(error)))
    if isinstance(error, LockedError):
        return LOCKED
    return USAGE if isinstance(error, SettingsError) else FAILED


def _stopped(how: str, code: int) -> int:
    say(f"wsiseg: {how}; what is done is kept, and the same command goes on from there")
    return code


def _usage(error: Exception) -> int:
    """Click's own complaints about the command line; anything else is a bug and is shown whole."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return int(getattr(error, "exit_code", USAGE))


def _terminate(*_: object) -> NoReturn:
    raise Terminated
