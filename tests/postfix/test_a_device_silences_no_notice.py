"""A device that sends as MAILER-DAEMON appears as the null sender: its mail may fail, but not silently."""

from __future__ import annotations

import pytest
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import PrivatePostfix
from sandbox import Sandbox


@pytest.mark.parametrize("sender", ["MAILER-DAEMON", "", "double-bounce@x.test"])
@pytest.mark.parametrize("entry", ["shipped", "without null_sender="])
def test_its_failure_is_told_of(home: RelayHome, sandbox: Sandbox, sender: str, entry: str) -> None:
    with PrivatePostfix(home.script, user=home.account.pw_name) as postfix:
        if entry != "shipped":
            file = postfix.config / "master.cf"
            text = file.read_text()
            assert " null_sender= " in text
            file.write_text(text.replace(" null_sender= ", " "))
            postfix.reload()
        postfix.smtp(sender, ["to@external.com"], mail(From=None, To=None).decode())
        postfix.wait_for("the notice", lambda: sandbox.accepted)
        postfix.wait_until_empty()
        assert [outcome.status for outcome in postfix.outcomes()][:1] == ["bounced"]
    notice = sandbox.accepted[0]
    assert notice.to == ["admin@domain.com"]
    assert "Permanent failure" in notice.subject
