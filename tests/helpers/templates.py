"""Tell whether a program can print a text: its string literals have the words between the values."""

from __future__ import annotations

import ast
import re
from functools import cache

# The values in a text: keys, quoted values, paths, numbers and times.
VALUE = re.compile(r"\b[A-Z][A-Z_]{3,}[A-Z]\b|'[^']*'|/[\w./-]+|0o\d+|\d[\d:]*")


def literals(source: str) -> list[str]:
    """Return the string literals of a program, including pieces of formatted ones, but no docstrings."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [node.value for node in found if isinstance(node.value, str) and node.value]


def is_made_of(text: str, pieces: list[str]) -> bool:
    """Tell whether TEXT is part of one of the PIECES, or several in a row, the outer ones cut or not."""

    @cache
    def fits(rest: str, is_first: bool) -> bool:
        for piece in pieces:
            starts = [piece.find(rest)] if is_first else [0 if piece.startswith(rest) else -1]
            if starts != [-1]:
                return True
            # Do not compose words of single letters.
            if not re.search(r"\W|\w{3}", piece):
                continue
            tails = (piece[start:] for start in range(len(piece))) if is_first else [piece]
            if any(rest.startswith(tail) and fits(rest[len(tail) :], False) for tail in tails):
                return True
        return False

    return fits(text, True)


def unprintable(text: str, pieces: list[str]) -> list[str]:
    """Return the parts of TEXT, between its values, that are not made of the PIECES."""
    parts = [part for part in VALUE.split(text) if part.strip()]
    return [part for part in parts if not is_made_of(part, pieces)]
