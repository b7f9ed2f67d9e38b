"""Fixtures for tests of the installed command."""

from __future__ import annotations

import pytest
from helpers.home import RelayHome


@pytest.fixture
def ses(home: RelayHome) -> RelayHome:
    """The home, set up for the sandbox's SES, with a limit of its own so that no quota is asked for."""
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    home.configure(RATE_LIMIT_PER_MINUTE=28)
    return home
