"""Measure how storms of messages leave the queue of a real Postfix, to the sandbox in its own process.

Run as root, with the interpreter of the tests. Arguments choose scenarios or families of them ("guide",
"wait-300"); without any, all are run. That takes 45 minutes, and the machine should do nothing else.
"""

from __future__ import annotations

import argparse
import json
import re
import smtplib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.provider import Provider, Taken
from benchmarks.record import surroundings
from benchmarks.report import aligned
from helpers.accounting import LASTING_DAEMONS, Spent, spent
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import pipe
from helpers.postfix import PrivatePostfix
from helpers.script import change_constants
from helpers.state import WINDOW
from helpers.storm_figures import (
    busiest,
    in_order,
    largest_displacement,
    least_by_limit,
    least_by_limit_and_pace,
)
from helpers.variants import use_ses
from sandbox import terminable

NOISY = "network@domain.com"
QUIET = "alerts@domain.com"
RECIPIENT = "to@external.com"
ALERT = "alert"
# The reserve that install.sh --urgent sets, and the transport that tables send urgent mail to.
RESERVE = 6
URGENT = "apirelay-urgent"

STORM_DEFINITIONS = """\
drain: first injection to last acceptance. least: 60 s x floor((N - 1) / limit), and in brackets with the pace
of the same number of processes without a limit (no message sooner than one pace after the one before it, nor
than 60 s after the one `limit` before it). processes: PROCESSING lines over DELIVERED lines. CPU: user and
system time of the relay's processes, from fork to exit, over deliveries. in order: neighbours among the
acceptances that came to Postfix in this order; moved: the largest displacement; both in brackets against the
order in which the relay was first started for them. alert: the last of the N, from another sender, is
injected when half (family "sender": a whole window) is accepted; the seconds until its acceptance. In family
"urgent", urgent alerts arrive evenly throughout the storm, and the slowest is shown; least is for what they
leave of the limit, and order that of the storm. busiest window: the most acceptances in any 60 s of the
provider's clock, with scope "sender" of one mailbox."""

THROUGHPUT_DEFINITIONS = """\
Without a limit. messages a second: between the first and the last acceptance. Then processor time per message
from the first injection to the end of the last delivery: the relay's processes, Postfix's own, the stand-in
provider, what injects and watches, everything else on the machine, and the time in which the processors were
lent to others or idle."""


class Scale(NamedTuple):
    """The sizes of all scenarios: numbers of messages, limits in a window, times in seconds."""

    window: int = 60
    limit: int = 280
    storms: tuple[int, ...] = (100, 300, 1000)
    max_wait: int = 90
    # Postfix's own delay has whole seconds, so its limit is one message a second.
    second_limit: int = 60
    second_storm: int = 100
    shared_storm: int = 300
    # Graph's own limit.
    urgent_limit: int = 28
    urgent_storm: int = 300
    unlimited: int = 100
    ses: int = 200
    scans: Mapping[str, str] = {}


# A tenth of the times. It only shows that everything works: starting a process is no faster.
QUICK = Scale(
    window=6,
    limit=12,
    storms=(5, 14, 40),
    max_wait=9,
    second_limit=6,
    second_storm=10,
    shared_storm=20,
    urgent_limit=12,
    urgent_storm=14,
    unlimited=12,
    ses=16,
    scans={"queue_run_delay": "7s", "minimal_backoff_time": "3s", "maximal_backoff_time": "3s"},
)


