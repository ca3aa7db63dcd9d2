# SPDX-License-Identifier: Apache-2.0
"""Image references and digests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.oci.digest import Digest
from sealpod.oci.reference import ImageReference

HEX = "ab" * 32
SHA = f"sha256:{HEX}"

NORMAL_FORMS = [
    ("busybox", "docker.io/library/busybox:latest", "latest"),
    ("busybox:1.36", "docker.io/library/busybox:1.36", "1.36"),
    ("user/app", "docker.io/user/app:latest", "latest"),
    ("docker.io/busybox", "docker.io/library/busybox:latest", "latest"),
    ("index.docker.io/user/app", "docker.io/user/app:latest", "latest"),
    ("localhost/app:v1", "localhost/app:v1", "v1"),
    ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest", "latest"),
    ("10.0.2.2:5000/t/app:enc", "10.0.2.2:5000/t/app:enc", "enc"),
    ("[::1]:5000/app:v1", "[::1]:5000/app:v1", "v1"),
    ("ghcr.io/a/b/c:tag", "ghcr.io/a/b/c:tag", "tag"),
    (f"ghcr.io/a/b@{SHA}", f"ghcr.io/a/b@{SHA}", SHA),
    (f"ghcr.io/a/b:tag@{SHA}", f"ghcr.io/a/b:tag@{SHA}", SHA),
]


@pytest.mark.parametrize(("text", "normal", "selector"), NORMAL_FORMS)
def test_normal_form(text: str, normal: str, selector: str) -> None:
    reference = ImageReference.parse(text)
    assert (str(reference), reference.selector) == (normal, selector)
    assert ImageReference.parse(normal) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "Upper/case",
        "a//b",
        "a/../b",
        "app:",
        "app:-x",
        "app@sha256:12",
        "-host.io/a",
        "host:x/a",
        "a b",
        "https://host/a",
        "app:tag\n",
        "h.io/" + "a" * 300,
        "a" * 2000,
        f"app@{SHA}@{SHA}",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        ImageReference.parse(text)


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        reference = ImageReference.parse(text)
    except DecodeError:
        return
    assert ImageReference.parse(str(reference)) == reference


def test_digest_of_nothing() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert str(Digest.of(b"")) == f"sha256:{empty}"
    assert Digest.parse(f"sha256:{empty}") == Digest.of(b"")
    assert Digest.of(b"x", "sha512").algorithm == "sha512"


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", HEX, f"sha256:{HEX.upper()}", f"sha256:{HEX}0", f"md5:{HEX}", "sha256:../../etc/passwd"],
)
def test_digest_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        Digest.parse(text)
