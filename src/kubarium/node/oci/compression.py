"""Layers as their tar stream, whatever they are compressed with (told by their first bytes)."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import IO, Any, cast

from kubarium.node.oci.errors import ImageProblem

GZIP, ZSTD, BZIP2, XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"
# The standard library's (Python 3.14), and its backport.
_ZSTD_MODULES = ("compression.zstd", "backports.zstd")
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)


@contextmanager
def decompressed(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """``stream`` (which can seek) without its compression; reading may raise one of BROKEN."""
    first = stream.read(6)
    stream.seek(0)
    if first.startswith(ZSTD):
        with _zstd(stream) as found:
            yield found
        return
    kinds: dict[bytes, Any] = {GZIP: _gzip, BZIP2: bz2.BZ2File, XZ: lzma.LZMAFile}
    opener = next((kinds[magic] for magic in kinds if first.startswith(magic)), None)
    yield cast("IO[bytes]", opener(stream) if opener else stream)


def _gzip(stream: IO[bytes]) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=stream)


def suffix_of(stream: IO[bytes]) -> str:
    """What a layer's media type ends in: ``+gzip``, ``+zstd`` or nothing."""
    first = stream.read(4)
    stream.seek(0)
    return "+gzip" if first.startswith(GZIP) else "+zstd" if first.startswith(ZSTD) else ""


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextmanager
def _zstd(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    for name in _ZSTD_MODULES:
        if _there(name):
            module = import_module(name)
            try:
                yield module.ZstdFile(stream)
            except module.ZstdError as error:
                raise OSError(str(error)) from error
            return
    program = shutil.which("zstd")
    if program is None:
        raise ImageProblem(
            "a layer is compressed with zstd, which this Python cannot read: install the extra "
            "(pip install 'kubarium[images]') or the program zstd"
        )
    with _through(program, stream) as found:
        yield found


@contextmanager
def _through(program: str, stream: IO[bytes]) -> Iterator[IO[bytes]]:
    argv = [program, "-dc"]
    os.lseek(stream.fileno(), 0, os.SEEK_SET)  # what we have looked at was read ahead
    with subprocess.Popen(
        argv, stdin=stream.fileno(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process.stdout
            problem = process.stderr.read().decode(errors="replace").strip()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise OSError(problem or f"{program} ended with {process.returncode}")
