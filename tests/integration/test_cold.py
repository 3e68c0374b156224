"""The product with sealed rows: what it answers, its books and a restart are as without; a replay makes the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import polars as pl
import pytest

from integration.kit import Api, api, audited, balanced, binance, idle, loaded, replayed, running, tables, until
from tidewire.errors import StoreError
from tidewire.records.record import types
from tidewire.runtime.cold_commands import cold_check
from tidewire.runtime.config import ColdSection, Loaded
from tidewire.runtime.platform import Tidewire, make_store
from tidewire.runtime.reading import Reading
from tidewire.runtime.sealing import objects_of
from tidewire.sandbox import Sandbox, SandboxConfig
from tidewire.store.sealed import manifests


def sealed_rows(configuration: Loaded, kind: str) -> pl.DataFrame:
    """The rows of a type in the files its manifest lists, read by Polars alone."""
    data = configuration.data_dir
    files = [data / file.name for found in manifests(objects_of(configuration.config, data)) if found.table == kind
             for file in found.files]
    return pl.concat([pl.read_parquet(file, hive_partitioning=False) for file in files]) if files else pl.DataFrame()
