# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.wire.guid import parse_guid


@given(st.uuids())
def test_both_text_forms_and_either_case_are_read(guid: UUID) -> None:
    assert parse_guid(str(guid)) == parse_guid(str(guid).upper()) == parse_guid(guid.hex) == guid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1ee27366",
        "{1ee27366-0c87-43a6-af48-28543eaf7cb0}",
        "urn:uuid:1ee27366-0c87-43a6-af48-28543eaf7cb0",
        "1ee273660c87-43a6-af48-28543eaf7cb0",
        "1ee27366-0c87-43a6-af48-28543eaf7cb0\n",
        " 1ee27366-0c87-43a6-af48-28543eaf7cb0",
        "1ee27366-0c87-43a6-af48-28543eaf7cbg",
        "1ee2_366-0c87-43a6-af48-28543eaf7cb0",
        "\u0661ee27366-0c87-43a6-af48-28543eaf7cb0",
    ],
)
def test_what_only_uuid_would_take_is_refused(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_guid(text)
    assert caught.value.code == "decode.guid"


@given(st.text(max_size=60))
def test_only_decode_errors(text: str) -> None:
    with contextlib.suppress(DecodeError):
        parse_guid(text)
