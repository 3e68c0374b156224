"""What holds for every test: helpers that assert are rewritten, property tests have no time limit each."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Shared machines stall now and then; a slow example is not a failure.
settings.register_profile("tidewire", deadline=None)
settings.load_profile("tidewire")

pytest.register_assert_rewrite(
    "conformance.bus",
    "conformance.bus_consumers",
    "conformance.bus_kit",
    "conformance.bus_life",
    "conformance.store",
    "conformance.store_kit",
    "conformance.store_reads",
    "integration.kit",
)
