"""Fixtures for tests with a real Postfix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.home import RelayHome
from helpers.postfix import PrivatePostfix


@pytest.fixture
def postfix(home: RelayHome) -> Iterator[PrivatePostfix]:
    """A running Postfix that delivers through the installed relay."""
    with PrivatePostfix(home.script, user=home.account.pw_name) as running:
        yield running
