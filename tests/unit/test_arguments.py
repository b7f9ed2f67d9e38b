"""Postfix's arguments are read by their position, and nothing that a sender chooses is an option."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.script import load_script
from helpers.unit import shown

relay = load_script()

USUAL = ["s@x.org", "4ZxTestQid", "a@x.org", "10.1.1.20"]


@pytest.mark.parametrize(
    ("argv", "home", "envelope"),
    [
        (USUAL, None, ("s@x.org", "4ZxTestQid", ["a@x.org"], "10.1.1.20")),
        (["s@x.org", "Q", "a@x.org", "b@x.org", ""], None, ("s@x.org", "Q", ["a@x.org", "b@x.org"], "")),
        (["", "Q", "a@x.org", ""], None, ("", "Q", ["a@x.org"], "")),
        (["--home", "/srv/relay", *USUAL], "/srv/relay", ("s@x.org", "4ZxTestQid", ["a@x.org"], "10.1.1.20")),
        (["--home", "/srv", "--", "--home", "/Q", "a@x.org", ""], "/srv", ("--home", "/Q", ["a@x.org"], "")),
        (["--", "--home", "/Q", "a@x.org", ""], None, ("--home", "/Q", ["a@x.org"], "")),
        (["--", "--", "Q", "a@x.org", ""], None, ("--", "Q", ["a@x.org"], "")),
        (["-v@x.org", "Q", "-a@x.org", ""], None, ("-v@x.org", "Q", ["-a@x.org"], "")),
        (["--help", "Q", "a@x.org", ""], None, ("--help", "Q", ["a@x.org"], "")),
        (
            ["s@x.org", "Q", "--home", "/x", "a@x.org", "::1"],
            None,
            ("s@x.org", "Q", ["--home", "/x", "a@x.org"], "::1"),
        ),
    ],
)
def test_arguments_are_read_by_their_place(argv: list[str], home: str, envelope: tuple[object, ...]) -> None:
    assert relay.parse_arguments(argv) == (home, relay.Envelope(*envelope))


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        ([], "found 0 arguments"),
        (["s@x.org"], "found 1 arguments"),
        (["--"], "found 0 arguments"),
        (["s@x.org", "Q", ""], "found 3 arguments"),
        (["s@x.org", "Q", "a@x.org"], "${client_address}"),
        (["s@x.org", "Q", "a@x.org", "b@x.org"], "${client_address}"),
        (["--home", "/srv", "s@x.org", "Q", "a@x.org"], "${client_address}"),
        (["--home"], "absolute path"),
        (["--home", "relative", *USUAL], "absolute path"),
        (["--home", "", *USUAL], "absolute path"),
    ],
)
def test_wrong_arguments_defer_and_say_what_is_wrong(argv: list[str], hint: str) -> None:
    with pytest.raises(relay.Deferred) as refusal:
        relay.parse_arguments(argv)

    assert refusal.value.code == "4.3.5"
    assert hint in shown(relay, refusal.value)


def test_without_home_the_files_lie_where_the_command_really_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/postfix-api-relay").touch()
    (tmp_path / "link").symlink_to("opt/postfix-api-relay")
    monkeypatch.setattr(relay, "__file__", str(tmp_path / "link"))

    assert relay.default_home() == str((tmp_path / "opt").resolve())


def test_help_names_every_setting_and_which_are_required(capfd: pytest.CaptureFixture[str]) -> None:
    assert relay.main(["--help"]) == 0

    lines = capfd.readouterr().out.splitlines()
    for kind in (relay.RelayConfig, relay.ApiSecrets):
        for key, spec in relay.settings_of(kind).items():
            required = " (required)" if spec.default is relay.REQUIRED else ""
            assert f"  {key}{required}" in lines and f"      {spec.about}" in lines
    assert any(line.startswith("usage: postfix-api-relay ") for line in lines)


def test_version_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert relay.main(["--version"]) == 0

    assert capfd.readouterr().out == f"postfix-api-relay {relay.VERSION}\n"
