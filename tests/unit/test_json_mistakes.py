"""An admin who mistypes JSON is told in plain words what is wrong, and where."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.script import load_script
from hypothesis import example, given
from hypothesis import strategies as st

relay = load_script()

COMMENT = "JSON has no comments: use a key that begins with _comment"
QUOTES = 'typographic quotes: write "'
COMMA = "a comma is missing here"
TRAILING = "one comma too many: remove the one before the closing bracket"
EARLY = "the file ends too early: is a closing bracket missing?"
VALUE = "a value must be here: text needs double quotes"
ENCODING = "it is not UTF-8: save it as UTF-8"
# A text with "@@" at the reported place, and what is said about it.
MISTAKES = {
    "comment behind a value": ('{\n  "A": 1, @@// why\n  "B": 2\n}', COMMENT),
    "comment before a key": ('{\n  @@# why\n  "B": 2\n}', COMMENT),
    "comment without a comma": ('{"A": 1 @@/* why */}', COMMENT),
    "typographic key": ("{@@\u201cA\u201d: 1}", QUOTES),
    "typographic value": ('{"A": @@\u201eb\u201c}', QUOTES),
    "typographic end": ('{"A": "b\u201d,@@\n "B": 1}', QUOTES),
    "single quotes": ("{@@'A': 1}", 'single quotes: write "'),
    "no comma between lines": ('{\n  "A": "b"@@\n  "B": 1\n}', COMMA),
    "no comma in a list": ('{"A": ["b"@@ "c"]}', COMMA),
    "no bracket of a list": ('{"A": ["b", "c"@@: 1}', COMMA),
    "comma before a brace": ('{"A": 1@@,\n}', TRAILING),
    "comma before a bracket": ('{"A": ["b"@@, ]}', TRAILING),
    "no end": ('{"A": 1@@', EARLY),
    "no end after a comma": ('{"A": 1@@,\n', EARLY),
    "no closing quote": ('{"A": "b,@@\n "B": 1}', "the closing quote is missing"),
    "no closing quote at all": ('{"A": @@"b}', "the closing quote is missing"),
    "Python's words": ('{"A": @@True}', "write true, false and null in lower case"),
    "no quotes": ('{"A": @@me@x.org}', VALUE),
    "no value": ('{"A": @@}', VALUE),
    "no quotes around a key": ("{@@A: 1}", "a key must be here, in double quotes"),
    "more than an object": ('{"A": 1}\n@@}', "nothing may follow the last closing bracket"),
    "backslash": ('{"A": "C:@@\\x"}', "write a backslash twice"),
}


def refusal(data: bytes) -> Any:
    """Return the refusal of this content."""
    with pytest.raises(relay.Deferred) as refused:
        relay.parse_settings("/home/relay-config.json", data)
    return refused.value


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_mistake_is_told_in_words_with_its_place(name: str, end: str) -> None:
    marked, words = MISTAKES[name]
    marked = marked.replace("\n", end)
    place, text = marked.index("@@"), marked.replace("@@", "")
    problem = refusal(text.encode())
    start, at, said = problem.text.split(": ", 2)
    assert (start, said) == ("/home/relay-config.json is not valid JSON", words)
    above = text[:place].split("\n")
    # The same in every Python, though its own messages and places differ.
    assert at == f"line {len(above)}, column {len(above[-1]) + 1}"
    _, line, mark = problem.below.split("\n")
    assert line == f"      {text.splitlines()[len(above) - 1] if text else ''}"
    assert mark == f"      {' ' * len(above[-1])}^"


@pytest.mark.parametrize(
    "data",
    [
        '{"A": "b"}'.encode("utf-16"),
        '{"A": "b"}'.encode("utf-16-le"),
        '{"A": "b"}'.encode("utf-16-be"),
        '{\n"A": "caf\u00e9"}'.encode("latin-1"),
    ],
)
def test_another_encoding_is_told(data: bytes) -> None:
    line = 2 if b"caf" in data else 1
    assert refusal(data).text.startswith(f"/home/relay-config.json is not valid JSON: line {line}, column ")
    assert refusal(data).text.endswith(f": {ENCODING}")


@pytest.mark.parametrize(
    "line",
    [
        *('"API_SECRET": "abc"', '"HTTPS_PROXY": "http://u:abc@proxy"', '"HTTPS_PROXY": "u:abc@host"'),
        *('"IDENTITY_HEADER": "abc"', '"AWS_CONTAINER_AUTHORIZATION_TOKEN": "abc"', '"x": "Secret abc"'),
    ],
)
def test_a_line_that_may_hold_a_secret_is_not_shown(line: str) -> None:
    problem = refusal(f"{{\n{line} 5\n}}".encode())
    assert problem.below == ""
    assert "abc" not in problem.text


def test_of_a_long_line_the_place_is_shown() -> None:
    problem = refusal(b'{"A": [' + b'"me@x.org", ' * 200 + b"5 6" + b', "me@x.org"' * 200 + b"]}")
    _, line, mark = problem.below.split("\n")
    assert len(line) <= 106
    assert line[mark.index("^") - 1 : mark.index("^") + 2] == "5 6"


def test_a_line_that_has_nothing_of_json_is_not_shown() -> None:
    """It may be a secret that was pasted into the wrong file."""
    for text in ("aB3~xyz", "{\naB3~xyz\n}", ""):
        problem = refusal(text.encode())
        assert problem.below == ""
        assert "xyz" not in problem.text
    assert refusal(b"").text.endswith(f"line 1, column 1: {EARLY}")


@given(st.text() | st.binary())
@example("{" * 100_000)
@example("[" * 100_000)
def test_whatever_a_file_holds_is_read_or_refused_in_one_line(content: str | bytes) -> None:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    try:
        relay.parse_settings("/home/relay-config.json", data)
    except relay.Deferred as refused:
        assert relay.Log().describe(refused).isprintable()
        assert refused.below == "" or all(line.isprintable() for line in refused.below.split("\n"))


def test_a_key_that_stands_twice_is_logged_and_its_last_value_taken(tmp_path: Any) -> None:
    log = relay.Log()
    log.path = str(tmp_path / "log")
    data = (
        b'{"ADMIN_NOTIFICATION_EMAIL": "a@x.org", "DEFAULT_FROM_ADDRESS": "b@x.org", "_comment": 1,'
        b' "DEFAULT_FROM_ADDRESS": "c@x.org", "_comment": 2}'
    )
    loaded = relay.load_settings(relay.RelayConfig, "relay-config.json", data, log)
    assert loaded.DEFAULT_FROM_ADDRESS == "c@x.org"
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(
        "] CONFIG: key 'DEFAULT_FROM_ADDRESS' appears twice in relay-config.json: the last one counts"
    )
