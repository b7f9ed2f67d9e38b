"""Fixtures for tests of the installer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.install import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine without the relay, whose Postfix is not started."""
    with Machine() as new:
        yield new


@pytest.fixture
def installed(machine: Machine) -> Machine:
    """A machine with the relay, as it is installed without an option."""
    machine.install()
    return machine
