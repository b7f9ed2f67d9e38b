"""The relay's functions, for tests that call them directly."""

from __future__ import annotations

import re
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from helpers.home import SCRIPT, RelayHome


def load_script(path: Path = SCRIPT) -> ModuleType:
    """Load the executable as module postfix_api_relay; without a suffix, import cannot find it."""
    loader = SourceFileLoader("postfix_api_relay", str(path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    # Bytecode would be left next to the executable, where the package is built from.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def change_constants(home: RelayHome, **values: int | str) -> None:
    """Set constants of the installed copy, integers or strings, so that a test need not wait for a real
    time-out, or touch anything of the machine's own."""
    text = home.script.read_text()
    for name, value in values.items():
        before = r"\d+" if isinstance(value, int) else '"[^"]*"'
        after = str(value) if isinstance(value, int) else f'"{value}"'
        text, count = re.subn(rf"^{name} = {before}$", f"{name} = {after}", text, flags=re.MULTILINE)
        assert count == 1, f"the script has no constant {name}"
    home.put(home.script.name, text.encode(), 0o755)
    if home.path.stat().st_uid == 0:
        home.compile()
