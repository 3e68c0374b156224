"""Product and NATS server are killed with SIGKILL again and again under load; each accepted row is stored once.

Lives, power cuts and the reckoning are those of `crash.harness`. ``SCALE`` multiplies the kills, ``SEED`` chooses their
moments.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from crash.harness import SCALE, SEED, Life, Plan, Product, client, stage
from integration.kit import until
from nats_server import NatsServer, served

KILLS = 15 * SCALE
"""Of each."""
LONGER = min(SCALE, 6)
"""By how much a life is longer than in CI."""
ROWS = 10_000 * SCALE * LONGER
BUS = 'bus: {{type: nats, servers: ["{url}"], prefix: crash, max_bytes: 67108864, timeout: 1s}}\n'
KINDS = ("server first", "both at once", "server forgets")


async def kill_both(product: Product, server: NatsServer, session: aiohttp.ClientSession) -> Counter[str]:
    """Every life sees its server die at a random moment, and then dies itself; returns how often each way was taken."""
    ways: Counter[str] = Counter()
    chance = product.chance
    for number in range(KILLS):
        way = KINDS[number] if number < len(KINDS) else chance.choices(KINDS, (5, 3, 2))[0]
        ways[way] += 1
        async with product.life() as life:
            product.resumes += 1
            await product.flowing(life, LONGER * chance.randrange(50, 1_500))
            if not product.shown:  # what was sent before anything was accepted has no place to be missed in
                await until(lambda life=life: product.look(session, life), "the API shows trades and quotes", 60)
            server.kill()
            if way == "both at once":
                await kill(product, life)
                server.start()
                continue
            server.restart(forget=way == "server forgets")
            await product.flowing(life, LONGER * chance.randrange(50, 2_000))
            await kill(product, life)
    return ways


async def kill(product: Product, life: Life) -> None:
    product.runs(life)
    assert await life.end(signal.SIGKILL) == -signal.SIGKILL
    product.figures.kills += 1
    product.lose_power()


@pytest.mark.crash
async def test_kill(tmp_path: Path, did: Callable[[object], None]) -> None:
    did(f"SEED={SEED} SCALE={SCALE}")
    with served(tmp_path / "nats") as server:
        plan = Plan(KILLS, rate=5_000.0, patience_s=120.0 * SCALE, more_config=BUS.format(url=server.url))
        async with stage(tmp_path, plan) as product, client() as session:
            ways = await kill_both(product, server, session)
            await product.come_to_rest(session)
        await product.reckon()
    did(f"{dict(ways)}: {product.figures}")
    assert set(ways) == set(KINDS)
    assert product.figures.kills == KILLS
    assert product.figures.rows >= ROWS
