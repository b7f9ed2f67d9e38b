"""--status of an installed relay, with a stand-in for Postfix's queue."""

from __future__ import annotations

import json
import re
import time
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from sandbox import Answer, Sandbox

from helpers.answers import provided
from helpers.by_hand import SITE, by_hand, in_days, make_sound, tree
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import pipe
from helpers.queue_ids import long_id
from helpers.script import change_constants
from helpers.state import WINDOW, clock, read

COUNTERS = ("delivered", "deferred", "bounced", "rejected", "overridden", "notices")
# Monitoring Plugins Development Guidelines: one line of text, a bar, and figures as 'label'=value.
PLUGIN_LINE = re.compile(r"POSTFIX-API-RELAY (OK|WARNING|CRITICAL) - [^|\n]+ \|( [a-z_]+=-?[0-9.]+)+")
# The metrics that are not gauges.
TYPES = {"messages": "counter", "acceptance_seconds": "histogram"}
# The stand-in for postqueue.
POSTQUEUE = """\
#!/bin/sh
[ "$*" = "-j" ] || exit 64
cat {directory}/queue
cat {directory}/warning >&2
exit $(cat {directory}/exit)
"""


class Shown(NamedTuple):
    """The exit status and output of --status."""

    status: int
    text: str

    @property
    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.text)
        return content

    @property
    def metrics(self) -> dict[str, float]:
        """The samples, by name and label values; each metric must be in one piece."""
        samples = {}
        families = list(text_string_to_metric_families(self.text))
        assert len(families) == self.text.count("# TYPE ") == self.text.count("# HELP ")
        for family in families:
            assert family.type == TYPES.get(family.name.replace("postfix_api_relay_", ""), "gauge")
            assert family.documentation
            for sample in family.samples:
                name = " ".join([sample.name.replace("postfix_api_relay_", ""), *sample.labels.values()])
                assert name not in samples
                samples[name] = sample.value
        return samples


class Watched:
    """An installed relay, a stand-in for Postfix's postqueue, and --status."""

    def __init__(self, home: RelayHome) -> None:
        self.home = home
        self.commands = home.queue / "bin"
        self.commands.mkdir()
        postqueue = self.commands / "postqueue"
        postqueue.write_text(POSTQUEUE.format(directory=self.commands))
        postqueue.chmod(0o755)
        self.queue()
        change_constants(home, COMMAND_PATH=f"{self.commands}:/usr/bin:/bin")
        make_sound(home)

    def queue(self, *messages: tuple[Any, ...], warning: str = "", status: int = 0) -> None:
        """Set the queued messages (name, age in seconds, perhaps sender), and what else postqueue does."""
        names, now = ("queue_name", "arrival_time", "sender"), int(time.time())
        listed = [dict(zip(names, (name, now - age, *sender))) for name, age, *sender in messages]
        lines = [json.dumps(message) + "\n" for message in listed]
        for name, text in {"queue": "".join(lines), "warning": warning, "exit": str(status)}.items():
            (self.commands / name).write_text(text)

    def show(self, kind: str = "text", user: str = "root") -> Shown:
        """Run it and check what always holds: nothing changed, no secret shown, exit status as printed."""
        before = tree(self.home.path)
        done = by_hand(self.home, "--status", "--format", kind, user=user)
        assert tree(self.home.path) == before
        assert done.stderr == ""
        assert "client-secret" not in done.stdout
        if kind == "text":
            line = done.stdout.splitlines()[0]
            assert PLUGIN_LINE.fullmatch(line), line
            assert line.split()[1] == ("OK", "WARNING", "CRITICAL")[done.returncode]
            # Text after a second bar would be read as figures, even in a later line.
            assert done.stdout.count("|") == 1
        return Shown(done.returncode, done.stdout)

    def json(self) -> dict[str, Any]:
        return self.show("json").json

    def have_something_of_all(self, sandbox: Sandbox) -> None:
        """Create everything that --status can report."""
        home, mailbox = self.home, "ups@example.org"
        home.configure(**SITE, RATE_LIMIT_SCOPE="sender")
        home.secrets(API_EXPIRATION_DATE=in_days(400), API_SECRET_NEXT="another-secret")
        sandbox.answer("sendMail", Answer(202), provided("graph/access-denied"))
        for verdict in ("sent", "bounced"):
            queue_id = long_id(time.time() - 45)
            message = mail(From=mailbox)
            done = pipe(home, message, "to@external.com", sender=mailbox, queue_id=queue_id)
            assert done.verdict == verdict
        state, since = read(home, WINDOW), time.time() - 3600
        # As it is in the state: causes of later attempts replace earlier ones.
        incident = [since, 9, "unreachable", "no route", "opened", since + 600, since + 600, ["syslog"]]
        self.put_state(
            **{**state, "incident": incident, "paused": {mailbox: clock() + 500}, "pause_reason": "too many"}
        )
        self.queue(*[("deferred", 1000, "copier@example.org")] * 25)

    def counted(self) -> dict[str, Any]:
        """Check that all formats agree; return "status", and the counters with "since"."""
        found = self.json()
        counters: dict[str, int] = found["window"]["counters"]
        metrics, shown = self.show("prometheus").metrics, self.show()
        assert [metrics[f"messages_total {name}"] for name in COUNTERS] == [
            counters[name] for name in COUNTERS
        ]
        # As long as nothing has been counted, it is the current time.
        assert 0 <= metrics["counting_since_seconds"] - counters["since"] <= 60
        listed = ", ".join(f"{counters[name]} {name}" for name in COUNTERS)
        assert f"\ncounted:     {listed} since " in shown.text
        assert (
            shown.text.split()[1] == found["status"] == ("OK", "WARNING", "CRITICAL")[int(metrics["status"])]
        )
        return {"status": found["status"], **counters}

    def put_state(self, **content: object) -> None:
        """Write the window's state."""
        self.home.put(WINDOW, json.dumps({"calls": [], **content}).encode())
