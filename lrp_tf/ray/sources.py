"""Names of files, shards and tables -> the images in them, each with a path for the tables and its place."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from lrp_tf.files import images
from lrp_tf.files.errors import LoadError, optional
from lrp_tf.ray.places import Place, file_system, is_remote, open_file

TAR, PARQUET = ".tar", ".parquet"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SUFFIXES = frozenset([*images.SUFFIXES, *images.UNREAD, TAR, PARQUET, *COMPRESSED])
"""Of the files that a folder is searched for."""
_BYTES = ("bytes", "image", "jpg", "jpeg", "png", "img", "content")  # usual names of a column of pictures
_THREADS = 16  # which list shards; a store takes longer to answer than to send


class Columns(NamedTuple):
    """Which columns of parquet files hold what.

    Attributes:
        image: bytes of pictures, as JPEG; None: the only column of bytes, or the one with a usual name.
        id: the names of rows; None: their numbers from 1.
    """

    image: str | None = None
    id: str | None = None


_ANY = Columns()


class Found(NamedTuple):
    """One image, or a file that cannot be searched for images.

    Attributes:
        path: what tables call it: "photos/1.jpg", "shard.tar/1.jpg", "photos.parquet:17".
        relative: the part of it that names results.
        place: where it is; None: `path` is a file, or `reason` is given.
        reason: why there is none.
    """

    path: str
    relative: str
    place: Place | None = None
    reason: str | None = None


def find(names: Iterable[str | os.PathLike[str]], columns: Columns = _ANY) -> list[Found]:
    """The images that names stand for: files, folders, patterns, lists, URIs, and what is in shards and tables.

        found = sources.find(["photos", "shards/*.tar", "s3://bucket/photos.parquet"])

    Raises:
        ValueError: see `images.find`, `in_stores` and `expand`.
    """
    listed: list[tuple[str, str]] = []
    for name in (os.fspath(name) for name in names):
        listed += in_stores([name]) if is_remote(name) else images.find([name], suffixes=SUFFIXES)
    return list(expand(listed, columns))


def in_stores(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The files that URIs stand for, as `images.find` gives those of paths.

    Args:
        names: each a file, a folder or, in its last part, a glob pattern: "s3://bucket/shard-*.tar".

    Raises:
        ValueError: a folder or pattern without any image or shard; a store that does not answer.
    """
    for name in names:
        try:
            found = list(_in_store(name))
        except (OSError, ValueError, NotImplementedError) as error:
            raise LoadError(f"{name!r} cannot be listed: {error}") from error
        if not found:
            raise LoadError(f"{name!r} holds no image. Expected files ending in {' '.join(sorted(SUFFIXES))}")
        yield from found


def _in_store(name: str) -> Iterator[tuple[str, str]]:
    fs = optional("pyarrow.fs", extra="ray", what="which reads s3://, gs:// and other stores")
    system, path = file_system(name)
    scheme = name[: name.index("://") + 3]
    root, _, last = path.rstrip("/").rpartition("/")
    magic = any(sign in last for sign in "*?[")
    kind = fs.FileType.Directory if magic else system.get_file_info(path).type
    if kind != fs.FileType.Directory:
        yield name, posixpath.basename(path)  # one that is missing is a failure with a reason
        return
    folder = root if magic else path.rstrip("/")
    for info in sorted(system.get_file_info(fs.FileSelector(folder, recursive=not magic)), key=lambda info: info.path):
        relative = info.path.removeprefix(folder).lstrip("/")
        chosen = fnmatch.fnmatchcase(relative, last) if magic else relative.lower().endswith(tuple(SUFFIXES))
        if chosen and info.type == fs.FileType.File:
            yield scheme + info.path, relative


def expand(files: Iterable[tuple[str, str]], columns: Columns) -> Iterator[Found]:
    """The images in files, in their order: shards and tables give one for each member and row.

    Args:
        files: as `images.find` and `in_stores` give them.

    Raises:
        LoadError: a parquet file in which the column of pictures is not clear.
    """

    def one(file: tuple[str, str]) -> Iterable[Found]:
        path, relative = file
        if path.lower().endswith(TAR):
            return list(_members(path, relative))
        if path.lower().endswith(PARQUET):
            return list(_rows(path, relative, columns))
        if path.lower().endswith(COMPRESSED):
            return [Found(path, relative, reason="a compressed tar, which has no way to its images but from its "
                          "beginning. Expected .tar; images are compressed already")]  # fmt: skip
        return [Found(path, relative, Place("file", path if is_remote(path) else os.path.abspath(path)))]

    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(one, files):
            yield from found


def _members(path: str, relative: str) -> Iterator[Found]:
    """The images of a tar shard, as webdataset writes them; all other members are left out."""
    stem, uri = relative[: -len(TAR)], path if is_remote(path) else os.path.abspath(path)
    try:
        with open_file(uri) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = inside(member.name)
                if not (member.isfile() and name.lower().endswith(tuple(images.SUFFIXES | images.UNREAD))):
                    continue
                place = Place("bytes", uri, member.offset_data, member.size)
                yield Found(f"{path}/{name}", f"{stem}/{name}", place)
    except (OSError, ValueError, tarfile.TarError) as error:
        yield Found(path, relative, reason=f"no tar file, or a damaged one: {error}")


def _rows(path: str, relative: str, columns: Columns) -> Iterator[Found]:
    """A picture for each row of a parquet file."""
    parquet = optional("pyarrow.parquet", extra="ray", what="which reads parquet files")
    stem, uri = relative[: -len(PARQUET)], path if is_remote(path) else os.path.abspath(path)
    try:
        with parquet.ParquetFile(open_file(uri)) as file:
            column = _column(path, file.schema_arrow, columns.image)
            if columns.id is not None and columns.id not in file.schema_arrow.names:
                raise LoadError(f"{path} has no column {columns.id!r} (`id`). Expected one of "
                                f"{', '.join(file.schema_arrow.names)}", "id")  # fmt: skip
            number = 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                labels = file.read_row_group(group, [columns.id])[columns.id].to_pylist() if columns.id else None
                for row in range(count):
                    number += 1
                    label = str(number if labels is None else labels[row])
                    # The suffix is what `Names` takes off again: a name such as "v1.2" stays whole.
                    ending = "" if label.lower().endswith(tuple(images.SUFFIXES)) else ".row"
                    place = Place("cell", uri, group, row, column)
                    yield Found(f"{path}:{label}", f"{stem}/{inside(label)}{ending}", place)
    except LoadError:
        raise
    except (OSError, ValueError) as error:
        yield Found(path, relative, reason=f"no parquet file, or a damaged one: {error}")


def _column(path: str, schema: Any, wanted: str | None) -> str:
    """The column of pictures.

    Raises:
        LoadError: it is not there, or not clear.
    """
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    holding = [name for name, kind in kinds.items() if kind in ("binary", "large_binary") or "bytes: binary" in kind]
    usual = [name for name in holding if name.lower() in _BYTES]
    if wanted is None and len(holding) != 1 and len(usual) != 1:
        raise LoadError(
            f"{path}: which column holds the pictures is not clear. Expected one column of bytes. Received: {listed}. "
            "Remedy: `image_column`",
            "image_column",
        )
    found = wanted or (holding if len(holding) == 1 else usual)[0]
    if found not in holding:
        raise LoadError(f"{path}: column {found!r} holds no bytes (`image_column`). Received: {listed}", "image_column")
    return found


def inside(name: str) -> str:
    """A name from a shard or table as a path that stays below the folder of the results."""
    return posixpath.normpath("/" + name.replace("\\", "/")).lstrip("/") or "_"
