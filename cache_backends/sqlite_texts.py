"""The index of texts in the SQLite file: a signature of each entry, made when there is time for it.

A signature is a set of bits: one for each three bytes that follow each other in the entry's texts.
An entry that lacks a bit of what is looked for cannot hold it; one that has them all is read.

It lies beside its entry and goes with it. The index of words that SQLite has (FTS5) takes twice
the room, and what was deleted lingers in it, or takes 20 ms each to be overwritten.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from typing import Any

import apsw

from cache_backends.codec import CodecError, decode
from cache_backends.texts import says, texts

# How much one step signs: about 10 milliseconds.
SIGN_ROWS = 50
SIGN_BYTES = 64 * 2**10
# Bits for each three bytes: a fifth of them are set.
BITS = 4
# Longer texts (not files in them) get a signature that everything fits: signing takes 0.1 us a byte
# and holds others up.
MAX_SIGNED = 2 * 2**20
FITS_ALL = b"\xff"
# Read at a time: other threads come between.
PIECE = 2**14
# Of the three bytes in what is looked for, how many are.
MAX_ASKED = 12
# Spreads numbers over 32 bits (Knuth's multiplicative hashing).
SPREAD = 0x9E3779B1

UNSIGNED = """
SELECT unsigned.place, entries.stored_at, entries.id, CAST(entries.prompt AS BLOB), entries.value
FROM unsigned LEFT JOIN entries ON entries.rowid = unsigned.place ORDER BY unsigned.place LIMIT ?
"""
SIGN = "INSERT OR REPLACE INTO signatures (stored_at, id, bits) VALUES (?, ?, ?)"
READ = "SELECT CAST(prompt AS BLOB), value FROM entries WHERE rowid = ?"
# Is the bit set in the byte? Looked up among all bytes that have it.
HAS_BIT = (
    "instr(:bit{bit}, substr(signatures.bits, (:text{n} * length(signatures.bits) >> 32) + 1, 1))"
)
BYTES_WITH = {
    f"bit{bit}": bytes(each for each in range(256) if each >> bit & 1) for bit in range(8)
}


def wanted(text: str) -> tuple[list[str], dict[str, Any]]:
    """The conditions that entries with this text fulfil, and what they bind.

    `ValueError` if it is too short to be looked for.
    """
    threes = sorted(_threes(text.encode()))
    if not threes:
        raise ValueError("text: expected three characters or more")
    threes = threes[:: -(-len(threes) // MAX_ASKED)]
    conditions = [HAS_BIT.format(bit=_bit(each), n=n) for n, each in enumerate(threes)]
    return conditions, {f"text{n}": _spread(each) for n, each in enumerate(threes)} | BYTES_WITH


def is_said(connection: apsw.Connection, text: str, rowid: int) -> bool:
    """Does the entry hold the text?"""
    row: Any = connection.execute(READ, (rowid,)).fetchone()
    prompt, value = row
    try:
        return says(text, prompt.decode(errors="replace"), decode(value).generations)
    except CodecError:
        return False


def unsigned(connection: apsw.Connection) -> int:
    """How many entries have no signature yet."""
    row: Any = connection.execute("SELECT count(*) FROM unsigned").fetchone()
    return int(row[0])


def sign(connection: apsw.Connection) -> int:
    """Sign some entries; return how many, 0 when none was left."""
    signed, left = [], SIGN_BYTES
    found: Iterable[Any] = connection.execute(UNSIGNED, (SIGN_ROWS,))
    done = []
    for place, stored_at, key_id, prompt, value in found:
        done.append((place,))
        if key_id is None:
            continue
        signed.append((stored_at, key_id, _signature(prompt, value)))
        left -= len(prompt) + len(value)
        if left < 0:
            break
    connection.executemany(SIGN, signed)
    connection.executemany("DELETE FROM unsigned WHERE place = ?", done)
    return len(done)


def _signature(prompt: bytes, value: bytes) -> bytes:
    try:
        found = texts(prompt.decode(errors="replace"), decode(value).generations)
        said = "\n".join(set(found)).casefold().encode(errors="replace")
    except CodecError:
        said = b""  # what cannot be read says nothing
    if len(said) > MAX_SIGNED:
        return FITS_ALL
    threes = _threes(said)
    bits = bytearray(len(threes) * BITS // 8 + 1)
    for each in threes:
        bits[_spread(each) * len(bits) >> 32] |= 1 << _bit(each)
    return bytes(bits)


def _threes(said: bytes) -> set[int]:
    """The numbers that three bytes in a row make, each once."""
    # Read as numbers of four bytes each, from four beginnings: a loop in C.
    threes: set[int] = set()
    for first in range(0, len(said) - 2, PIECE):
        piece = said[first : first + PIECE + 2] + b"\0"
        fours: set[int] = set()
        for begin in range(4):
            end = begin + (len(piece) - begin) // 4 * 4
            fours.update(_numbers(piece[begin:end]))
        threes |= {each & 0xFFFFFF for each in fours}
    return threes


def _numbers(piece: bytes) -> array[int]:
    numbers = array("I", piece)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _spread(three: int) -> int:
    return three * SPREAD & 0xFFFFFFFF


def _bit(three: int) -> int:
    return (three ^ three >> 8 ^ three >> 16) & 7
