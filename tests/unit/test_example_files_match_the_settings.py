"""The example files are what an admin starts from: every setting is in them, explained, and they load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.home import SCRIPT
from helpers.script import load_script

relay = load_script()

EXAMPLES = {"relay-config.json.example": relay.RelayConfig, "api-secrets.json.example": relay.ApiSecrets}


def expected_text(kind: type) -> str:
    """Return the file that the script's settings ask for."""
    content: dict[str, Any] = {}
    for key, spec in relay.settings_of(kind).items():
        content[f"_comment_{key}"] = spec.about
        content[key] = spec.example
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def example_file(name: str) -> Path:
    return SCRIPT.parent / name


@pytest.mark.parametrize(("name", "kind"), EXAMPLES.items(), ids=EXAMPLES)
def test_each_setting_is_shown_with_what_it_is_about(name: str, kind: type) -> None:
    assert example_file(name).read_text(encoding="utf-8") == expected_text(kind)


@pytest.mark.parametrize(("name", "kind"), EXAMPLES.items(), ids=EXAMPLES)
def test_an_example_loads_without_complaint(name: str, kind: type, tmp_path: Path) -> None:
    log = relay.Log()
    log.path = str(tmp_path / "log")

    loaded = relay.load_settings(kind, name, example_file(name).read_bytes(), log)

    assert not (tmp_path / "log").exists()
    for key, spec in relay.settings_of(kind).items():
        assert getattr(loaded, key) == (spec.default if spec.example is None else spec.read(spec.example))
