"""A delivery of several calls is over once Postfix no longer has its message, as far as its queue tells."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import ModuleType

import pytest

DAY = 86400
QUEUED = {"queue_name": "deferred", "queue_id": "Old1", "arrival_time": 1, "recipients": [{"address": "a@b"}]}


@pytest.mark.parametrize(
    ("listing", "after_two_days", "after_a_week"),
    [
        (json.dumps(QUEUED), False, False),
        (json.dumps({**QUEUED, "recipients": []}), False, False),
        (json.dumps({**QUEUED, "queue_id": "Other"}), True, True),
        ("", True, True),
        # It cannot be read, so the file's age decides.
        ("not JSON", False, True),
        (None, False, True),
    ],
)
def test_the_queue_or_the_age_decides(
    relay: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listing: str | None,
    after_two_days: bool,
    after_a_week: bool,
) -> None:
    def run(self: object, *command: str) -> tuple[str, str]:
        if listing is None:
            raise OSError("postqueue failed")
        return listing, ""

    monkeypatch.setattr(relay.Postfix, "run", run)
    name = ".progress-Old1-0123"
    file = tmp_path / name
    file.write_text("{}")
    for days, expected in ((0, False), (2, after_two_days), (7, after_a_week)):
        os.utime(file, (time.time() - days * DAY,) * 2)
        assert relay.is_forgotten(name, str(file), "4ZxTestQid") == expected
