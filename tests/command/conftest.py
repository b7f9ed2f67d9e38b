"""Fixtures for tests of the installed command."""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Iterator

import pytest
from helpers.accounting import LASTING_DAEMONS
from helpers.chain import Chain
from helpers.home import RelayHome
from helpers.postfix import PrivatePostfix
from helpers.variants import use_ses
from sandbox import Sandbox


@pytest.fixture
def ses(home: RelayHome) -> RelayHome:
    """The home, set up for the sandbox's SES, with its own limit so that no quota is queried."""
    use_ses(home)
    return home


@pytest.fixture(scope="session")
def running() -> Iterator[PrivatePostfix]:
    """A running Postfix for all tests that only look at it."""
    with PrivatePostfix(None, settings=LASTING_DAEMONS) as postfix:
        # Tests change its settings without a reload: the smtpd(8) that --check asks still has the old ones.
        # After a client it may not be free yet for the next, so there are three.
        with contextlib.ExitStack() as clients:
            for _ in range(3):
                client = smtplib.SMTP("127.0.0.1", postfix.port, "localhost", 30)
                clients.enter_context(client).ehlo()
        yield postfix


@pytest.fixture
def chain(sandbox: Sandbox, home: RelayHome, running: PrivatePostfix) -> Chain:
    """The home, connected to Postfix and the provider, with no fault anywhere."""
    return Chain(sandbox, home, running)
