"""Whether an uncompressed audio file is cut short: its header promises more bytes than it has.

libsndfile shortens such files silently, so the promise is read here: RIFF and RF64 (WAV), W64, AIFF and AU.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

# programs that stream to a pipe leave the size open: nothing is promised
_OPEN_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x7FFFFFFFFFFFFFFF)


def missing_bytes(handle: BinaryIO, size: int) -> tuple[int, int] | None:
    """(bytes of audio that are there, bytes promised) of a file cut short, else None. The handle ends at 0.

    size: of the whole file in bytes. Files of other kinds, and damaged headers, give None.
    """
    try:
        found = _promise(handle)
    except struct.error:
        found = None
    handle.seek(0)
    if found is None:
        return None
    start, promised = found
    return (max(0, size - start), promised) if promised not in _OPEN_SIZES and start + promised > size else None


def _promise(handle: BinaryIO) -> tuple[int, int] | None:
    """(where the audio begins, how many bytes of it are promised)."""
    start = handle.read(16)
    if start[:4] == b".snd":
        return struct.unpack(">I", start[4:8])[0], struct.unpack(">I", start[8:12])[0]
    if start[:4] in (b"RIFF", b"RF64"):
        wide = None
        for name, position, length in _chunks(handle, 12, "<4sI", 8, 2):
            if name == b"ds64":
                handle.seek(position + 8)
                wide = struct.unpack("<Q", handle.read(8))[0]
            if name == b"data":
                return position, wide if wide is not None and length == 0xFFFFFFFF else length
    if start[:4] == b"FORM":
        for name, position, length in _chunks(handle, 12, ">4sI", 8, 2):
            if name == b"SSND":
                return position, length
    if start == _W64_RIFF:
        for name, position, length in _chunks(handle, 40, "<16sQ", 24, 8):
            if name[:4] == b"data":
                return position, length - 24  # a W64 chunk's length counts its own header
    return None


_W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")


def _chunks(handle: BinaryIO, at: int, layout: str, header: int, align: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of content and length of every chunk."""
    while True:
        handle.seek(at)
        if len(raw := handle.read(header)) < header:
            return
        name, length = struct.unpack(layout, raw)
        yield name, at + header, length
        step = length if header == 24 else header + length
        if step < header:
            return
        at += step + -step % align
