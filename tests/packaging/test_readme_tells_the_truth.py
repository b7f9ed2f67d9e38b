"""The manual agrees with the script, the examples, Postfix's settings and the tests."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from helpers.home import SCRIPT, RelayHome
from helpers.mail import mail
from helpers.pipe import pipe
from helpers.postfix import PROJECT, fragment_settings
from helpers.readme import (
    OWN,
    PAGES,
    README,
    Block,
    blocks,
    commands,
    everything,
    page,
    section,
    spans,
    table,
    tables,
)
from helpers.templates import literals, unprintable
from sandbox import Accepted, Sandbox

ALL = "postfix-api-relay"
# The tests that run the commands under each heading.
MACHINE = "tests/packaging/test_readme_commands_work.py"
DEVICES = "tests/postfix/test_devices_that_want_tls_or_a_password.py"
RUN_BY = {
    "Quick start": MACHINE,
    "Monitoring": MACHINE,
    "Report": MACHINE,
    "Troubleshooting": MACHINE,
    "A device that fills the queue": MACHINE,
    "Two tenants on one machine": MACHINE,
    "Upgrading": MACHINE,
    "An upgrade by hand": MACHINE,
    "Uninstalling": MACHINE,
    "1. Account and files": MACHINE,
    "3. Postfix": MACHINE,
    "5. Log rotation": MACHINE,
    "6. Try it": MACHINE,
    "Devices that want TLS": DEVICES,
    "Devices that want a password": DEVICES,
}
# Messages of Postfix, headers and settings that the page quotes.
NOT_OF_THE_SCRIPT = {
    "Command died with signal 14",
    "Message size exceeds fixed limit",
    "Permission denied",
    "Recipient address rejected: Access denied",
    "User unknown in local recipient table",
    OWN.strip(),
    "MAIL FROM",
}
# The commands that the page's text asks readers to run.
COMMANDS = {
    *("apt", "chmod", "dnf", "journalctl", "pip", "pkill", "postconf", "postfix", "postqueue", "postsuper"),
    "restorecon",
}
# SES's API checks SendEmail with raw content as SendRawEmail.
ACTIONS = {"ses:SendEmail", "ses:SendRawEmail", "ses:GetSendQuota"}


@pytest.fixture(scope="module")
def text() -> str:
    """The text of all pages."""
    return "\n".join(path.read_text(encoding="utf-8") for path in PAGES)


@pytest.fixture(scope="module")
def quoted() -> list[str]:
    """The spans between backquotes outside of blocks."""
    return list(dict.fromkeys(span for line in everything().lines for span in spans(line)))


# ---------------------------------------------------------------- tables


def test_the_outcomes_are_the_scripts(relay: ModuleType) -> None:
    expected = [
        [cause, str(relay.EXIT_STATUS[code[0]]), f"`{code}`", meaning, advice]
        for cause, (code, meaning, advice) in relay.CAUSES.items()
    ]
    assert table("All outcomes") == expected


def test_what_a_refusal_means_is_the_scripts(relay: ModuleType) -> None:
    expected = [[f"`{code}`", hint] for code, hint in relay.HINTS.items()]
    assert table("Refused credentials") == expected


def setting_rows(relay: ModuleType, kind: type) -> list[list[str]]:
    """Return the rows that the script's table of settings calls for: key, what it is, what it must be,
    default."""
    rows = []
    for key, spec in relay.settings_of(kind).items():
        with pytest.raises(ValueError) as wanted:
            spec.read(object())
        default = "required" if spec.default is relay.REQUIRED else f"`{json.dumps(spec.default)}`"
        rows.append([f"`{key}`", spec.about, str(wanted.value), default])
    return rows


def test_the_settings_are_the_scripts(relay: ModuleType) -> None:
    rows = setting_rows(relay, relay.RelayConfig)
    assert table("relay-config.json") == [[key, about, default] for key, about, _must_be, default in rows]
    example = json.loads((PROJECT / "relay-config.json.example").read_text(encoding="utf-8"))
    assert table("Values of relay-config.json") == [
        [key, must_be, f"`{json.dumps(example[key.strip('`')])}`"] for key, _about, must_be, _default in rows
    ]
    assert table("api-secrets.json") == setting_rows(relay, relay.ApiSecrets)


def test_the_numbers_are_the_scripts_and_postfixs(relay: ModuleType) -> None:
    fragment = dict(line.split(" = ", 1) for line in fragment_settings(PROJECT / "postfix" / "main.cf"))
    rows = table("Limits and times")
    assert len(rows) > 10
    for what, value, name in rows:
        key = name.strip("`")
        found = fragment[key] if key in fragment else str(getattr(relay, key))
        assert value.split()[0] == found.removesuffix("s"), what


def notices(accepted: list[Accepted]) -> list[Accepted]:
    return [message for message in accepted if message.to == ["admin@domain.com"]]


def test_the_sender_rules_are_what_happens(home: RelayHome, sandbox: Sandbox) -> None:
    example = json.loads((PROJECT / "relay-config.json.example").read_text(encoding="utf-8"))
    home.configure(**{key: value for key, value in example.items() if value and not key.startswith("_")})
    rows = table("Sender rules")
    assert len(rows) > 5
    for sender, client, goes_out, notice, _why in rows:
        before = len(sandbox.accepted)
        # The shipped entry of master.cf makes pipe(8) show the null sender like this.
        envelope = "" if sender == "`<>`" else sender.strip("`")
        message = mail(From=envelope)
        delivery = pipe(home, message, "to@external.com", sender=envelope, client=client.strip("`"))
        assert delivery.verdict == "sent"
        accepted, *more = sandbox.accepted[before:]
        assert (accepted.mailbox, notices(more)) == (goes_out.strip("`"), more)
        assert notice == ("yes" if more else "no"), sender


def test_the_installer_explains_its_options_itself() -> None:
    """The manual refers to --help for them, which must list them all."""
    installer = PROJECT / "postfix" / "install.sh"
    done = subprocess.run(["bash", installer, "--help"], capture_output=True, text=True, timeout=60)
    explained = set(re.findall(r"^  (--[a-z-]+)", done.stdout, re.MULTILINE)) - {"--help"}
    taken = re.findall(r"^ +(--[a-z-]+(?: \| --[a-z-]+)*)\)", installer.read_text(), re.MULTILINE)
    assert explained == {option for options in taken for option in options.split(" | ")} - {"--help"}
    assert "`postfix/install.sh --help`" in "\n".join(section("Commands and options").lines)


def test_a_status_is_judged_as_the_table_says(relay: ModuleType) -> None:
    rows = {row[0]: row[1:] for row in table("Monitoring")}
    minutes = [
        f"{limit // 60} minutes" for limit in (relay.QUEUE_WARNING_SECONDS, relay.QUEUE_CRITICAL_SECONDS)
    ]
    assert rows["the oldest deferred mail has waited for"] == minutes
    assert (
        rows["one sender has more than half of the mail that waits"][0] == f"{relay.STORM_MESSAGES} messages"
    )
    assert rows["the credentials expire within"] == [f"{relay.EXPIRY_WARNING_DAYS} days", "0 days"]


def test_the_command_that_holds_a_storm_is_the_one_of_the_status(relay: ModuleType) -> None:
    [block] = section("A device that fills the queue").blocks
    assert block.text == relay.hold_command("copier@domain.com", relay.Postfix(None)) + "\n"


def test_metrics_exist(quoted: list[str]) -> None:
    named = [span for span in quoted if span.startswith("postfix_api_relay_")]
    pieces = literals(SCRIPT.read_text(encoding="utf-8"))
    assert len(named) > 3
    assert [name for name in named if name.removeprefix("postfix_api_relay_") not in pieces] == []


def test_every_promise_names_tests_that_exist() -> None:
    rows = table("Promises")
    assert len(rows) == 9
    for promise, _how, proofs in rows:
        assert re.findall(r"`(tests/[^`]+)`", proofs), promise


def test_the_policy_allows_what_the_relay_does() -> None:
    [policy] = [json.loads(block.text) for block in section("Amazon SES").blocks if block.language == "json"]
    allowed: list[str] = []
    for statement in policy["Statement"]:
        actions = statement["Action"]
        allowed += [actions] if isinstance(actions, str) else actions
    assert sorted(allowed) == sorted(ACTIONS)
    source = SCRIPT.read_text(encoding="utf-8")
    assert "Action=GetSendQuota&" in source
    assert "/v2/email/outbound-emails" in source


# ---------------------------------------------------------------- links and names


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in page(path)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    links = re.findall(r"\]\(([^):]+)\)", "\n".join(next(iter(page(path).values())).lines))
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


def test_every_page_is_reached_from_the_first() -> None:
    text = README.read_text(encoding="utf-8")
    others = [str(path.relative_to(PROJECT)) for path in PAGES if path != README]
    assert [name for name in others if f"]({name})" not in text] == []
    assert sorted(PROJECT.glob("[a-z]*/README.md")) == sorted(set(PAGES) - {README})


def test_the_manual_is_short_enough_to_find_things_in() -> None:
    assert README.stat().st_size <= 40_000


def test_files_of_the_project_exist(quoted: list[str]) -> None:
    words = [word for span in quoted for word in span.removeprefix("sudo ").split()[:1]]
    files = [word for word in words if re.match(r"(tests|postfix|selinux|logrotate)/", word)]
    assert "tests/run.sh" in files
    assert [file for file in files if not (PROJECT / file).exists()] == []


def test_keys_and_constants_exist(relay: ModuleType, quoted: list[str]) -> None:
    known = {key for kind in (relay.RelayConfig, relay.ApiSecrets) for key in relay.settings_of(kind)}
    words = {word for span in quoted for word in re.findall(r"\b[A-Z]+_[A-Z0-9_]+\b(?!…)", span)}
    assert known <= words
    others = {word for word in words - known if not hasattr(relay, word) and not word.startswith("YOUR_")}
    # The page explains this mistake.
    assert others == {"VALID_FROM_ADRESSES"}


def test_postfixs_settings_are_known_to_postfix(quoted: list[str]) -> None:
    named = [re.fullmatch(r"([a-z]+(?:_[a-z]+)+)(?: = .*)?", span) for span in quoted]
    metrics = ("postfix_api_relay_", "node_textfile_")
    names = [match[1] for match in named if match and not match[1].startswith(metrics)]
    assert "queue_run_delay" in names
    done = subprocess.run(["postconf", "-d"], capture_output=True, text=True, timeout=60)
    known = set(re.findall(r"^(\w+) =", done.stdout, re.MULTILINE))
    fragment = {line.split(" = ")[0] for line in fragment_settings(PROJECT / "postfix" / "main.cf")}
    assert [name for name in names if name not in known | fragment] == []


def test_options_of_our_programs_exist(relay: ModuleType, text: str) -> None:
    texts = {
        "postfix-api-relay": relay.help_text(),
        "install.sh": (PROJECT / "postfix" / "install.sh").read_text(encoding="utf-8"),
        "run.sh": (PROJECT / "tests" / "run.sh").read_text(encoding="utf-8"),
    }
    used = re.findall(r"(postfix-api-relay|install\.sh|run\.sh)((?: [\w./@-]+)+)", text)
    found = [(program, option) for program, rest in used for option in re.findall(r" (--[a-z-]+)", rest)]
    assert ("postfix-api-relay", "--check") in found
    assert [(program, option) for program, option in found if option not in texts[program]] == []


def cited(text: str) -> set[int]:
    """Return the numbers of the sources that a text names, such as (3, 13)."""
    return {int(number) for group in re.findall(r"\((\d+(?:, \d+)*)\)", text) for number in group.split(", ")}


def test_what_is_said_of_others_has_its_source() -> None:
    lines = section("Where users come from").lines
    sources = [line for line in lines if re.match(r"\d+\. ", line)]
    listed = {int(line.split(".")[0]) for line in sources if re.search(r"\]\(https://[^)]+\)", line)}
    rows = table("Where users come from")
    assert len(rows) == 5
    assert [row[0] for row in rows if not cited(" ".join(row))] == []
    assert listed == {*range(1, len(sources) + 1)}
    assert cited(" ".join(line for line in lines if line not in sources)) == listed


# ---------------------------------------------------------------- what is quoted


def is_quoted_text(span: str) -> bool:
    """Tell whether a span is text that a user reads, and neither a command nor a setting."""
    first = span.removeprefix("sudo ").split()[0]
    is_command = first in COMMANDS
    is_ours = "/" in first or first.startswith("--") or first == ALL
    is_setting = re.fullmatch(r"\w+ = \S+", span)
    return " " in span and not (is_command or is_ours or is_setting)


def test_what_the_page_quotes_is_what_the_script_can_say(quoted: list[str]) -> None:
    pieces = literals(SCRIPT.read_text(encoding="utf-8"))
    [first, *_] = tables("Troubleshooting")
    cells = [span for row in [*first[1:], *table("Rarer messages")] for span in spans(row[0])]
    assert len(cells) > 20
    texts = dict.fromkeys([*cells, *(span for span in quoted if is_quoted_text(span))])
    wrong = {span: unprintable(span, pieces) for span in texts if span not in NOT_OF_THE_SCRIPT}
    assert {span: parts for span, parts in wrong.items() if parts} == {}


def test_what_a_block_shows_is_what_the_script_can_say() -> None:
    pieces = literals(SCRIPT.read_text(encoding="utf-8"))
    shown = {block.heading: block.text.splitlines() for block in blocks("")}
    # A drawing, and lines that other tests compare with those of a delivery or of --explain.
    others = {ALL, "The first device", "An explanation", "6. Try it"}
    assert set(shown) - {"Quick start", "Monitoring systems"} == others
    # The level has its own column.
    levels = re.compile(r"^(?:ok|warn|FAIL) {2,4}(?=\S)")
    [first, *_] = blocks("console")
    answers = [line for line in first.text.splitlines() if not line.startswith("$ ")]
    assert answers
    quoted = [*answers, *shown["Quick start"], *shown["Monitoring systems"]]
    lines = [levels.sub("", line) for line in quoted]
    wrong = {line: unprintable(line, pieces) for line in lines}
    assert {line: parts for line, parts in wrong.items() if parts} == {}


def test_words_in_the_text_cannot_be_made_of_anything() -> None:
    pieces = literals(SCRIPT.read_text(encoding="utf-8"))
    assert unprintable("rate limit reached (28/28 per minute), deferring", pieces) == []
    assert unprintable("rate limit reached (28/28 per hour), deferring", pieces) != []
    assert unprintable("Graph sendMail fails: HTTP 403", pieces) != []


# ---------------------------------------------------------------- blocks


def is_run(block: Block) -> bool:
    """Tell whether a test under RUN_BY runs the block."""
    test = RUN_BY.get(block.heading)
    return bool(test and f'"{block.heading}"' in (PROJECT / test).read_text(encoding="utf-8"))


def test_every_block_of_commands_is_run_or_marked() -> None:
    found = blocks("sh")
    assert len(found) > 15
    assert [block for block in found if not (block.text.startswith(OWN) or is_run(block))] == []


def test_every_block_of_commands_is_a_shells() -> None:
    for block in blocks("sh"):
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), block


def test_blocks_are_of_languages_that_are_looked_at() -> None:
    looked_at = {"sh", "json", "cron", "sudoers", "ini", "yaml", "text"}
    shown = {"console", "powershell", ""}
    assert {block.language for block in everything().blocks} == looked_at | shown


def test_scripts_that_are_started_exist() -> None:
    lines = [line for block in blocks("sh") for line in block.text.splitlines()]
    started = {
        match[1] for match in (re.match(r"(?:sudo )?(\w+/[\w.-]+\.sh)\b", line) for line in lines) if match
    }
    assert started == {"postfix/install.sh", "selinux/build.sh"}
    assert [name for name in started if not (PROJECT / name).is_file()] == []


def test_the_demonstrations_exist() -> None:
    _first, *others = blocks("console")
    shown = [line for block in others for line in block.text.splitlines()]
    names = [re.match(r"\$ sudo (\S+)", line) for line in shown]
    scripts = [match[1] for match in names if match]
    assert scripts == ["tests/demo.sh", "tests/run.sh"]
    assert all((PROJECT / name).is_file() for name in scripts)


def test_the_first_screen_shows_the_commands_of_the_quick_start() -> None:
    first, *_ = blocks("console")
    assert first.heading == ALL
    shown = [line.removeprefix("$ ") for line in first.text.splitlines() if line.startswith("$ ")]
    run = [line for text in commands("Quick start") for line in text.splitlines()]
    assert len(shown) == 2
    assert [line for line in shown if line not in run] == []
    # About forty lines, the part that is visible without scrolling.
    assert README.read_text(encoding="utf-8").partition(first.text)[0].count("\n") < 40


def without_ids(line: str) -> str:
    """Return a line of the log without its time and the ids of the provider and Postfix."""
    return re.sub(r"^\[\S+\]|\b(?:queue_)?id='[^']*'", "", line)


def test_the_first_device_leaves_the_lines_that_are_shown(home: RelayHome) -> None:
    message = mail(
        From="alerts@domain.com",
        To="admin@domain.com",
        Subject="UPS: On Battery",
        Message_ID="<1@ups.domain.com>",
    )
    pipe(home, message, "admin@domain.com", sender="alerts@domain.com", client="192.168.1.20")
    [shown] = [block.text for block in blocks("") if block.heading == "The first device"]
    log = home.log().splitlines()
    assert [without_ids(line) for line in shown.splitlines()] == [without_ids(line) for line in log]
