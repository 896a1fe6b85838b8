"""What every audit trail owes: the last lines, newest first, for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weir.stores.base import Audit, AuditRecord

if TYPE_CHECKING:
    from tests.contracts.conftest import Opened, Reopen

LINES = [
    AuditRecord(at=10.0, actor="eve", action="release", target="b_1:0", detail={"relabel": 3, "force": False}),
    AuditRecord(at=9.0, actor="root", action="rollback", target="00000001-7"),
    AuditRecord(at=11.5, actor="root", action="key.add", target="k_1", detail={"roles": ["producer"]}),
]


def test_the_last_lines_come_newest_first(audit: Audit) -> None:
    assert audit.recent(10) == []
    for line in LINES:
        audit.record(line)
    assert audit.recent(10) == LINES[::-1]
    assert audit.recent(2) == [LINES[2], LINES[1]]


def test_lines_outlive_the_process(stores: Opened, reopen: Reopen) -> None:
    for line in LINES:
        stores.audit.record(line)
    assert reopen().audit.recent(10) == LINES[::-1]
