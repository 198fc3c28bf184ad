"""Files that stand where another one was meant to be, under its name: pointers of Git LFS, and web pages."""

START = 64
"""Bytes of a file that are enough to tell."""


def stand_in(start: bytes) -> str | None:
    """Return what a file is instead, and what to do, by its first bytes; None if it may be the file itself."""
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself: fetch that (git lfs pull)"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file itself: download that again"
    return None
