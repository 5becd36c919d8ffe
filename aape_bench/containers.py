"""Whether an uncompressed audio file is cut short: its header promises more bytes than it has.

libsndfile shortens such files silently, so the promise is read here: RIFF, RIFX and RF64 (WAV), W64, AIFF and AU.
Files of 2 GiB and more are taken as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

# Programs that stream to a pipe leave the size open: 0, or near the largest number that they could write.
_OPEN_FROM = 0x7FFF0000
# Less than this is no whole frame, but a writer's slip in the last bytes.
_SLACK = 8


def missing_bytes(handle: BinaryIO, size: int) -> tuple[int, int] | None:
    """(bytes of audio that are there, bytes promised) of a file cut short, else None. The handle ends at 0.

    size: of the whole file in bytes. Files of other kinds, and damaged headers, give None.
    """
    try:
        found = _promise(handle, size)
    except struct.error:
        found = None
    handle.seek(0)
    if found is None:
        return None
    start, promised = found
    there = max(0, size - start)
    return (there, promised) if 0 < promised < _OPEN_FROM and promised - there >= _SLACK else None


def _promise(handle: BinaryIO, size: int) -> tuple[int, int] | None:
    """(where the audio begins, how many bytes of it are promised)."""
    start = handle.read(16)
    if start[:4] in (b".snd", b"dns."):
        begin, length = struct.unpack(">II" if start[:4] == b".snd" else "<II", start[4:12])
        return begin, length
    if start[:4] in (b"RIFF", b"RIFX", b"RF64"):
        wide = None
        layout = ">4sI" if start[:4] == b"RIFX" else "<4sI"
        for name, position, length in _chunks(handle, size, 12, layout, 8, 2):
            if name == b"ds64":
                handle.seek(position + 8)
                wide = struct.unpack("<Q", handle.read(8))[0]
            if name == b"data":
                return position, wide if wide is not None and length == 0xFFFFFFFF else length
    if start[:4] == b"FORM":
        for name, position, length in _chunks(handle, size, 12, ">4sI", 8, 2):
            if name == b"SSND":
                return position, length
    if start == _W64_RIFF:
        for name, position, length in _chunks(handle, size, 40, "<16sQ", 24, 8):
            if name[:4] == b"data":
                return position, length - 24  # a W64 chunk's length counts its own header
    return None


_W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")


def _chunks(
    handle: BinaryIO, size: int, at: int, layout: str, header: int, align: int
) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of content and length of every chunk."""
    while at < size:
        handle.seek(at)
        if len(raw := handle.read(header)) < header:
            return
        name, length = struct.unpack(layout, raw)
        yield name, at + header, length
        step = length if header == 24 else header + length
        if step < header:
            return
        at += step + -step % align
