"""What every test relies on: one torch thread, no setting of the developer's own, and programs that may be missing."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.redis_server import RedisServer, running

# With 1, tests that were left out make the run fail: CI has every program that they need.
COMPLETE = os.environ.get("TESTS_COMPLETE") == "1"
# Before anything imports torch: several workers with a pool of threads each are slower than one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in [name for name in os.environ if name.startswith("WEIR_")]:
    del os.environ[name]
LEFT_OUT = "needs the program "


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A durable server for the whole run; every test has a prefix of its own."""
    with running() as server:
        yield server


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(program): is left out, and counted, where the program is not on the PATH")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for needs in item.iter_markers("needs"):
            if shutil.which(needs.args[0]) is None:
                item.add_marker(pytest.mark.skip(reason=LEFT_OUT + needs.args[0]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for program, tests in left_out(terminalreporter).items():
        terminalreporter.write_line(f"left out: {tests} tests, need {program}", yellow=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if COMPLETE and exitstatus == pytest.ExitCode.OK and reporter is not None and left_out(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def left_out(reporter: pytest.TerminalReporter) -> Counter[str]:
    """How many tests each missing program left out; the reports come from every worker."""
    reasons = (report.longrepr[2] for report in reporter.stats.get("skipped", ()))
    return Counter(reason.partition(LEFT_OUT)[2] for reason in reasons if LEFT_OUT in reason)
