"""Two sites with the same prices: one is asked, the other stands in for it, and whatever happens rows come."""

from __future__ import annotations

from pathlib import Path

from integration.kit import Api, api, audited, balanced, idle, loaded, running, tables, until
from integration.site import FILE, STOCKS, TESTS, Site, site
from tidewire.runtime.config import FailoverSection
from tidewire.runtime.platform import Tidewire

FIRST, SECOND = "example.first", "example.second"


def write(plugins: Path, name: str, url: str) -> None:
    text = FILE.format(url=url, price="price | decimal").replace("example.list", name)
    (plugins / f"{name}.yaml").write_text(text, encoding="utf-8")


async def test_whatever_is_wrong_with_one_site_the_other_is_asked(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    duty = FailoverSection(order=[FIRST, SECOND], retry="1s")
    async with site() as one, site() as two:
        write(plugins, FIRST, one.url)
        write(plugins, SECOND, two.url)
        async with running(loaded(tmp_path, [], failover={"prices": duty})) as platform, api(platform) as client:
            await rounds(one, 3)
            assert two.rounds == 0, "while one is well the other is not asked"
            assert await said(client, "source example.second") == "standby"
            await tried(platform, client, (one, two), "blocked")
            await tried(platform, client, (one, two), "missing")
            await tried(platform, client, (one, two), "wrong")
            (plugins / f"{FIRST}.yaml").unlink()
            await until(lambda: turn(platform) == SECOND, "the first does not run any more")
            await rounds(two, 2)
            (plugins / f"{SECOND}.yaml").unlink()
            await until(lambda: not platform.apps, "nobody asks any more")
            await idle(platform)
            balanced(await audited(client))
    stored = tables(tmp_path / "data")
    for source in (FIRST, SECOND):
        rows = stored["ticker_v1"].filter(source=source)
        assert rows["instrument"].n_unique() == STOCKS - TESTS
        assert (rows["last"].drop_nulls() > 0).all()
    assert set(stored["quarantined_v1"]["instrument"].drop_nulls()) <= set(stored["ticker_v1"]["instrument"])


async def tried(platform: Tidewire, client: Api, sites: tuple[Site, Site], fault: str) -> None:
    """Break the first site, see the second stand in, mend the first, see it back."""
    one, two = sites
    setattr(one, fault, 20 if fault == "missing" else True)
    await until(lambda: turn(platform) == SECOND, f"{fault}: the second stands in")
    assert (await said(client, "failover prices")).startswith(f"{SECOND} ({FIRST}: ")
    await rounds(two, 2)
    setattr(one, fault, 0 if fault == "missing" else False)
    await until(lambda: turn(platform) == FIRST, f"{fault}: the first is well again")
    await rounds(one, 2)


async def rounds(at: Site, count: int) -> None:
    goal = at.rounds + count
    await until(lambda: at.rounds >= goal, f"{count} rounds")


def turn(platform: Tidewire) -> str:
    return platform.failover.successions.all[0].standing.turn


async def said(client: Api, check: str) -> str:
    return str((await client.get("/readyz"))["checks"][check])
