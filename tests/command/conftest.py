"""Fixtures for tests of the installed command."""

from __future__ import annotations

import pytest
from helpers.home import RelayHome
from helpers.variants import use_ses


@pytest.fixture
def ses(home: RelayHome) -> RelayHome:
    """The home, set up for the sandbox's SES, with a limit of its own so that no quota is asked for."""
    use_ses(home)
    return home
