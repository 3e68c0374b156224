"""Sealed files seen from outside, without the store: what the manifests list, and whether the files are as they say."""

from __future__ import annotations

from pathlib import Path

import duckdb

from tidewire.journal.objects import FileObjects
from tidewire.store._cold import exactly, literal
from tidewire.store._seal import checksum
from tidewire.store._sealed import ROOT, Manifest, SealedFile, decoded

__all__ = ["Manifest", "SealedFile", "fault", "manifests"]


def manifests(objects: FileObjects) -> list[Manifest]:
    """The newest manifest of each type.

    Raises:
        StoreError: one is damaged, or of a newer version.
        ArchiveFailed: the object store cannot be reached.
    """
    newest = {name.split("/")[1]: name for name in objects.list(ROOT) if "/manifest-" in name}
    found: list[Manifest] = []
    for _, name in sorted(newest.items()):
        data = objects.get(name)
        if data is not None:  # replaced by a newer one meanwhile
            found.append(decoded(data, name))
    return found


def fault(objects: FileObjects, file: SealedFile, work: Path) -> str:
    """What is wrong with a file, empty if nothing is; ``work`` is a directory for a copy of it.

    Read whole: its length, its checksum, its rows.
    """
    work.mkdir(parents=True, exist_ok=True)
    copy = work / "checked.parquet"
    try:
        if not objects.get_file(file.name, copy):
            return "is missing"
        size = copy.stat().st_size
        if size != file.bytes:
            return f"has {size:,} bytes instead of {file.bytes:,}"
        if (found := checksum(copy)) != file.sha256:
            return f"has the checksum {found} instead of {file.sha256}"
        return _rows_fault(file, copy)
    finally:
        copy.unlink(missing_ok=True)


def _rows_fault(file: SealedFile, copy: Path) -> str:
    try:
        with duckdb.connect() as connection:
            found = connection.execute(f"SELECT count(*) FROM read_parquet([{literal(exactly(copy))}])").fetchall()
    except duckdb.Error as error:
        return f"is no Parquet file that can be read: {error}"
    ((rows,),) = found
    return "" if rows == file.rows else f"has {rows:,} rows instead of {file.rows:,}"
