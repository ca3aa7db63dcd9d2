# SPDX-License-Identifier: Apache-2.0
"""Reading both of apt's list formats (sources.list(5)), and choosing Debian's own mirror among the entries.
Reading both of apt's list formats (sources.list(5)), and choosing Debian's own mirror among the entries."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import NotFoundError
from sealpod.guestimage import debian
from sealpod.guestimage.aptsources import Mirror, Source, debian_mirror, parse_deb822, parse_one_line

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

ONE_LINE = f"""\
# a comment
deb [arch=amd64 signed-by={KEYRING}] https://mirror.example/debian bookworm main contrib  # trailing
deb-src https://mirror.example/debian bookworm main
deb https://mirror.example/debian-security bookworm-security main
deb https://packages.example/apt stable main extra
deb
"""

DEB822 = f"""\
# a comment
Types: deb deb-src
URIs: https://mirror.example/debian
 https://second.example/debian
Suites: bookworm bookworm-updates
Components: main
# in between
Signed-By: {KEYRING}

Types: deb
URIs: https://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: {KEYRING}

Enabled: no
Types: deb
URIs: https://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: https://source.example/debian
Suites: bookworm
Components: main
"""


def test_one_line_format() -> None:
    first, security, other = parse_one_line(ONE_LINE)
    assert first == Source(("https://mirror.example/debian",), ("bookworm",), ("main", "contrib"), KEYRING)
    assert security.suites == ("bookworm-security",)
    assert other.components == ("main", "extra")


def test_deb822_format() -> None:
    first, security = parse_deb822(DEB822)
    assert first.uris == ("https://mirror.example/debian", "https://second.example/debian")
    assert first.suites == ("bookworm", "bookworm-updates")
    assert first.signed_by == KEYRING
    assert security.suites == ("bookworm-security",)


def test_deb822_with_windows_line_ends_and_no_final_newline() -> None:
    text = "Types: deb\r\nURIs: u\r\nSuites: s\r\nComponents: main\r\n\r\nTypes: deb\r\nURIs: v\r\nSuites: s"
    assert [source.uris for source in parse_deb822(text)] == [("u",), ("v",)]


def test_an_embedded_key_goes_through_as_it_stands() -> None:
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----"
    text = "Types: deb\nURIs: https://mirror.example/debian\nSuites: sid\nComponents: main\n"
    text += f"Signed-By:\n {key}\n"
    (source,) = parse_deb822(text)
    assert source.signed_by == " " + key
    mirror = Mirror(source.uris[0], None, source.signed_by)
    (again,) = parse_deb822(debian.sources_text(mirror, "sid"))
    assert again.signed_by.strip() == key


@pytest.mark.parametrize("parse", [lambda: parse_one_line(ONE_LINE), lambda: parse_deb822(DEB822)])
def test_the_mirror_is_found_in_either(parse) -> None:  # type: ignore[no-untyped-def]
    assert debian_mirror(parse()) == Mirror(
        "https://mirror.example/debian", "https://mirror.example/debian-security", KEYRING
    )


def test_a_third_party_with_debians_suite_name_comes_last() -> None:
    third = Source(("https://db.example/repo/debian",), ("bookworm",), ("main",), "/etc/apt/keyrings/db.gpg")
    plain = Source(("https://mirror.example/debian",), ("bookworm",), ("main",))
    signed = Source(("https://other.example/d",), ("bookworm",), ("main",), KEYRING)
    assert debian_mirror([third, plain, signed]) == Mirror("https://other.example/d", None, KEYRING)
    assert debian_mirror([third, plain]) == Mirror("https://mirror.example/debian", None, "")


@pytest.mark.parametrize(
    "source",
    [
        Source(("https://packages.example/apt",), ("nodistro",), ("main",)),
        Source(("https://packages.example/debian",), ("bookworm",), ("stable",)),
        Source((), ("bookworm",), ("main",)),
    ],
)
def test_what_is_not_debian(source: Source) -> None:
    assert debian_mirror([source]) is None


@given(st.text(max_size=200))
def test_any_text_is_read_without_error(text: str) -> None:
    debian_mirror([*parse_one_line(text), *parse_deb822(text)])


def test_the_systems_files(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    with pytest.raises(NotFoundError) as caught:
        debian.system_mirror(str(tmp_path))
    assert caught.value.code == "apt.mirror"
    (tmp_path / "sources.list").write_text("deb https://old.example/debian bullseye main\n")
    assert debian.system_mirror(str(tmp_path)).archive == "https://old.example/debian"
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    assert debian.system_mirror(str(tmp_path)).archive == "https://mirror.example/debian"


def test_security_updates_are_for_releases_only() -> None:
    mirror = Mirror("https://mirror.example/debian", "https://mirror.example/debian-security", KEYRING)
    assert debian.sources_text(mirror, "bookworm").count("bookworm-security") == 1
    for suite in ("sid", "bookworm-backports"):
        assert "-security" not in debian.sources_text(mirror, suite)


def test_the_private_configuration_names_nothing_of_the_system() -> None:
    text = debian.configuration_text("/private")
    paths = [line.split('"')[1] for line in text.splitlines() if line.startswith("Dir::")]
    assert all(path.startswith("/private") or path == "/dev/null" for path in paths)
    assert "Post-Invoke" not in text
