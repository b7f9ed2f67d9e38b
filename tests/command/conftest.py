"""Fixtures for tests of the installed command."""

from __future__ import annotations

import pytest
from helpers.chain import Chain
from helpers.home import RelayHome
from helpers.variants import use_ses
from sandbox import Sandbox


@pytest.fixture
def ses(home: RelayHome) -> RelayHome:
    """The home, set up for the sandbox's SES, with a limit of its own so that no quota is asked for."""
    use_ses(home)
    return home


@pytest.fixture
def chain(sandbox: Sandbox, home: RelayHome) -> Chain:
    """The home in a chain from Postfix to the provider with nothing wrong in it."""
    return Chain(sandbox, home)
