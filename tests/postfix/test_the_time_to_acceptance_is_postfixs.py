"""The time from arrival to acceptance agrees with Postfix's own times."""

from __future__ import annotations

import time
from types import ModuleType

from helpers.by_hand import make_sound
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import PrivatePostfix
from helpers.watched import Watched
from sandbox import Answer, Sandbox


def test_a_message_that_waited(
    home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix, relay: ModuleType
) -> None:
    watched = Watched(home)
    make_sound(home)
    sandbox.answer("sendMail", Answer(status=503))
    before = time.time()
    postfix.sendmail("alerts@domain.com", ["to@external.com"], mail().decode())
    # A message that is moving to another queue may be listed twice.
    waiting, *_ = postfix.wait_for("its place in the queue", postfix.queue)
    arrived = relay.arrival(waiting["queue_id"])
    assert int(arrived) == waiting["arrival_time"]
    assert before - 0.001 <= arrived <= time.time()
    postfix.wait_until_empty()
    took = time.time() - arrived
    found = watched.json()["window"]["acceptance_seconds"]
    assert found["count"] == 1
    assert 0 < found["sum"] <= took
