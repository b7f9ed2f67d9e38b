"""The shipped Postfix fragments, as Postfix reads them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.postfix import (
    PROJECT,
    adapted_urgent_entry,
    add_settings,
    age_settings,
    fragment_settings,
    make_settings,
    run,
    urgent_text,
)

SETTINGS = {
    "mynetworks": "127.0.0.0/8, [::1]/128, 192.168.1.0/24",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
    "inet_interfaces": "all",
    "mydestination": "localhost",
    "default_transport": "apirelay:api-relay",
    "apirelay_destination_recipient_limit": "0",
    "message_size_limit": "50331648",
    "queue_run_delay": "62s",
    "minimal_backoff_time": "30s",
    "maximal_backoff_time": "30s",
    "enable_long_queue_ids": "yes",
    "always_add_missing_headers": "yes",
}


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A configuration directory with nothing but the fragments."""
    make_settings(tmp_path)
    shutil.copy(PROJECT / "postfix" / "master.cf", tmp_path)
    add_settings(tmp_path, fragment_settings(PROJECT / "postfix" / "main.cf"))
    return tmp_path


def test_every_setting_arrives(configuration: Path) -> None:
    listing = run("postconf", "-c", str(configuration), "-n").splitlines()
    settings = dict(line.split(" = ", 1) for line in listing)
    of_the_test = {name: settings[name] for name in ("config_directory", "myhostname")}
    assert settings == {**SETTINGS, **of_the_test}


def test_every_setting_is_known_to_postfix(configuration: Path) -> None:
    done = subprocess.run(["postconf", "-c", configuration, "-n"], capture_output=True, text=True, timeout=60)
    # postconf warns of unused parameters, such as misspelt ones.
    assert done.stderr == ""


def test_a_deferred_message_is_ready_well_before_the_next_scan() -> None:
    names = ("minimal_backoff_time", "maximal_backoff_time", "queue_run_delay")
    shortest, longest, scan = (int(SETTINGS[name].rstrip("s")) for name in names)
    assert shortest <= longest < scan - 10


def test_the_transport_hands_over_all_that_the_relay_wants(configuration: Path) -> None:
    entry = run("postconf", "-c", str(configuration), "-M", "apirelay/unix").split()
    assert entry[:8] == ["apirelay", "unix", "-", "n", "n", "-", "1", "pipe"]
    assert entry[8:] == [
        "flags=Rq",
        "user=postfix-relay",
        "null_sender=",
        "argv=/opt/postfix-relay/postfix-api-relay",
        "${sender}",
        "${queue_id}",
        "${recipient}",
        "${client_address}",
    ]


def test_what_is_commented_out_leads_to_the_transport_for_urgent_mail(configuration: Path) -> None:
    with (configuration / "master.cf").open("a") as file:
        file.write(adapted_urgent_entry("/opt/postfix-relay/postfix-api-relay", "postfix-relay"))
    with (configuration / "main.cf").open("a") as file:
        file.write(urgent_text(PROJECT / "postfix" / "main.cf"))
    age_settings(configuration)
    done = subprocess.run(["postconf", "-c", configuration, "-n"], capture_output=True, text=True, timeout=60)
    # A parameter of a missing transport would be reported as unused.
    assert "apirelay-urgent_destination_recipient_limit = 0\n" in done.stdout
    assert "unused parameter" not in done.stderr
