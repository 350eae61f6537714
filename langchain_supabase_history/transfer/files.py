"""Files that conversations are written to and read from.

A file stands under its name only when it is whole: it is written beside it and renamed at the end.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeGuard, cast

from ..core.settings import as_path
from ..errors import InvalidInput, NotConfigured


def _zstd() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise NotConfigured(
            "Files that end in .zst need zstandard.", advice="pip install 'langchain_supabase_history[zstd]'"
        ) from error
    return zstandard


@contextmanager
def written(target: str | os.PathLike[str] | IO[bytes]) -> Iterator[BinaryIO]:
    """A file to write to: a path, "-" for standard output, or a file that is open already, which stays open.

    A path that ends in .gz or .zst is compressed. A pipe or a device (/dev/stdout) is written to as it is.

    Raises:
        InvalidInput: The target is none of these, or cannot be written.
    """
    if isinstance(target, io.TextIOBase):
        raise InvalidInput("target must be a file for bytes: open it with mode 'wb'.")
    if callable(getattr(type(target), "write", None)):
        yield cast("BinaryIO", target)
        return
    if isinstance(target, str) and target == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = as_path(target, "target")
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder: name a file.")
    with _reported(path, "written"):
        if path.exists() and not path.is_file():
            with path.open("wb") as raw, _compressed(raw, path) as out:
                yield out
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as raw, _compressed(raw, path) as out:
                yield out
            with suppress(OSError):  # as a new file would be, not as a temporary one is
                Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)


@contextmanager
def _reported(path: Path, verb: str) -> Iterator[None]:
    """Says of an error of the disk which file it is about."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(f"{path} cannot be {verb}: {error.strerror}.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _compressed(raw: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    if path.suffix.lower() == ".gz":
        with gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as out:
            yield cast("BinaryIO", out)
    elif path.suffix.lower() == ".zst":
        with _zstd().ZstdCompressor(write_checksum=True).stream_writer(raw, closefd=False) as out:
            yield out
    else:
        yield raw


def is_folder(source: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a source is the path of a folder."""
    return isinstance(source, (str, os.PathLike)) and source != "-" and as_path(source, "source").is_dir()


def reading_errors() -> tuple[type[Exception], ...]:
    """What a file raises while it is read: the disk's errors, and those of damaged .gz and .zst files."""
    found: list[type[Exception]] = [OSError, EOFError, zlib.error]
    if (zstandard := sys.modules.get("zstandard")) is not None:
        found.append(zstandard.ZstdError)
    return tuple(found)


@contextmanager
def opened(source: str | os.PathLike[str] | IO[bytes]) -> Iterator[BinaryIO]:
    """A file to read from: a path, "-" for standard input, or a file that is open already. Unpacks .gz and .zst.

    Raises:
        InvalidInput: There is no such file, or it cannot be read.
    """
    if isinstance(source, io.TextIOBase):
        raise InvalidInput("source must be a file of bytes: open it with mode 'rb'.")
    if callable(getattr(type(source), "read", None)):
        yield cast("BinaryIO", source)
        return
    if isinstance(source, str) and source == "-":
        yield sys.stdin.buffer
        return
    path = as_path(source, "source")
    with _reported(path, "read"):
        raw = path.open("rb")
    with raw:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                yield cast("BinaryIO", unpacked)
        elif path.suffix.lower() == ".zst":
            with _zstd().ZstdDecompressor().stream_reader(raw, closefd=False) as unpacked:
                yield io.BufferedReader(unpacked)
        else:
            yield raw
