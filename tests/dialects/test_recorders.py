"""What cannot be told again to the letter is not kept."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.dialects.recorders import JsonRecorder, parse_exactly


@pytest.mark.parametrize(
    "raw",
    [
        b'{"id":123456789012345678901234567890}',
        b'{"id": -92233720368547758089}',
        b"[18446744073709551616]",
    ],
)
def test_a_number_beyond_64_bits_is_not_rounded(raw: bytes) -> None:
    """orjson would make 1.2345678901234568e29 of it, and a client ask for something else."""
    with pytest.raises(orjson.JSONDecodeError):
        parse_exactly(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"id":18446744073709551615,"created":-9223372036854775808}',
        b'{"embedding":[0.0006929283495992422,-0.0123456789012345678]}',
        b'{"text":"123456789012345678901234567890: 123456789012345678901234567890"}',
        b'{"n":1.0,"m":1e3,"x":[1, 2]}',
    ],
)
def test_what_64_bits_hold_is_kept(raw: bytes) -> None:
    """So are digits behind a point and those in a text."""
    assert orjson.loads(orjson.dumps(parse_exactly(raw))) == orjson.loads(raw)


def test_an_answer_with_such_a_number_is_not_kept() -> None:
    """It reaches the caller as it came, and nobody after him in another way."""

    def read(body: dict[str, Any]) -> Any:
        return [[body]]

    for digits, kept in (("12", True), ("123456789012345678901234567890", False)):
        recorder = JsonRecorder(read)
        recorder.feed(b'{"input":{"order":%s}}' % digits.encode())
        assert (recorder.finish() is not None) is kept
