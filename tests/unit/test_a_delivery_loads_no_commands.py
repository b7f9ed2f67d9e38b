"""A delivery does not load the commands that an administrator runs, as it needs none of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from helpers.home import SCRIPT

SOURCE = SCRIPT.read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
MARKS = [number for number, line in enumerate(SOURCE.split("\n"), 1) if "\f" in line]
# What only --check does with a provider.
TRIALS = ("trial_of_graph", "trial_of_certificate", "trial_of_ses")


def names_of(statement: ast.stmt) -> Iterator[str]:
    """Yield the defined names."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
    else:
        yield from imported(statement)


def imported(statement: ast.AST) -> set[str]:
    """Return the names that a statement imports, even in functions."""
    imports = [node for node in ast.walk(statement) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {alias.asname or alias.name.partition(".")[0] for node in imports for alias in node.names}


def functions(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yield its functions and methods, except nested ones."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield child
        else:
            yield from functions(child)


def used(function: ast.FunctionDef) -> set[str]:
    """Return the globals that it reads."""
    nodes = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    own = {node.id for node in nodes if not isinstance(node.ctx, ast.Load)}
    own |= {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
    own |= imported(function)
    return {node.id for node in nodes} - own


def test_two_form_feeds_part_the_program() -> None:
    assert len(MARKS) == 2
    assert SOURCE.count("\f") == 2


def test_a_delivery_uses_what_stands_before_the_third_page() -> None:
    mark = MARKS[1]
    behind = {name for one in TREE.body if one.lineno > mark for name in names_of(one)}
    before = {name for one in TREE.body if one.lineno < mark for name in names_of(one)}
    assert {"status_of", "check", "explain", "report_of"} <= behind
    assert behind & before == set()
    loading = set()
    for function in functions(TREE):
        if function.lineno < mark and (found := used(function) & behind):
            assert "load_commands" in used(function) or function.name in TRIALS, (function.name, found)
            loading.add(function.name)
    # A rule that checks nothing would hold, too.
    assert {"main", "waiting_now"} <= loading
