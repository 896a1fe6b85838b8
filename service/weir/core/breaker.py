"""The breaker on the guard itself: when most producers are held, it is the guard or the world, not a producer."""

from __future__ import annotations

import statistics
from collections import OrderedDict
from collections.abc import Sequence

from weir.core.config import BreakerConfig
from weir.core.judgement import Judgement
from weir.core.roster import rows_of
from weir.types import BreakerPolicy, State, Verdict

MEMORY = 1_000.0  # samples of a producer after which older ones have faded: one bad step opens nothing
LEAST = 50.0  # samples that give a producer a say
ENOUGH = 500.0  # samples of all who have one that a decision needs
ACTIVE = 1_000  # steps after which a silent producer has none
MOST_PRODUCERS = 1_000


class Breaker:
    """Opens when the median producer's held share is too large: a minority, however loud, can neither open it nor
    keep it shut. It stays open until an admin closes it.
    """

    def __init__(self, config: BreakerConfig) -> None:
        self._config = config
        self._votes: OrderedDict[str, tuple[float, float, int]] = OrderedDict()  # held, seen (faded), newest step
        self.open = False

    def observe(self, judged: Judgement, producers: Sequence[str], step: int) -> None:
        """Count what becomes of one step's samples, and open if it is too much."""
        refused = [verdict.verdict is Verdict.QUARANTINE for verdict in judged.verdicts]
        for producer, rows in rows_of(producers).items():
            held, seen, _ = self._votes.get(producer, (0.0, 0.0, 0))
            for row in rows:
                kept = min(1.0, (MEMORY - 1) / seen) if seen else 0.0
                held, seen = held * kept + refused[row], seen * kept + 1
            self._votes[producer] = held, seen, step
            self._votes.move_to_end(producer)
            if len(self._votes) > MOST_PRODUCERS:
                self._votes.popitem(last=False)
        if self._config.policy is not BreakerPolicy.OFF and (self.held_ratio(step) or 0.0) > self._config.ratio:
            self.open = True

    def held_ratio(self, step: int) -> float | None:
        """The median held share of active producers, the lower one of two; None while nobody has sent enough."""
        heard = [
            (held, seen) for held, seen, newest in self._votes.values() if seen >= LEAST and step - newest <= ACTIVE
        ]
        if sum(seen for _, seen in heard) < ENOUGH:
            return None
        return statistics.median_low(held / seen for held, seen in heard)

    def close(self) -> None:
        """Close it, and count anew."""
        self.open = False
        self._votes.clear()

    def state(self) -> State:
        """Everything a restart needs."""
        return State({}, {"open": self.open, "votes": [[name, *vote] for name, vote in self._votes.items()]})

    def load_state(self, state: State) -> None:
        """Replace votes and position."""
        self.open = state.values["open"] and self._config.policy is not BreakerPolicy.OFF
        self._votes = OrderedDict((name, (held, seen, step)) for name, held, seen, step in state.values["votes"])
