"""Readers, one file format and one third-party library per file.

Each public module here has ``open_contents(path, scene, z) -> Contents``. It raises
UnsupportedFormatError for a file that is not its own (the next reader then tries) and
UnreadableSlideError for one that is, but is damaged. Which is asked when: wsiseg.image.open.
"""
