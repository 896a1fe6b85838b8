"""The breaker on the guard itself: when most producers are held, it is the guard or the world, not a producer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from weir.core.config import BreakerConfig
from weir.core.judgement import Judgement
from weir.types import BreakerPolicy, State, Verdict

MEMORY = 200.0  # samples of a producer after which older ones have faded
LEAST = 200.0  # samples of all producers together that a decision needs
ACTIVE = 100  # steps after which a silent producer has no say
MOST_PRODUCERS = 1_000


class Breaker:
    """Opens when too large a share of honest-looking traffic is held, no producer weighing more than another.

    Who is suspect as a whole has been named and does not count: a flood by one hostile key must not open it. It stays
    open until an admin closes it.
    """

    def __init__(self, config: BreakerConfig) -> None:
        self._config = config
        self._votes: OrderedDict[str, tuple[float, float, int]] = OrderedDict()  # held, seen (faded), newest step
        self.open = False

    def observe(self, judged: Judgement, producers: Sequence[str], step: int) -> None:
        """Count what becomes of one step's samples, and open if it is too much."""
        for producer, verdict in zip(producers, judged.verdicts, strict=True):
            if producer in judged.alarmed_producers:
                self._votes.pop(producer, None)
                continue
            held, seen, _ = self._votes.get(producer, (0.0, 0.0, 0))
            kept = min(1.0, (MEMORY - 1) / seen) if seen else 0.0
            self._votes[producer] = (held * kept + (verdict.verdict is Verdict.QUARANTINE), seen * kept + 1, step)
            self._votes.move_to_end(producer)
            if len(self._votes) > MOST_PRODUCERS:
                self._votes.popitem(last=False)
        if self._config.policy is not BreakerPolicy.OFF and (self.held_ratio(step) or 0.0) > self._config.ratio:
            self.open = True

    def held_ratio(self, step: int) -> float | None:
        """The held share of what active producers sent of late; None before there is enough of it."""
        votes = [(held, seen) for held, seen, newest in self._votes.values() if step - newest <= ACTIVE]
        total = sum(seen for _, seen in votes)
        return sum(held for held, _ in votes) / total if total >= LEAST - 1e-6 else None

    def close(self) -> None:
        """Close it, and count anew."""
        self.open = False
        self._votes.clear()

    def state(self) -> State:
        """Everything a restart needs."""
        return State({}, {"open": self.open, "votes": [[name, *vote] for name, vote in self._votes.items()]})

    def load_state(self, state: State) -> None:
        """Replace votes and position."""
        self.open = state.values["open"]
        self._votes = OrderedDict((name, (held, seen, step)) for name, held, seen, step in state.values["votes"])
