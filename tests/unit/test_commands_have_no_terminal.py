"""What runs as the account, which may take it over, cannot type into root's terminal."""

from __future__ import annotations

from helpers.script import load_script

relay = load_script()


def test_a_command_of_postfixs_has_a_session_of_its_own() -> None:
    told, _ = relay.Postfix(None).run(
        "sh", "-c", "read -r _ _ _ _ _ session _ </proc/$$/stat; echo $$ $session"
    )

    process, session = told.split()
    assert process == session
