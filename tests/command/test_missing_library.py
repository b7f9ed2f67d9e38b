"""A Python package that is missing or broken keeps the mail, and only the mail that needs it."""

from __future__ import annotations

import subprocess
from types import ModuleType

import pytest
from conftest import Deliver
from helpers.home import SCRIPT, RelayHome
from helpers.interpreter import SYSTEM_PYTHON, interpreter, plant
from helpers.mail import mail
from sandbox import Sandbox

TEXTS = {
    "graph": "requests is required for the Graph provider",
    "ses": "boto3 is required for the SES provider",
}
# The relay imports the library underneath boto3.
PACKAGES = {"graph": "requests", "ses": "botocore"}


def configure(home: RelayHome, provider: str) -> None:
    if provider == "ses":
        home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    home.configure(RATE_LIMIT_PER_MINUTE=28)


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_a_missing_package_defers(sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str) -> None:
    configure(home, provider)
    delivery = deliver(mail(), "to@external.com", python=interpreter(home))
    assert delivery[:3] == ("deferred", "4.3.5", 75)
    assert delivery.text.startswith(f"4.3.5 {TEXTS[provider]}")
    assert TEXTS[provider] in home.log().splitlines()[-1]
    assert sandbox.requests == []


@pytest.mark.parametrize("provider", ["graph", "ses"])
@pytest.mark.parametrize("text", ["raise RuntimeError('5.7.1 broken')", "syntax error"])
def test_a_broken_package_defers(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, text: str
) -> None:
    configure(home, provider)
    python = interpreter(home, "--system-site-packages")
    plant(python, PACKAGES[provider], text)
    delivery = deliver(mail(), "to@external.com", python=python)
    assert delivery[:3] == ("deferred", "4.3.5", 75)
    assert delivery.text.startswith(f"4.3.5 {TEXTS[provider]}")


def test_graph_does_without_boto3(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """The converse depends on the distribution: Debian's botocore imports requests itself."""
    python = interpreter(home, "--system-site-packages")
    plant(python, "botocore", "raise ImportError")
    assert deliver(mail(), "to@external.com", python=python).verdict == "sent"


def test_ses_does_without_pyopenssl(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """botocore imports it if it is installed, which takes a fifth of a delivery's time, and does not use
    it."""
    configure(home, "ses")
    python = interpreter(home, "--system-site-packages")
    plant(python, "OpenSSL", "import os; os._exit(1)")
    assert deliver(mail(), "to@external.com", python=python).verdict == "sent"


def test_a_python_that_is_too_old_keeps_the_mail(relay: ModuleType) -> None:
    start = f"import sys; sys.version_info = (3, 8, 20); {relay.FIRST_LINE}"
    done = subprocess.run([SYSTEM_PYTHON, "-ISc", start, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 75
    assert done.stderr.startswith("4.3.0 postfix-api-relay failed to start: RuntimeError: Python 3.9 ")


@pytest.mark.parametrize("name", ["json.py", "requests.py", "ssl.py", "email.py", "sitecustomize.py"])
def test_a_file_planted_in_the_home_is_not_imported(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, name: str
) -> None:
    home.put(name, b"import os; os._exit(1)\n", 0o644)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    # The queue directory is where Postfix starts the command.
    (home.queue / name).write_text("import os; os._exit(1)\n")
    prefix = (SYSTEM_PYTHON,)
    assert deliver(mail(), "to@external.com", prefix=prefix).verdict == "sent"
