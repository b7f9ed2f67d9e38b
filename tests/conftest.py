"""Fixtures for all tests. What needs more than pytest is imported late: the unit tests do without."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Generator, Iterator
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Callable

import pytest
from helpers.home import RelayHome
from helpers.pipe import Delivery, pipe
from helpers.script import load_script

if TYPE_CHECKING:
    from sandbox import Sandbox

Deliver = Callable[..., Delivery]
Figures = Callable[..., None]
FIGURES = pytest.StashKey[list[str]]()
STDERR = pytest.StashKey[int]()
# A test takes seconds, or minutes on the slowest machine, and what it starts has a limit of its own; the long
# forms take hours.
HANG_SECONDS, NIGHTLY_HANG_SECONDS = 900, 6 * 3600


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for tests that take too long for every run, and for those that take hours."""
    parser.addoption("--nightly", action="store_true", help="the long forms of the fault tests; hours")
    parser.addoption("--hang-seconds", type=float, help="after which a test that has not ended never will")


def pytest_configure(config: pytest.Config) -> None:
    """Make room for the tests' measurements, and let nothing depend on who has started them, and where."""
    config.stash[FIGURES] = []
    # A test's output is captured, but not at this point.
    config.stash[STDERR] = os.dup(2)
    # As pipe(8) has it, for UTC.
    os.environ["TZ"] = ""
    time.tzset()
    os.umask(0o022)
    # pip may need the proxy; the sandbox is not behind it.
    os.environ.update(dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1"))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        # A start in the background, or with nohup(1), ignores them, and every child would, too.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def watch(config: pytest.Config) -> None:
    """End this process, and print what each of its threads does, if the test does not end: pytest-xdist says
    which test that was, and goes on with another process. Nothing milder gets out of every wait."""
    default = NIGHTLY_HANG_SECONDS if config.getoption("--nightly") else HANG_SECONDS
    seconds = config.getoption("--hang-seconds") or default
    faulthandler.dump_traceback_later(seconds, exit=True, file=config.stash[STDERR])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let no test hang."""
    watch(item.config)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Keep the timer after a failure, where pytest would cancel it: a test's teardown can hang, too."""
    if isinstance(node, pytest.Item):
        watch(node.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a worker of pytest-xdist has measured to the process that prints."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["figures"] = session.config.stash[FIGURES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker has measured."""
    node.config.stash[FIGURES].extend(getattr(node, "workeroutput", {}).get("figures", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the tests have measured."""
    if config.stash[FIGURES]:
        terminalreporter.section("figures")
        for line in config.stash[FIGURES]:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def nightly(pytestconfig: pytest.Config) -> bool:
    """Whether the long forms of the tests are wanted."""
    return bool(pytestconfig.getoption("--nightly"))


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> Figures:
    """Call it with what was tried, and counts by name: they are printed at the end of the run."""

    def keep(tried: str, /, **counts: object) -> None:
        named = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
        pytestconfig.stash[FIGURES].append(f"{tried}: {named}")

    return keep


@pytest.fixture(scope="session")
def relay() -> ModuleType:
    """The relay's functions, as a module."""
    return load_script()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A provider that behaves as the real ones do."""
    from sandbox import Sandbox

    with Sandbox() as provider:
        yield provider


@pytest.fixture
def home(sandbox: Sandbox) -> Iterator[RelayHome]:
    """An installed relay, configured for the sandbox's Graph."""
    with RelayHome(sandbox.url, sandbox.ca_file) as installation:
        yield installation


@pytest.fixture
def deliver(home: RelayHome) -> Deliver:
    """Hand a message to the installed relay: `pipe` without its first argument."""
    return partial(pipe, home)
