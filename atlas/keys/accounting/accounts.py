"""What is known of keys and projects: what rests, is disabled or slow, and how much quota is spent.

Quota belongs to the Google Cloud project and, within it, to a bucket; a key of no known project stands for
itself. The state is in memory; a sharing joins it with that of other processes, see docs/hydra-protocol.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from atlas.config import ApiKey, QuotaBucket, get_settings
from atlas.errors import InvalidInput
from atlas.keys.accounting.blocks import Blocks
from atlas.keys.accounting.fingerprints import host_account, identify, mask
from atlas.keys.breaker import Breakers
from atlas.keys.pace import Pace
from atlas.keys.youtube import next_reset, pacific
from atlas.types import utc

if TYPE_CHECKING:
    from atlas.keys.accounting.sharing import Sharing
    from atlas.repositories.keys import KeySnapshot, Rest, Usage

__all__ = ["ALL", "Accounts", "BucketStatus", "KeyStatus"]

#: The bucket of rests that hold for every bucket.
ALL = "*"
SPENT, TOO_FAST, DISABLED, BLOCKED = "spent", "too fast", "disabled", "blocked"
#: How long a key or project is left alone that was refused for good: a person may mend it meanwhile.
DISABLED_FOR = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """Units of a bucket today: ``spent`` by everybody, ``limit``; ``resting_until`` (UTC) or None."""

    bucket: str
    spent: int
    limit: int
    resting_until: datetime | None


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """What is known of one key; ``key`` is masked. Times are UTC; None: not so now.

    ``state`` is live, spent, slow, disabled or blocked. ``uses`` counts this process's requests.
    ``resting_until``: the general bucket is spent. ``slow_until``: the project was used too fast.
    ``usable_at``: the key may be used again for the general bucket, whatever keeps it from that.
    """

    key: str
    project: str | None
    state: str
    uses: int
    resting_until: datetime | None
    slow_until: datetime | None
    disabled: bool
    buckets: tuple[BucketStatus, ...] = ()
    usable_at: datetime | None = None


def _now() -> datetime:
    return datetime.now(UTC)


class Accounts:
    """Thread-safe. ``clock`` returns the time, timezone-aware, for programs that keep their own.

    ``buckets`` replaces those of the settings.
    """

    def __init__(
        self,
        clock: Callable[[], datetime] = _now,
        *,
        buckets: Mapping[str, QuotaBucket] | None = None,
    ) -> None:
        self._clock = clock
        self._ahead = timedelta(0)
        self._given_buckets = buckets
        self._lock = threading.Lock()
        self._uses: dict[ApiKey, int] = {}
        self._own: dict[tuple[str, str], Rest] = {}
        self._shared: dict[tuple[str, str], Rest] = {}
        self._usage: dict[tuple[str, str], Usage] = {}
        self._paces: dict[str, Pace] = {}
        self._notices: dict[str, datetime] = {}
        self._day = date.min
        self._day_begins = self._day_ends = datetime.fromtimestamp(0, UTC)
        #: Grows when another key may have become the better choice.
        self.version = 0
        self.blocks = Blocks(self.today)
        self.breakers = Breakers(self.now)
        #: What the database does not know of yet; bounded, because rests merge.
        self.unshared: dict[tuple[str, str], Rest] = {}
        self.refusals: set[tuple[str, str]] = set()
        self.wake: Callable[[], None] = lambda: None
        #: Joins this with what other processes know; None: this process stands alone.
        self.sharing: Sharing | None = None

    # --- time and buckets

    def now(self) -> datetime:
        """The time; by the database's clock, as far as that is known."""
        return self._clock() + self._ahead

    def today(self) -> date:
        """The Pacific day, by which quota is counted."""
        now = self.now()
        if not self._day_begins < now < self._day_ends:
            self._day = now.astimezone(pacific()).date()
            self._day_ends = next_reset(now)
            self._day_begins = self._day_ends - timedelta(days=2)
        return self._day

    @property
    def buckets(self) -> Mapping[str, QuotaBucket]:
        """The quota buckets by name."""
        given = self._given_buckets
        return get_settings().youtube_quota if given is None else given

    def units(self, bucket: str, cost: int) -> int:
        """What a request counts for. Raises `InvalidInput` for an unknown bucket and a cost below 1."""
        known = self.buckets.get(bucket) if isinstance(bucket, str) else None
        if known is None:
            raise InvalidInput(
                f"there is no quota bucket {bucket!r}",
                field="bucket",
                value=bucket,
                hint=f"the buckets are {', '.join(self.buckets)}; YOUTUBE_QUOTA_JSON adds others",
            )
        if not isinstance(cost, int) or isinstance(cost, bool) or cost < 1:
            raise InvalidInput(f"cost must be at least 1, got {cost!r}", field="cost", value=cost)
        return cost * known.cost

    # --- what happened

    def use(self, key: ApiKey) -> None:
        """Count one request made with ``key``."""
        self._uses[key] = self._uses.get(key, 0) + 1

    def rest(self, key: ApiKey, until: datetime, bucket: str = "general") -> None:
        """A bucket of the key's project is spent: use it no more before ``until`` (aware)."""
        self.put_off(identify(key).project_account, bucket, until, SPENT)

    def refuse(self, key: ApiKey, bucket: str) -> datetime:
        """The API says that a bucket of the key's project is spent; until when it rests is returned."""
        until = next_reset(self.now())
        project = identify(key).project
        self.rest(key, until, bucket)
        self.blocks.drop(project, bucket)
        with self._lock:
            self.refusals.add((project, bucket))
        return until

    def slow_down(self, key: ApiKey, until: datetime) -> None:
        """The key's project was asked too fast: prefer others, and wait, before ``until`` (aware)."""
        self.put_off(identify(key).project_account, ALL, until, TOO_FAST)

    def too_fast(self, key: ApiKey, retry_after: float | None) -> float:
        """The API says that the project is asked too fast: it rests, its pace halves. Returns seconds."""
        ids = identify(key)
        pace = self._paces.setdefault(ids.project, Pace())
        already = self._find(ids.project_account, ALL) is not None
        seconds = pace.refused(again=already, retry_after=retry_after)
        if not already:
            self.slow_down(key, self.now() + timedelta(seconds=seconds))
        return seconds

    def disable(self, key: ApiKey, *, whole_project: bool = False) -> None:
        """Use ``key`` no more, nor with ``whole_project`` any other of its project, for `DISABLED_FOR`."""
        ids = identify(key)
        account = ids.project_account if whole_project else ids.key_account
        self.put_off(account, ALL, self.now() + DISABLED_FOR, DISABLED)

    def block(self, seconds: float) -> None:
        """This machine's address is blocked: use no key at all."""
        self.put_off(host_account(), ALL, self.now() + timedelta(seconds=seconds), BLOCKED)

    def put_off(self, account: str, bucket: str, until: datetime, reason: str) -> None:
        """Record a rest; of two the later end counts. Raises `InvalidInput` for a time without zone."""
        until = utc(until, field="until").astimezone(UTC)
        from atlas.repositories.keys import Rest  # imports SQLAlchemy, which an import need not

        rest = Rest(account, bucket, until, reason)
        with self._lock:
            known = self._own.get((account, bucket))
            if known is None or until > known.until:
                self._own[account, bucket] = self.unshared[account, bucket] = rest
                self.version += 1
        self.wake()

    # --- what holds now

    def is_disabled(self, key: ApiKey) -> bool:
        """Whether the key or its project was refused for good."""
        ids = identify(key)
        return any(
            (found := self._find(account, ALL)) is not None and found.reason == DISABLED
            for account in (ids.key_account, ids.project_account)
        )

    def is_usable(self, key: ApiKey, bucket: str = "general") -> bool:
        """Whether the key may be used now, perhaps after a short wait: not disabled, blocked or spent."""
        return (
            self._find(identify(key).project_account, bucket) is None
            and not self.is_disabled(key)
            and self._find(host_account(), ALL) is None
        )

    def usable_at(self, key: ApiKey, bucket: str = "general") -> datetime | None:
        """When the key may be used again; None for now."""
        ids = identify(key)
        rests = [self._find(ids.project_account, bucket), self._find(host_account(), ALL)]
        rests += [
            found
            for account in (ids.key_account, ids.project_account)
            if (found := self._find(account, ALL)) and found.reason != TOO_FAST
        ]
        return max((rest.until for rest in rests if rest is not None), default=None)

    def seconds_to_wait(self, key: ApiKey) -> float:
        """How long to hold back before the next request with ``key``; 0 for none."""
        rest = self._find(identify(key).project_account, ALL)
        if rest is None or rest.reason != TOO_FAST:
            return 0.0
        return max(0.0, (rest.until - self.now()).total_seconds())

    def is_resting(self, key: ApiKey, bucket: str) -> bool:
        """Whether the bucket of the key's project is known to be spent."""
        return self._find(identify(key).project_account, bucket) is not None

    def found(self, account: str, bucket: str) -> bool:
        """Whether a rest of that name holds."""
        return self._find(account, bucket) is not None

    def pace(self, key: ApiKey) -> Pace:
        """How fast the key's project may be asked."""
        project = identify(key).project
        return self._paces.get(project) or self._paces.setdefault(project, Pace())

    def weight(self, key: ApiKey, bucket: str) -> tuple[float, float, int]:
        """Sorts keys by preference: without a wait, without a queue, least spent."""
        project = identify(key).project
        pace = self._paces.get(project)
        return (self.seconds_to_wait(key), pace.queue if pace else 0.0, self.spent(project, bucket))

    def spent(self, project: str, bucket: str) -> int:
        """Units spent today by everybody, as far as is known."""
        usage = self._usage.get((project, bucket))
        if usage is None:
            return self.blocks.spent(project, bucket)
        return usage.spent + usage.external + self.blocks.unsettled(project, bucket)

    def status(self, key: ApiKey) -> KeyStatus:
        """What is known of ``key``."""
        ids = identify(key)
        general = self._find(ids.project_account, "general")
        slow = self._find(ids.project_account, ALL)
        disabled = self.is_disabled(key)
        counted = tuple(
            BucketStatus(name, self.spent(ids.project, name), bucket.limit, _end(rest))
            for name, bucket in self.buckets.items()
            for rest in [self._find(ids.project_account, name)]
        )
        is_slow = slow is not None and slow.reason == TOO_FAST
        state = (
            "disabled"
            if disabled
            else "blocked" if self._find(host_account(), ALL) else "spent" if general else "live"
        )
        return KeyStatus(
            key=mask(key.get_secret_value()),
            project=key.project,
            state="slow" if state == "live" and is_slow else state,
            uses=self._uses.get(key, 0),
            resting_until=_end(general),
            slow_until=_end(slow) if is_slow else None,
            disabled=disabled,
            buckets=counted,
            usable_at=self.usable_at(key),
        )

    def first_notice(self, name: str, until: datetime) -> bool:
        """Whether the caller sends this notice: True once in this process until ``until``."""
        with self._lock:
            first = self._notices.get(name, self.now()) <= self.now()
            if first:
                self._notices[name] = until
        return first

    # --- what others know

    def unshare(self) -> tuple[list[Rest], list[tuple[str, str]]]:
        """Take what the database does not know of yet; `reshare` puts it back after a failure."""
        with self._lock:
            rests, refusals = list(self.unshared.values()), list(self.refusals)
            self.unshared.clear()
            self.refusals.clear()
        return rests, refusals

    def reshare(self, rests: list[Rest], refusals: list[tuple[str, str]]) -> None:
        """Put back what `unshare` took; what was learnt since then goes before it."""
        with self._lock:
            self.unshared = {(one.account, one.bucket): one for one in rests} | self.unshared
            self.refusals.update(refusals)

    def learn(self, snapshot: KeySnapshot) -> None:
        """Take over what the database says. Own rests that it knows are its from now on."""
        shared = {(rest.account, rest.bucket): rest for rest in snapshot.rests}
        with self._lock:
            self._ahead = snapshot.now - self._clock()
            self._day, self._day_ends = snapshot.day, snapshot.day_ends
            self._usage = snapshot.usage
            if shared != self._shared:
                self.version += 1
            self._shared, self._own = shared, dict(self.unshared)
        self.breakers.learn(snapshot.breakers)

    def learn_usage(self, project: str, bucket: str, usage: Usage) -> None:
        """Take over the count of one bucket."""
        self._usage[project, bucket] = usage

    def _find(self, account: str, bucket: str) -> Rest | None:
        """The rest that holds now, the later of ours and the database's."""
        own, shared = self._own.get((account, bucket)), self._shared.get((account, bucket))
        if own is None and shared is None:
            return None
        if own is None or (shared is not None and shared.until > own.until):
            own = shared
        return own if own is not None and own.until > self.now() else None


def _end(rest: Rest | None) -> datetime | None:
    return rest.until if rest is not None else None
