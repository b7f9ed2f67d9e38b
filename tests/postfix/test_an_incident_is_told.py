"""A provider accepts nothing for a while: the admin is notified of it once, and of its end, and no mail
waits."""

from __future__ import annotations

import time

from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import PrivatePostfix
from helpers.state import WINDOW, pass_by_incident, read
from helpers.waiting import processes, wait_until
from helpers.webhook import Webhook
from sandbox import Answer, Sandbox

MINUTES = 10


def attempts(postfix: PrivatePostfix, number: int) -> None:
    """Wait until this number of deliveries have been tried."""
    postfix.wait_for(f"{number} attempts", lambda: len(postfix.outcomes()) >= number)


def test_through_postfix(sandbox: Sandbox, home: RelayHome, postfix: PrivatePostfix) -> None:
    with Webhook(sandbox.context) as webhook:
        home.secrets(ADMIN_WEBHOOK_URL=webhook.url)
        sandbox.answer("sendMail", Answer(503, times=None))
        for number in range(3):
            postfix.sendmail("alerts@domain.com", ["to@external.com"], mail(Subject=str(number)).decode())
        attempts(postfix, 3)
        assert webhook.posts == []
        wait_until(lambda: "incident" in read(home, WINDOW))
        pass_by_incident(home, MINUTES * 60)
        attempts(postfix, len(postfix.outcomes()) + 6)
        webhook.wait_for(1)
        sandbox._answers.clear()
        postfix.flush()
        postfix.wait_until_empty()
        webhook.wait_for(2)
        wait_until(lambda: not processes(home))
        assert webhook.events == ["opened", "recovered"]
    subjects = [message.subject for message in sandbox.accepted]
    assert sorted(subjects)[:3] == ["0", "1", "2"]
    [notice] = subjects[1:2]
    assert notice.startswith("[postfix-api-relay] Mail goes out again; the cause was: the provider")
    assert len(subjects) == 4


def test_a_webhook_that_hangs_holds_up_no_mail(
    sandbox: Sandbox, home: RelayHome, postfix: PrivatePostfix
) -> None:
    """The only pipe(8) waits for a command and its output, but not for the process that posts."""
    with Webhook(sandbox.context) as webhook:
        webhook.hangs = True
        home.secrets(ADMIN_WEBHOOK_URL=webhook.url)
        home.configure(INCIDENT_AFTER_MINUTES=0)
        sandbox.answer("sendMail", Answer(503))
        postfix.sendmail("alerts@domain.com", ["to@external.com"], mail(Subject="First").decode())
        webhook.wait_for(1)
        began = time.monotonic()
        postfix.sendmail("alerts@domain.com", ["to@external.com"], mail(Subject="Second").decode())
        sandbox.wait_for(1)
        took = time.monotonic() - began
        # It is still posting.
        assert (len(processes(home)) >= 1, webhook.at_once) == (True, 1), took
        postfix.wait_until_empty()
        webhook.ending.set()
        wait_until(lambda: not processes(home))
    assert sorted(outcome.status for outcome in postfix.outcomes()) == ["deferred", "sent", "sent"]
