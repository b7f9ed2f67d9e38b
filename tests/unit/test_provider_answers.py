"""The providers' answers, in files: each of them says what it answers and where it is from, and is used."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from helpers.answers import ANSWERS, FRESH, error_code, names, placeholders, provided, stored
from helpers.script import load_script

TESTS = ANSWERS.parent
SERVICES = sorted(folder.name for folder in ANSWERS.iterdir() if folder.is_dir())
EVERY = [name for service in SERVICES for name in names(service)]
REQUIRED = {"source", "date", "request", "status", "headers"}
OPTIONAL = {"body", "examples", "words", "not_provoked"}
# The imitations of services: all their answers come from files.
IMITATIONS = [TESTS / "sandbox.py"]
IMITATIONS += [
    TESTS / "helpers" / f"{name}.py"
    for name in ("assertions", "aws_metadata", "graph", "graph_message", "metadata")
]
MAKERS = {"graph_error": "graph", "entra_error": "entra", "ses_error": "ses", "ses_query_error": "ses"}
# What a provider's error body looks like.
ERROR_BODY = re.compile(r'"error"\s*:|"error_description"\s*:|AADSTS|<Error|<ErrorResponse|x-amzn-ErrorType')


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def users() -> list[Path]:
    """Return the files that may use answers, without those that compare all of them."""
    others = {TESTS / "live.py", Path(__file__), TESTS / "packaging" / "test_answers_can_be_compared.py"}
    return [file for file in sorted(TESTS.rglob("*.py")) if file not in others]


@pytest.mark.parametrize("service", SERVICES)
def test_a_file_says_what_it_is_and_where_it_is_from(service: str) -> None:
    kinds = "docs|seen by others|seen with a real account|none found"
    for name in names(service):
        content = stored(name)
        assert content.keys() >= REQUIRED and not content.keys() - REQUIRED - OPTIONAL, name
        assert re.fullmatch(rf"({kinds}): \S.{{9,}}", content["source"]), name
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", content["date"]), name
        assert re.match(r"any$|(GET|POST|PUT|PATCH|DELETE) /", content["request"]), name
        assert content["status"] in set(HTTPStatus), name
        assert re.fullmatch("[a-z0-9-]+", name.partition("/")[2])
        # As an editor leaves it, so that changes are easy to see.
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        assert (ANSWERS / f"{name}.json").read_text(encoding="utf-8") == text, name


@pytest.mark.parametrize("service", SERVICES)
def test_a_file_gives_an_answer_with_its_own_examples(service: str) -> None:
    for name in names(service):
        content = stored(name)
        places = placeholders([content["headers"], content.get("body"), content.get("examples")])
        assert places - FRESH.keys() == content.get("examples", {}).keys(), name
        answer = provided(name)
        assert not placeholders([dict(answer.headers), answer.body.decode()]), name
        if "json" in answer.headers.get("Content-Type", ""):
            assert isinstance(json.loads(answer.body), dict), name
        if service in ("graph", "entra", "ses") and content["status"] >= 400:
            assert error_code(answer) or name == "ses/front-end-too-large", name


def test_a_value_takes_its_place_as_it_is() -> None:
    answer = provided("entra/token", expires_in=5, token="a {uuid}")
    assert json.loads(answer.body) == {"token_type": "Bearer", "expires_in": 5, "access_token": "a {uuid}"}
    with pytest.raises(ValueError, match="graph/access-denied has no place for"):
        provided("graph/access-denied", text="x")


def strings(tree: ast.AST) -> set[str]:
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def beginnings(tree: ast.AST) -> Iterator[str]:
    """Yield the constant start of computed names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            begin = str(node.values[0].value)
            if begin.partition("/")[0] in SERVICES and "/" in begin:
                yield begin


def used() -> set[str]:
    """Return the names in the tests and their helpers."""
    found: set[str] = set()
    for file in users():
        tree = parsed(file)
        texts = strings(tree)
        found |= {name for name in EVERY if name in texts}
        for begin in beginnings(tree):
            found |= {name for name in EVERY if name.startswith(begin) and name[len(begin) :] in texts}
    return found


def test_each_is_used() -> None:
    # A test goes through all numbers for which the relay has a hint.
    hints = {f"AADSTS{stored(name)['body'].get('error_codes', [''])[0]}": name for name in names("entra")}
    hinted = {name for number, name in hints.items() if number in load_script().HINTS}
    assert sorted(set(EVERY) - used() - hinted) == []


@pytest.mark.parametrize("file", IMITATIONS, ids=lambda file: file.name)
def test_no_error_of_a_provider_stands_where_the_provider_is_imitated(file: Path) -> None:
    tree = parsed(file)
    # Docstrings and comments may mention them.
    texts = {text for text in strings(tree) if "\n" not in text}
    assert [text for text in texts if ERROR_BODY.search(text)] == []
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    for call in calls:
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        assert name not in MAKERS and name != "json_answer", f"line {call.lineno}: {name}"
        status = call.args[0] if name == "Answer" and call.args else None
        assert not isinstance(status, ast.Constant), f"line {call.lineno}: an answer in place of a file's"


def known() -> set[tuple[str, int, str, int]]:
    """Return the files' errors: service, status, code, Entra's number."""
    found = set()
    for service in ("graph", "entra", "ses"):
        for name in set(names(service)) - {"graph/error", "entra/error", "ses/error", "ses/query-error"}:
            answer = provided(name)
            if (answer.status or 0) >= 400 and name != "ses/front-end-too-large":
                numbers = stored(name)["body"].get("error_codes", [0]) if service == "entra" else [0]
                found.add((service, answer.status or 0, error_code(answer), numbers[0]))
    return found


def made_up(file: Path) -> Iterator[tuple[int, tuple[object, ...]]]:
    """Yield each line that makes up an error, and that error in the form of known()."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS:
            given = [argument.value if isinstance(argument, ast.Constant) else None for argument in node.args]
            number = given[2] if node.func.id == "entra_error" else 0
            yield node.lineno, (MAKERS[node.func.id], given[0], given[1], number)


def test_what_a_test_makes_up_is_not_what_a_file_has() -> None:
    answers = known()
    found = [(file.name, line) for file in users() for line, error in made_up(file) if error in answers]
    assert found == []
