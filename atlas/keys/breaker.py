"""Circuit breakers, one for each endpoint (a quota bucket): a service that fails is left alone.

Closed, open until a time, then one probe: its success closes the circuit, its failure opens it for longer.
The database keeps one row for each open circuit and says which process probes; without it each process has
its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

__all__ = ["LONGEST", "OPEN_FOR", "PROBE_SECONDS", "Breakers"]

#: Seconds for which a circuit is open first, and at most.
OPEN_FOR, LONGEST = 5.0, 60.0
#: Seconds after which a probe that is not answered may be repeated by another.
PROBE_SECONDS = 30.0
_IN_A_ROW = 5
_WINDOW, _LEAST = timedelta(seconds=30), 20


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    recent: deque[tuple[datetime, bool]] = field(default_factory=lambda: deque(maxlen=_LEAST))
    open_until: datetime | None = None
    opened: int = 0
    probe_until: datetime | None = None


class Breakers:
    """The circuits that this process knows. ``unshared`` is what others do not know of yet."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._circuits: dict[str, _Circuit] = {}
        #: Whether an endpoint's circuit was opened (True) or closed.
        self.unshared: dict[str, bool] = {}

    def is_open(self, endpoint: str) -> bool:
        """Whether the endpoint is left alone."""
        circuit = self._circuits.get(endpoint)
        return circuit is not None and circuit.open_until is not None

    def seconds(self, endpoint: str) -> float:
        """Seconds until the next probe may be made."""
        end = self._circuits[endpoint].open_until
        return max(0.0, (end - self._now()).total_seconds()) if end is not None else 0.0

    def claim_probe(self, endpoint: str) -> bool:
        """Whether the caller is the one of this process that may try now."""
        circuit, now = self._circuits[endpoint], self._now()
        if circuit.open_until is None or circuit.open_until > now:
            return False
        if circuit.probe_until is not None and circuit.probe_until > now:
            return False
        circuit.probe_until = now + timedelta(seconds=PROBE_SECONDS)
        return True

    def succeeded(self, endpoint: str) -> None:
        """The service answered, be it with an error about the request."""
        circuit = self._circuits.get(endpoint)
        if circuit is None:
            return
        circuit.failures = 0
        circuit.recent.append((self._now(), True))
        if circuit.open_until is not None:
            self._close(circuit)
            self.unshared[endpoint] = False

    def failed(self, endpoint: str, *, probe: bool = False) -> None:
        """The service or the network failed."""
        circuit, now = self._circuits.setdefault(endpoint, _Circuit()), self._now()
        circuit.failures += 1
        circuit.recent.append((now, False))
        if circuit.open_until is not None and not probe:
            return  # sent before the circuit opened
        recent = [good for at, good in circuit.recent if at > now - _WINDOW]
        half = len(recent) == _LEAST and sum(recent) <= _LEAST / 2
        if probe or half or circuit.failures >= _IN_A_ROW:
            seconds = min(LONGEST, OPEN_FOR * 2.0 ** min(circuit.opened, 10))
            circuit.open_until, circuit.probe_until = now + timedelta(seconds=seconds), None
            circuit.opened += 1
            self.unshared[endpoint] = True

    def shared(self, endpoint: str, opens: bool) -> None:
        """Others know that the circuit was opened or closed."""
        if self.unshared.get(endpoint) is opens:
            del self.unshared[endpoint]

    def learn(self, shared: dict[str, datetime]) -> None:
        """Take over which circuits are open for all processes."""
        for endpoint, until in shared.items():
            if endpoint in self.unshared:
                continue
            circuit = self._circuits.setdefault(endpoint, _Circuit())
            if circuit.open_until != until:
                circuit.open_until, circuit.probe_until = until, None
        for endpoint, circuit in list(self._circuits.items()):
            known = endpoint in shared or endpoint in self.unshared
            if circuit.open_until is not None and not known:
                self._close(circuit)

    def _close(self, circuit: _Circuit) -> None:
        circuit.failures = circuit.opened = 0
        circuit.open_until = circuit.probe_until = None
        circuit.recent.clear()
