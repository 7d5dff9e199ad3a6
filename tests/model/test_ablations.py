"""Each rule of the protocol is needed: without it the search finds what the rule is there for."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tests.model.rules import Rules
from tests.model.scenario import search
from tests.model.scenarios import SCENARIOS

NOT_SHOWN = "an acknowledged sample is not shown"
NO_LONGER = "nothing holds an acknowledged sample any more"
UNREADABLE = "a file that counts cannot be read"
FOR_GOOD = f"{UNREADABLE}, and the next job does not mend it"

#: The rule or rules that are broken, where, and what comes of it. Two where one makes good for the other.
ABLATIONS = [
    ("fenced", "archive", NOT_SHOWN),
    ("create_only", "erasure and an archiver", UNREADABLE),
    ("leave_what_was_put", "copy, a late write of two", FOR_GOOD),
    ("read_back", "damaged objects", NO_LONGER),
    ("prove_again", "backup", UNREADABLE),
    ("rising_seq", "a fast clock", NOT_SHOWN),
    ("above_rows", "a fast clock", NOT_SHOWN),
    ("compare_epoch refuse_the_future", "backup, nobody adopts", NOT_SHOWN),
    ("announce", "epoch", "the next run is refused: EpochBehind"),
    ("refuse_the_future", "backup within a run, nobody adopts", NOT_SHOWN),
    ("take_in only_the_dead", "backup within a run, then clean-up", NO_LONGER),
    ("condemn", "copy, a late write", FOR_GOOD),
    ("check_epoch", "copy", FOR_GOOD),
    ("roll_forward", "backup within a compaction", NO_LONGER),
    ("whole_batches", "backup within a compaction into two", NOT_SHOWN),
    ("take_in", "backup", NOT_SHOWN),
    ("batch_records", "backup", UNREADABLE),
    ("record_first", "backup within a compaction into two", UNREADABLE),
    ("drop_stale", "backup, adopted twice", NOT_SHOWN),
    ("tell_slices", "backup, metrics under a hot row", NO_LONGER),
    ("keep_adopting_from", "backup, adopted twice", NOT_SHOWN),
    ("finish_slices", "backup within an archive", NOT_SHOWN),
    ("erasure_records", "backup and an erasure", "a forgotten video is shown"),
    ("record_unfinished", "backup and an erasure that died", NOT_SHOWN),
    ("bar_first", "erasure", NOT_SHOWN),
    ("flush_first", "erasure of metrics", "rows of a forgotten video are kept"),
    ("one_owner", "two databases", NOT_SHOWN),
    ("owner_claimed", "two databases", NOT_SHOWN),
    ("epoch_before_listing", "standby", NOT_SHOWN),
    ("restored_seq", "restored samples", NOT_SHOWN),
    ("pins", "restored samples", NOT_SHOWN),
    ("chained_names", "metrics that repeat", NOT_SHOWN),
    ("names_of_hosts", "metrics of two machines", NOT_SHOWN),
    ("look_again", "erasure under a scan", "a scan misses an acknowledged sample"),
    ("remember_adopted", "erasure under a scan", "a scan misses an acknowledged sample"),
    ("spool_first", "scan of the spool", "a scan misses an acknowledged sample"),
    ("grace", "scan", "a scan breaks off"),
    ("delete_when_live", "removed videos", "a removed video lies in no file"),
    ("same_version", "removed videos", "a removed video lies in no file"),
    ("documents_first", "removed videos", "a video was removed before its document was safe"),
    ("remember_collected", "backup and removed videos", "a removed video would be collected again"),
]


@pytest.mark.parametrize(
    ("rules", "scenario", "violated"), ABLATIONS, ids=[one[0] for one in ABLATIONS]
)
def test_without_this_rule_a_promise_is_broken(rules: str, scenario: str, violated: str) -> None:
    broken = SCENARIOS[scenario]
    for rule in rules.split():
        broken = broken.without(rule)
    found = search(broken, first_only=True)
    print(f"{scenario} without {rules}: {found}")
    assert violated in found.traces, f"{scenario} without {rules} breaks nothing: {found}"


def test_every_rule_is_broken_once() -> None:
    broken = {rule for rules, _, _ in ABLATIONS for rule in rules.split()}
    assert broken == {one.name for one in fields(Rules)}