class Scenario(NamedTuple):
    """One run; `limit` 0 is none. The alert is injected after `alert_after` acceptances, never if that is 0.

    In addition, `urgent` alerts arrive in each window, for as long as the limit makes the storm last.
    """

    name: str
    way: str
    messages: int
    limit: int
    maxproc: int = 1
    alert_after: int = 0
    provider: str = "graph"
    config: Mapping[str, object] = {}
    settings: Mapping[str, str] = {}
    urgent: int = 0

    @property
    def left(self) -> int:
        """The part of the limit that remains for mail that is not urgent."""
        return self.limit - (RESERVE if self.urgent else 0)

    @property
    def alerts(self) -> list[str]:
        """The subjects of the urgent alerts."""
        return [f"{ALERT} {n}" for n in range(self.urgent * ((self.messages - 1) // (self.left or 1)))]


class Arrival(NamedTuple):
    """A message that Postfix has accepted, at a time in monotonic seconds."""

    when: float
    queue_id: str
    subject: str


class Run(NamedTuple):
    """The observations of a scenario."""

    began: float
    arrivals: list[Arrival]
    taken: list[Taken]
    started: list[str]  # subjects, in the order of the relay's first start for each
    processes: int
    deliveries: int
    spent: Spent

    @property
    def drain(self) -> float:
        return self.taken[-1].when - self.began

    @property
    def pace(self) -> float:
        """Seconds from one acceptance to the next."""
        return (self.taken[-1].when - self.taken[0].when) / (len(self.taken) - 1)

    @property
    def alert_waited(self) -> float | None:
        """The maximum of seconds from an alert's injection to its acceptance; None without an alert."""
        injected = {arrival.subject: arrival.when for arrival in self.arrivals}
        waits = [taken.when - injected[taken.subject] for taken in self.taken if is_alert(taken.subject)]
        return max(waits, default=None)


def is_alert(subject: str) -> bool:
    """Tell whether a message is not part of the storm itself."""
    return subject.startswith(ALERT)


def scenarios(scale: Scale) -> list[Scenario]:
    """Return all scenarios, in the order of the tables."""
    unlimited = [Scenario(f"pace-{n}", "Graph", scale.unlimited, 0, n) for n in (1, 4)]
    ses = [Scenario(f"ses-throughput-{n}", "SES", scale.ses, 0, n, provider="ses") for n in (1, 2, 4, 8)]
    return [
        *unlimited,
        *storms(scale),
        *second_storms(scale),
        *shared_storms(scale),
        urgent_storm(scale),
        *ses,
    ]


def storms(scale: Scale) -> Iterable[Scenario]:
    """Yield each size by deferral, and by waiting with one and with four processes."""
    waiting = {"RATE_LIMIT_MAX_WAIT_SECONDS": scale.max_wait}
    for size in scale.storms:
        usual = Scenario("", "", size, scale.limit, alert_after=size // 2)
        yield usual._replace(name=f"guide-{size}", way="defer")
        yield usual._replace(name=f"wait-{size}", way="wait", config=waiting)
        yield usual._replace(name=f"wait4-{size}", way="wait, maxproc 4", maxproc=4, config=waiting)


def second_storms(scale: Scale) -> Iterable[Scenario]:
    """Yield one message a second, by Postfix's delay and by waiting."""
    waiting = {"RATE_LIMIT_MAX_WAIT_SECONDS": scale.max_wait}
    delay = {"apirelay_destination_rate_delay": "1s"}
    size = scale.second_storm
    usual = Scenario("", "", size, scale.second_limit, alert_after=size // 2)
    yield usual._replace(name="second-delay", way="destination_rate_delay 1s", settings=delay)
    yield usual._replace(name="second-wait", way="wait", config=waiting)


def shared_storms(scale: Scale) -> Iterable[Scenario]:
    """Yield storms in which a noisy sender fills the window, and then another one has an alert."""
    ways = [("defer", 1, 0), ("wait", 1, scale.max_wait), ("wait, maxproc 4", 4, scale.max_wait)]
    for (way, maxproc, wait), scope in ((way, scope) for way in ways for scope in ("relay", "sender")):
        yield Scenario(
            f"sender-{way.split(',')[0]}{maxproc}-{scope}",
            f"{way}, scope {scope}",
            scale.shared_storm,
            scale.limit,
            maxproc,
            alert_after=scale.limit,
            config={"RATE_LIMIT_MAX_WAIT_SECONDS": wait, "RATE_LIMIT_SCOPE": scope},
        )


def urgent_storm(scale: Scale) -> Scenario:
    """Return a storm through one process, at Graph's limit, with an urgent alert for each reserved slot."""
    return Scenario(
        f"urgent-{scale.urgent_storm}",
        f"wait, {RESERVE} urgent a window",
        scale.urgent_storm,
        scale.urgent_limit,
        config={"RATE_LIMIT_MAX_WAIT_SECONDS": scale.max_wait, "RATE_LIMIT_URGENT_RESERVE": RESERVE},
        settings={
            f"{URGENT}_destination_recipient_limit": "0",
            "sender_dependent_default_transport_maps": f"inline:{{{QUIET}={URGENT}:api-relay}}",
        },
        urgent=RESERVE,
    )


def measure(scenario: Scenario, scale: Scale) -> Run:
    """Run a scenario with its own Postfix, home and provider."""
    with Provider() as provider, RelayHome(provider.url, provider.ca_file) as home:
        set_up(home, scenario, scale)
        provider.requests()
        settings = {**LASTING_DAEMONS, **scale.scans, **scenario.settings}
        with PrivatePostfix(
            home.script,
            user=home.account.pw_name,
            maxproc=scenario.maxproc,
            settings=settings,
            as_shipped=True,
            urgent=bool(scenario.urgent),
        ) as postfix:
            return storm(scenario, scale, home, postfix, provider)


def set_up(home: RelayHome, scenario: Scenario, scale: Scale) -> None:
    """Configure the home, and leave a token and warm caches, as after an hour of service."""
    if scenario.provider == "ses":
        use_ses(home)
    home.configure(RATE_LIMIT_PER_MINUTE=scenario.limit, **scenario.config)
    if scale.window != Scale().window:
        change_constants(home, WINDOW_SECONDS=scale.window)
    delivery = pipe(home, mail(), RECIPIENT)
    assert delivery.verdict == "sent", delivery
    (home.path / WINDOW).unlink()


def storm(
    scenario: Scenario, scale: Scale, home: RelayHome, postfix: PrivatePostfix, provider: Provider
) -> Run:
    """Inject the messages as fast as Postfix accepts them, and watch until the provider has accepted all."""
    silence = 4.0 * scale.window + 60
    subjects = [f"storm {number}" for number in range(scenario.messages - bool(scenario.alert_after))]
    log_before = len(home.log())
    before = spent(postfix.processes(), postfix.master(), provider.pid)
    began = time.monotonic()
    arrivals = inject(postfix.port, NOISY, subjects)
    if scenario.alert_after:
        provider.wait_for(scenario.alert_after, silence)
        arrivals += inject(postfix.port, QUIET, [ALERT])
    for number, alert in enumerate(scenario.alerts, 1):
        time.sleep(max(0.0, began + number * scale.window / scenario.urgent - time.monotonic()))
        arrivals += inject(postfix.port, QUIET, [alert])
    messages = scenario.messages + len(scenario.alerts)
    taken = provider.wait_for(messages, silence)
    postfix.wait_for("the end of all", lambda: postfix.log().count(": removed\n") >= messages)
    after = spent(postfix.processes(), postfix.master(), provider.pid)
    return watched(began, arrivals, taken, home.log()[log_before:], after.since(before))


def inject(port: int, sender: str, subjects: Sequence[str]) -> list[Arrival]:
    """Send the messages in order, a hundred times as fast as they are delivered; return their arrivals.

    This uses one SMTP session: with several, it would be unknown which message came first.
    """
    arrivals = []
    with smtplib.SMTP("127.0.0.1", port, "device.domain.com", 60) as client:
        client.ehlo()
        for subject in subjects:
            client.mail(sender)
            client.rcpt(RECIPIENT)
            # Not sendmail(): it does not return the answer, which has the queue id.
            status, answer = client.data(mail(From=sender, Subject=subject).decode())
            assert status == 250, answer
            arrivals.append(Arrival(time.monotonic(), answer.decode().split()[-1], subject))
    return arrivals


def watched(began: float, arrivals: list[Arrival], taken: list[Taken], log: str, cost: Spent) -> Run:
    """Return the run; AssertionError unless each message was accepted exactly once."""
    subjects = {arrival.queue_id: arrival.subject for arrival in arrivals}
    assert sorted(subjects.values()) == sorted(message.subject for message in taken), "lost or sent twice"
    processed = re.findall(r"\] PROCESSING: .* queue_id='(\w+)'", log)
    started = [subjects[queue_id] for queue_id in dict.fromkeys(processed)]
    deliveries = log.count("] DELIVERED: ")
    return Run(began, arrivals, taken, started, len(processed), deliveries, cost)


def storm_figures(scenario: Scenario, scale: Scale, run: Run, pace: float) -> dict[str, Any]:
    """Return what the table of storms shows, and more."""
    least = least_by_limit(scenario.messages, scenario.left, scale.window)
    paced = least_by_limit_and_pace(scenario.messages, scenario.left, scale.window, pace)
    arrived = [arrival.subject for arrival in run.arrivals if arrival.subject not in scenario.alerts]
    accepted = [message.subject for message in run.taken if message.subject not in scenario.alerts]
    started = [subject for subject in run.started if subject not in scenario.alerts]
    return {
        "drain": run.drain,
        "least": least,
        "ratio": run.drain / least if least else None,
        "pace": pace,
        "least with pace": paced,
        "ratio with pace": run.drain / paced,
        "processes per delivery": run.processes / run.deliveries,
        "relay CPU per delivery": run.spent.relay / run.deliveries,
        "in order": in_order(arrived, accepted),
        "moved": largest_displacement(arrived, accepted),
        "in order of starts": in_order(started, accepted),
        "moved from starts": largest_displacement(started, accepted),
        "alert waited": run.alert_waited,
        "busiest window": busiest_window(scenario, scale, run.taken),
        "injection": max(arrival.when for arrival in run.arrivals if not is_alert(arrival.subject))
        - run.began,
    }


def busiest_window(scenario: Scenario, scale: Scale, taken: Sequence[Taken]) -> int:
    """Return the most acceptances in any window, of one mailbox if each has its own limit."""
    own = scenario.config.get("RATE_LIMIT_SCOPE") == "sender"
    times: dict[str, list[float]] = {}
    for message in taken:
        times.setdefault(message.mailbox if own else "", []).append(message.when)
    return max(busiest(moments, scale.window) for moments in times.values())


def storm_row(scenario: Scenario, figures: Mapping[str, Any]) -> list[str]:
    """Return a line of the table of storms."""
    return [
        scenario.name,
        scenario.way,
        str(scenario.messages),
        str(scenario.limit),
        f"{figures['drain']:.1f} s",
        f"{figures['least']:.0f} s ({figures['least with pace']:.1f} s)",
        f"{shown(figures['ratio'], '.3f')} ({figures['ratio with pace']:.3f})",
        f"{figures['processes per delivery']:.2f}",
        f"{figures['relay CPU per delivery'] * 1000:.0f} ms",
        f"{figures['in order']:.0%} ({figures['in order of starts']:.0%})",
        f"{figures['moved']} ({figures['moved from starts']})",
        f"{shown(figures['alert waited'], '.1f')} s",
        f"{figures['busiest window']}",
    ]


STORM_HEAD = [
    "scenario",
    "way",
    "N",
    "limit",
    "drain",
    "least (with pace)",
    "ratio",
    "processes",
    "CPU",
    "in order",
    "moved",
    "alert",
    "busiest window",
]


def shown(number: float | None, form: str) -> str:
    """Format a number; return a dash if there is none."""
    return "-" if number is None else format(number, form)


def throughput_figures(run: Run) -> dict[str, Any]:
    """Return what the table of throughput shows, and more."""
    per_message = {name: seconds / run.deliveries for name, seconds in run.spent._asdict().items()}
    return {"per second": 1 / run.pace, "pace": run.pace, "CPU per message": per_message}


def throughput_row(scenario: Scenario, figures: Mapping[str, Any]) -> list[str]:
    """Return a line of the table of throughput."""
    times = [f"{seconds * 1000:.0f} ms" for seconds in figures["CPU per message"].values()]
    return [scenario.name, str(scenario.maxproc), f"{figures['per second']:.2f}", *times]


THROUGHPUT_HEAD = ["scenario", "maxproc", "messages a second", *Spent._fields]


def chosen(names: Sequence[str], known: Sequence[Scenario]) -> list[Scenario]:
    """Return the scenarios of these names and families, or all; SystemExit for an unknown name."""
    for name in names:
        if not any(belongs(scenario, name) for scenario in known):
            raise SystemExit(f"no scenario {name!r}; there are: {' '.join(one.name for one in known)}")
    wanted = [one for one in known if not names or any(belongs(one, name) for name in names)]
    # A storm's least time needs the pace of the same number of processes.
    needed = {f"pace-{one.maxproc}" for one in wanted if one.limit}
    return [one for one in known if one in wanted or one.name in needed]


def belongs(scenario: Scenario, name: str) -> bool:
    """Tell whether the scenario has this name, or belongs to this family."""
    return scenario.name == name or scenario.name.startswith(name + "-")


def run_all(wanted: Sequence[Scenario], scale: Scale) -> list[tuple[Scenario, dict[str, Any]]]:
    """Measure the scenarios one after the other, and report progress on standard error."""
    done: list[tuple[Scenario, dict[str, Any]]] = []
    paces: dict[int, float] = {}
    for scenario in wanted:
        run = measure(scenario, scale)
        figures = throughput_figures(run)
        if scenario.name.startswith("pace-"):
            paces[scenario.maxproc] = run.pace
        if scenario.limit:
            figures.update(storm_figures(scenario, scale, run, paces[scenario.maxproc]))
        done.append((scenario, figures))
        print(f"{scenario.name}: {run.drain:.1f} s", file=sys.stderr, flush=True)
    return done


def report(done: Sequence[tuple[Scenario, Mapping[str, Any]]]) -> str:
    """Return both tables, and what the figures mean."""
    limited = [storm_row(scenario, figures) for scenario, figures in done if scenario.limit]
    unlimited = [throughput_row(scenario, figures) for scenario, figures in done if not scenario.limit]
    parts = []
    if limited:
        parts += [aligned("<<" + ">" * 11, [STORM_HEAD, *limited]), STORM_DEFINITIONS]
    if unlimited:
        parts += [aligned("<" + ">" * 9, [THROUGHPUT_HEAD, *unlimited]), THROUGHPUT_DEFINITIONS]
    return "\n\n".join(parts)


def save(file: Path, done: Sequence[tuple[Scenario, Mapping[str, Any]]], scale: Scale) -> None:
    """Write the figures as JSON."""
    runs = [{**scenario._asdict(), **figures} for scenario, figures in done]
    content = {**surroundings(), "scale": scale._asdict(), "runs": runs}
    file.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Measure what the arguments name, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("scenario", nargs="*", help="a scenario or a family; default: all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the times, to show that it works")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--list", action="store_true", help="only list the scenarios")
    options = parser.parse_args()
    scale = QUICK if options.quick else Scale()
    wanted = chosen(options.scenario, scenarios(scale))
    if options.list:
        print(*(scenario.name for scenario in wanted), sep="\n")
        return
    print("now:", ", ".join(surroundings().values()), flush=True)
    with terminable():
        done = run_all(wanted, scale)
    print(report(done))
    if options.save:
        save(options.save, done, scale)


if __name__ == "__main__":
    main()
