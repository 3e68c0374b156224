"""Where the archive keeps its objects: a directory by default, or any object store that obstore knows.

An object has a name with slashes and bytes; it is there whole or not at all, and what `put` returned from is durable.
The directory is our own and not obstore's: that one does not sync, so a power cut could take what was just archived
after its segment was removed here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from tidewire.errors import ArchiveFailed, ConfigError
from tidewire.journal.files import UNFINISHED, Files, OsFiles, write_whole

CONNECT_S = 5
REQUEST_S = 60
RETRIES = 3
RETRY_S = 60
CHUNK = 8 << 20
ARCHIVE = "journal.archive"
SCHEMES = ("file", "s3", "gs", "az")


class Objects(Protocol):
    """Objects by name. Every method blocks, and raises `ArchiveFailed` when the store cannot be reached or refuses."""

    def put(self, name: str, data: bytes) -> None:
        """Make an object, or replace it."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Make an object unless one of that name is there; whether it was made."""
        ...

    def get(self, name: str) -> bytes | None:
        """The bytes of an object; None if there is none of that name."""
        ...

    def size(self, name: str) -> int | None:
        """The length of an object in bytes; None if there is none of that name."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        ...

    def list(self, prefix: str) -> list[str]:
        """The names below a prefix, which is a directory's name without its last slash; sorted."""
        ...


class FileObjects(Objects, Protocol):
    """Objects that may be too large for memory, given and taken as files."""

    def put_file(self, name: str, path: Path) -> None:
        """Make an object of a local file, which may be gone afterwards."""
        ...

    def get_file(self, name: str, path: Path) -> bool:
        """Write an object to a local file; whether there is one of that name."""
        ...

    def local(self, name: str) -> Path | None:
        """Where the object is as a file of this machine; None in a store that is elsewhere."""
        ...


class Directory:
    """Objects as files below a directory, synced."""

    def __init__(self, root: Path, files: Files | None = None) -> None:
        self._root = root
        self._files = files or OsFiles()

    def __str__(self) -> str:
        return str(self._root)

    def put(self, name: str, data: bytes) -> None:
        path = self._root / name
        try:
            self._make(path.parent)
            write_whole(self._files, path, data)
        except OSError as error:
            raise ArchiveFailed(f"The archive {self} cannot be written: {error}. Check the disk.") from error

    def create(self, name: str, data: bytes) -> bool:
        # One process writes, it owns the journal: nobody makes it between the two lines.
        if (self._root / name).exists():
            return False
        self.put(name, data)
        return True

    def get(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArchiveFailed(f"The archive {self} cannot be read: {error}. Check the disk.") from error

    def size(self, name: str) -> int | None:
        try:
            return (self._root / name).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArchiveFailed(f"The archive {self} cannot be read: {error}. Check the disk.") from error

    def delete(self, name: str) -> None:
        path = self._root / name
        try:
            self._files.remove(path)
            self._files.sync_directory(path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ArchiveFailed(f"The archive {self} cannot be changed: {error}. Check the disk.") from error

    def put_file(self, name: str, path: Path) -> None:
        target = self._root / name
        unfinished = target.with_name(target.name + UNFINISHED)
        try:
            self._make(target.parent)
            shutil.move(path, unfinished)  # a rename on one disk, a copy from another
            descriptor = self._files.open(unfinished, create=False)
            try:
                self._files.sync(descriptor)
            finally:
                self._files.close(descriptor)
            self._files.rename(unfinished, target)
            self._files.sync_directory(target.parent)
        except OSError as error:
            raise ArchiveFailed(f"The archive {self} cannot be written: {error}. Check the disk.") from error

    def get_file(self, name: str, path: Path) -> bool:
        try:
            shutil.copyfile(self._root / name, path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ArchiveFailed(f"The archive {self} cannot be read: {error}. Check the disk.") from error
        return True

    def local(self, name: str) -> Path | None:
        return self._root / name

    def list(self, prefix: str) -> list[str]:
        found = (path for path in (self._root / prefix).rglob("*") if path.is_file() and path.suffix != UNFINISHED)
        return sorted(path.relative_to(self._root).as_posix() for path in found)

    def _make(self, path: Path) -> None:
        """Make a directory and those above it, each on disk in the one above."""
        if path.is_dir():
            return
        self._make(path.parent)
        path.mkdir(exist_ok=True)
        self._files.sync_directory(path.parent)


class Remote:
    """Objects in an object store: S3 and what speaks its protocol, Google Cloud Storage, Azure."""

    def __init__(self, store: ObjectStore, name: str, section: str = ARCHIVE) -> None:
        self._store = store
        self._name = name
        self._section = section

    def __str__(self) -> str:
        return self._name

    def put(self, name: str, data: bytes) -> None:
        try:
            obstore.put(self._store, name, data)
        except (BaseError, OSError) as error:
            raise self._failed(error) from error

    def create(self, name: str, data: bytes) -> bool:
        try:
            obstore.put(self._store, name, data, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise self._failed(error) from error
        return True

    def get(self, name: str) -> bytes | None:
        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise self._failed(error) from error

    def size(self, name: str) -> int | None:
        try:
            return obstore.head(self._store, name)["size"]
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise self._failed(error) from error

    def delete(self, name: str) -> None:
        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise self._failed(error) from error

    def put_file(self, name: str, path: Path) -> None:
        try:
            obstore.put(self._store, name, path)
        except (BaseError, OSError) as error:
            raise self._failed(error) from error

    def get_file(self, name: str, path: Path) -> bool:
        try:
            found = obstore.get(self._store, name)
            with path.open("wb") as file:
                for chunk in found.stream(min_chunk_size=CHUNK):
                    file.write(chunk)
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise self._failed(error) from error
        return True

    def local(self, name: str) -> Path | None:
        return None

    def list(self, prefix: str) -> list[str]:
        try:
            return sorted(self._names(prefix))
        except (BaseError, OSError) as error:
            raise self._failed(error) from error

    def _names(self, prefix: str) -> Iterator[str]:
        for chunk in obstore.list(self._store, prefix or None):
            yield from (found["path"] for found in chunk)

    def _failed(self, error: Exception) -> ArchiveFailed:
        first = str(error).strip().partition("\n")[0]  # the rest is the library's own structure
        return ArchiveFailed(f"The archive {self} cannot be used: {first}. Check {self._section} and the network.")


def open_objects(
    url: str, options: Mapping[str, str], files: Files | None = None, section: str = ARCHIVE
) -> FileObjects:
    """Objects at a URL, ``options`` being obstore's for it; `ConfigError` if it cannot be one. Asks nobody yet.

    ``section`` is where the URL stands in the configuration.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or (parts.scheme != "file" and not parts.netloc):
        raise ConfigError(
            f"{section}.url is {url!r}; valid is s3://bucket/prefix, gs://bucket/prefix, az://container/prefix "
            "or file:///directory. Leave it out to keep them in the data directory."
        )
    if parts.scheme == "file":
        return Directory(Path(parts.path), files)
    client: Any = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "timeout": timedelta(seconds=REQUEST_S),
        # Only a store that is named so is asked without TLS.
        "allow_http": options.get("endpoint", "").startswith("http://"),
    }
    retry: Any = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}
    config: Any = dict(options)
    try:
        store = from_url(url, config=config, client_options=client, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise ConfigError(f"{section} cannot be used: {str(error).partition(chr(10))[0]}.") from None
    return Remote(store, url, section)
