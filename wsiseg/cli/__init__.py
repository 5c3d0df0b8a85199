"""The command line: a file per command; all that prints is here.

Results go to standard output, progress and messages to standard error. Exit codes: 0 done,
1 failed, 2 wrong usage, 75 another run is in the folder, 130 interrupted, 143 terminated.
"""

from wsiseg.cli.entry import app, main

__all__ = ["app", "main"]
