"""Fixtures for all tests. Unit tests need only pytest, so modules that need more are imported late."""

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
# A test takes seconds, or minutes on the slowest machine, and what it starts has its own limit; the long
# forms take hours.
HANG_SECONDS, NIGHTLY_HANG_SECONDS = 900, 6 * 3600


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the long forms of tests, and for the time after which a test is ended."""
    parser.addoption("--nightly", action="store_true", help="the long forms of the fault tests; hours")
    parser.addoption("--hang-seconds", type=float, help="after which a test that has not ended never will")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare for the tests' figures, and make the tests independent of who starts them, and where."""
    config.stash[FIGURES] = []
    # A test's output is captured, but not at this point.
    config.stash[STDERR] = os.dup(2)
    # As in pipe(8)'s environment, for UTC.
    os.environ["TZ"] = ""
    time.tzset()
    os.umask(0o022)
    # pip may need a proxy, but the sandbox must be reached directly.
    os.environ.update(dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1"))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        # A process started in the background or with nohup(1) ignores them, and its children would, too.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def watch(config: pytest.Config) -> None:
    """If the test hangs, print the stack of each thread and end this process: pytest-xdist names the test and
    continues with another process. Nothing milder interrupts every wait."""
    default = NIGHTLY_HANG_SECONDS if config.getoption("--nightly") else HANG_SECONDS
    seconds = config.getoption("--hang-seconds") or default
    faulthandler.dump_traceback_later(seconds, exit=True, file=config.stash[STDERR])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End a test that hangs."""
    watch(item.config)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Restart the timer after a failure, when pytest cancels it: a test's teardown can hang, too."""
    if isinstance(node, pytest.Item):
        watch(node.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Pass the figures of a pytest-xdist worker to the process that prints them."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["figures"] = session.config.stash[FIGURES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Receive a worker's figures."""
    node.config.stash[FIGURES].extend(getattr(node, "workeroutput", {}).get("figures", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the tests' figures."""
    if config.stash[FIGURES]:
        terminalreporter.section("figures")
        for line in config.stash[FIGURES]:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def nightly(pytestconfig: pytest.Config) -> bool:
    """Tell whether to run the long forms of the tests."""
    return bool(pytestconfig.getoption("--nightly"))


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> Figures:
    """Return a function to call with what was tried and counts by name, to be printed after the run."""

    def keep(tried: str, /, **counts: object) -> None:
        named = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
        pytestconfig.stash[FIGURES].append(f"{tried}: {named}")

    return keep


@pytest.fixture(scope="session")
def relay() -> ModuleType:
    """Return the relay's functions as a module."""
    return load_script()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Yield a provider that behaves like the real ones."""
    from sandbox import Sandbox

    with Sandbox() as provider:
        yield provider


@pytest.fixture
def home(sandbox: Sandbox) -> Iterator[RelayHome]:
    """Yield an installed relay, configured for the sandbox's Graph."""
    with RelayHome(sandbox.url, sandbox.ca_file) as installation:
        yield installation


@pytest.fixture
def deliver(home: RelayHome) -> Deliver:
    """Return a function that hands a message to the installed relay: `pipe` without its first argument."""
    return partial(pipe, home)
