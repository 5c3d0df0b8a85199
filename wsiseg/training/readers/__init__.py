"""Readers of labelled images, a layout per file. None of them knows torch."""
