# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import logging
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.secret import SecretBytes

PLANTED = b"planted-secret-value"


def test_no_text_form_shows_the_value() -> None:
    secret = SecretBytes(PLANTED)
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", "%s %r" % (secret, secret)):  # noqa: UP031
        assert "planted" not in text
        assert PLANTED.hex() not in text
    assert repr(secret) == "SecretBytes(20 bytes)"


def test_nothing_in_logs_or_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    secret = SecretBytes(PLANTED)
    try:
        raise ValueError("failed with", secret)
    except ValueError as error:
        logging.getLogger("test").exception("with %s", secret)
        shown = "".join(traceback.format_exception(error))
    assert "planted" not in caplog.text + shown


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_is_refused(protocol: int) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(SecretBytes(PLANTED), protocol)


def test_copying_by_pickle_is_refused() -> None:
    with pytest.raises(TypeError):
        copy.deepcopy(SecretBytes(PLANTED))


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_equality_is_that_of_the_values(first: bytes, second: bytes) -> None:
    assert (SecretBytes(first) == SecretBytes(second)) is (first == second)
    assert SecretBytes(first) == SecretBytes(bytearray(first))
    assert SecretBytes(first).reveal() == first
    assert len(SecretBytes(first)) == len(first)


def test_only_another_secret_can_be_equal() -> None:
    assert SecretBytes(b"") != b""
    assert SecretBytes(PLANTED) != PLANTED


def test_a_secret_has_no_hash_and_no_attributes() -> None:
    with pytest.raises(TypeError):
        hash(SecretBytes(PLANTED))
    with pytest.raises(AttributeError):
        SecretBytes(PLANTED).note = "x"  # type: ignore[attr-defined]


def test_the_value_does_not_follow_its_source() -> None:
    source = bytearray(PLANTED)
    secret = SecretBytes(source)
    source[:] = bytes(len(source))
    assert secret.reveal() == PLANTED
