"""Every failure Weir names, as one tree.

WeirError
├── InvalidInput              the caller's data is wrong; nothing was changed
│   ├── InvalidBatch
│   ├── InvalidProbe
│   └── InvalidSetting
├── InvalidSettings           every InvalidSetting of one start, together
├── Refused                   the request is well formed but cannot be served
│   ├── Unauthenticated
│   ├── Forbidden
│   ├── NotFound
│   ├── Conflict
│   ├── Elsewhere
│   ├── TooLarge
│   ├── UnsupportedType
│   ├── LogFull
│   ├── QuotaExceeded
│   └── NotReady
├── ModelNotBuilt             a model name or factory that does not give a model
├── DamagedCheckpoint         a checkpoint that fails its checksum or its layout
├── DamagedPublication        a published model that fails its checksum or its layout
├── StorageFailed             a disk or a database that cannot be read or written now
│   └── StorageFull           it has no space left
├── Fenced                    another learner has taken over
├── GroupLost                 a rank of a learner's group has ended
├── RankFailed                another rank of it could not do its part
└── ServiceUnavailable        the client could not reach a service, or its answer was not Weir's
"""

from __future__ import annotations


class WeirError(Exception):
    """Base of all errors that Weir raises on purpose; ``code`` is stable and fit for machines."""

    code = "error"


class InvalidInput(WeirError):
    """Data that does not fit: names the field, the value seen and what was expected."""

    code = "invalid_input"

    def __init__(self, field: str, seen: object, expected: str, *, code: str | None = None) -> None:
        self.field = field
        self.seen = str(seen)
        self.expected = expected
        self.code = code or type(self).code
        super().__init__(f"{field}: expected {expected}, got {self.seen}")


class InvalidBatch(InvalidInput):
    """A batch that the model cannot take."""

    code = "invalid_batch"


class InvalidProbe(InvalidInput):
    """A probe set that cannot calibrate the guard."""

    code = "invalid_probe"


class InvalidSetting(InvalidInput):
    """A setting out of its range, or settings that contradict each other."""

    code = "invalid_setting"


class InvalidSettings(WeirError):
    """Every setting that does not fit, so that one start shows them all."""

    code = "invalid_setting"

    def __init__(self, problems: tuple[InvalidSetting, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class Refused(WeirError):
    """A request that is understood and not served."""

    code = "refused"


class Unauthenticated(Refused):
    """No key, or a key that is not known or was revoked."""

    code = "unauthenticated"


class Forbidden(Refused):
    """The key's roles do not allow this."""

    code = "forbidden"


class NotFound(Refused):
    """Nothing has this id."""

    code = "not_found"

    def __init__(self, kind: str, id: str) -> None:
        self.kind = kind
        self.id = id
        super().__init__(f"no {kind} has the id {id!r}")


class Conflict(Refused):
    """The thing is not in a state that allows this."""

    code = "conflict"

    def __init__(self, why: str, *, code: str | None = None) -> None:
        self.code = code or type(self).code
        super().__init__(why)


class Elsewhere(Refused):
    """Only another process of the service can do this; the message says which."""

    code = "elsewhere"


class TooLarge(Refused):
    """A body over the configured limit, in bytes."""

    code = "too_large"

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"the body is over the limit of {limit} bytes; send smaller batches")


class UnsupportedType(Refused):
    """A content type that no codec reads."""

    code = "unsupported_type"

    def __init__(self, seen: str, supported: tuple[str, ...]) -> None:
        self.seen = seen
        self.supported = supported
        super().__init__(f"content type {seen or '(none)'!r}: send one of {', '.join(supported)}")


class LogFull(Refused):
    """As much waits as may, for the learner or for the disk; try again after ``retry_after`` seconds."""

    code = "log_full"

    def __init__(self, retry_after: float, held: str, *, behind: str = "the learner") -> None:
        self.retry_after = retry_after
        super().__init__(f"{behind} is behind: {held} wait; try again in {retry_after:g} s")


class QuotaExceeded(Refused):
    """A producer has as much waiting, or held for review, as one may; try again after ``retry_after`` seconds."""

    code = "quota_exceeded"

    def __init__(self, retry_after: float, held: str, *, code: str | None = None) -> None:
        self.retry_after = retry_after
        self.code = code or type(self).code
        super().__init__(f"{held}; try again in {retry_after:g} s")


class NotReady(Refused):
    """The service has no model yet, or its trainer has stopped."""

    code = "not_ready"

    def __init__(self, why: str, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(why)


class ModelNotBuilt(WeirError):
    """A model name that is not known, or a ``package.module:factory`` that cannot be imported or called."""

    code = "model_not_built"


class DamagedCheckpoint(WeirError):
    """A checkpoint that cannot be trusted: missing file, wrong checksum, unknown layout."""

    code = "damaged_checkpoint"


class DamagedPublication(WeirError):
    """A published model that cannot be trusted: wrong checksum, unknown layout."""

    code = "damaged_publication"


class StorageFailed(WeirError):
    """A store that cannot be read or written: full disk, a file that another process holds or that is not ours."""

    code = "storage_failed"


class StorageFull(StorageFailed):
    """A store without space: nothing is acknowledged until there is some."""

    code = "storage_full"


class Fenced(WeirError):
    """Another learner has taken over the log of this one, which must not write any more."""

    code = "fenced"


class GroupLost(WeirError):
    """A rank of a learner's group has ended or left its course: what starts the ranks must start all of them anew."""

    code = "group_lost"


class RankFailed(WeirError):
    """Another rank raised while it did its part of a step, and so nobody goes on with that."""

    code = "rank_failed"


class ServiceUnavailable(WeirError):
    """No service answered at this address, or what answered was not Weir."""

    code = "service_unavailable"
