"""What both type checkers must refuse: every line that ends in the comment ``wrong``, and no other."""

from __future__ import annotations

from atlas import (
    Archiver,
    Database,
    MaiaDAO,
    StatsReader,
    Work,
    db,
    events,
    notifier,
    settings,
    vault,
)
from atlas.adapters.rows import SampleInput
from atlas.vault import vault as the_same_vault


async def main() -> None:
    vault.store_jsn("a.json", 1)  # wrong
    the_same_vault.fetch_binry("a")  # wrong
    vault.append_metrics([], hours=3)  # wrong
    await db.health_chek()  # wrong
    await Database().initialise()  # wrong
    await events.emitt("video.discovered")  # wrong
    events.off_("video.*")  # wrong
    await notifier.sendd("title", "text")  # wrong
    await notifier.send("title")  # wrong
    dao = MaiaDAO()
    await dao.fetch_hunter_bach()  # wrong
    for term in await dao.fetch_hunter_batch():
        print(term["query"])  # wrong
    for due in await dao.fetch_tracking_batch():
        print(due["next_track"])  # wrong
    for video in await dao.fetch_scribe_batch():
        print(video["discovered"])  # wrong
    print((await dao.run_janitor())["delete"])  # wrong
    sample: SampleInput = {"vidoe_id": "V"}  # wrong
    print(sample)
    await StatsReader().histroy("V")  # wrong
    await Archiver().runn()  # wrong
    Work().claims("track")  # wrong
    print(settings.databse_url)  # wrong
    print(settings.DATABSE_URL)  # wrong
    print(settings.API_KEY)  # wrong
