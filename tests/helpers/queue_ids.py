"""Queue ids as Postfix makes them with enable_long_queue_ids = yes."""

from __future__ import annotations

# All digits and letters except the vowels.
DIGITS = "".join(
    char
    for char in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    if char.lower() not in "aeiou"
)


def base52(number: int, width: int) -> str:
    """Return a number in base 52 with at least `width` digits."""
    digits = ""
    while number or len(digits) < width:
        number, digit = divmod(number, len(DIGITS))
        digits = DIGITS[digit] + digits
    return digits


def long_id(when: float, inode: str = "Lxpc") -> str:
    """Return the queue id of a message that arrived at `when`, in seconds since the epoch."""
    seconds, micros = divmod(round(when * 1_000_000), 1_000_000)
    return f"{base52(seconds, 6)}{base52(micros, 4)}z{inode}"
