"""A recipient that is not an address does not keep the mail from the other recipients."""

from __future__ import annotations

import pytest
from conftest import Deliver
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.state import WINDOW, read
from helpers.variants import use_ses
from sandbox import Sandbox

ODD = "no address"


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_the_others_get_the_message_and_the_admin_a_notice(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    if provider == "ses":
        use_ses(home)
    delivery = deliver(mail(Cc="cc@x.test"), "to@external.com", ODD, "cc@x.test", client="10.9.9.9")
    assert delivery[:3] == ("sent", "2.0.0", 0)
    accepted, notice = sandbox.accepted
    assert (accepted.to, accepted.cc, accepted.bcc) == (["to@external.com"], ["cc@x.test"], [])
    assert notice.to == ["admin@domain.com"]
    assert notice.subject == "[postfix-api-relay] Recipient left out: alerts@domain.com"
    assert ODD in notice.raw.decode() and "10.9.9.9" in notice.raw.decode()
    assert f"left out because they are not e-mail addresses: recipients=['{ODD}']" in home.log()
    counters = read(home, WINDOW)["counters"]
    assert (counters["delivered"], counters["bounced"]) == (1, 0)


def test_it_bounces_where_nobody_could_get_it(sandbox: Sandbox, deliver: Deliver) -> None:
    delivery = deliver(mail(To=f"{ODD}, @x.test"), ODD, "@x.test")
    assert delivery[:3] == ("bounced", "5.1.3", 1)
    assert ODD in delivery.text and "@x.test" in delivery.text
    assert [message.to for message in sandbox.accepted] == [["admin@domain.com"]]


def test_a_bounce_makes_no_notice(sandbox: Sandbox, deliver: Deliver) -> None:
    assert deliver(mail(), "to@external.com", ODD, sender="").verdict == "sent"
    assert [message.to for message in sandbox.accepted] == [["to@external.com"]]


def test_who_is_left_may_have_to_be_visible(sandbox: Sandbox, deliver: Deliver) -> None:
    assert deliver(mail(To=ODD), ODD, "bcc@x.test").dsn == "5.7.1"
