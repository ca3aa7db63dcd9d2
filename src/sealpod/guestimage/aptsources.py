# SPDX-License-Identifier: Apache-2.0
"""Read apt's source lists for one thing: which Debian mirror this machine uses, and with which keys.

Formats: sources.list(5), one-line (``deb [options] URI suite component...``) and deb822 (``*.sources``).
Entries that are not of Debian's own archive are skipped. Nothing here touches the system; bytes in, values
out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

DEBIAN_SUITES: Final = frozenset(
    (
        *("buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"),
        *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
    )
)
ARCHIVE_COMPONENT: Final = "main"
SECURITY_SUFFIX: Final = "-security"
DEBIAN_KEYRING: Final = "debian-archive-keyring"

_ONE_LINE = re.compile(r"deb(?P<source>-src)?\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<rest>.+)")
_FIELD = re.compile(r"(?P<name>[!-9;-~]+)\s*:(?P<value>.*)")


@dataclass(frozen=True, slots=True)
class Source:
    """One entry. ``signed_by`` is a key file's path, a fingerprint, an embedded key block, or empty."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where Debian comes from: the archive, its security archive if one is configured, and the keys."""

    archive: str
    security: str | None
    signed_by: str


def parse_one_line(text: str) -> Iterator[Source]:
    """Entries of a ``.list`` file; lines that are not ``deb`` entries are skipped."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is None or match["source"]:
            continue
        options = dict(_option(item) for item in (match["options"] or "").split())
        suite, *components = match["rest"].split()
        yield Source((match["uri"],), (suite,), tuple(components), options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[Source]:
    """Entries of a ``.sources`` file; disabled and source-only stanzas are skipped."""
    for stanza in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off", "without", "disable"):
            continue
        yield Source(
            tuple(fields.get("uris", "").split()),
            tuple(fields.get("suites", "").split()),
            tuple(fields.get("components", "").split()),
            fields.get("signed-by", "").strip("\n"),
        )


def debian_mirror(sources: Iterable[Source]) -> Mirror | None:
    """The mirror of Debian's archive among ``sources``, or None.

    A third party may name its suite after Debian's, so entries signed with Debian's own keyring win, then
    those whose address says debian.
    """
    archives: list[tuple[int, str, str]] = []
    security: str | None = None
    for source in sources:
        if ARCHIVE_COMPONENT not in source.components or not source.uris:
            continue
        bases = {suite.partition("/")[0] for suite in source.suites}
        if bases & DEBIAN_SUITES:
            archives.append((_doubt(source), source.uris[0], source.signed_by))
        elif security is None and any(_is_security(suite) for suite in source.suites):
            security = source.uris[0]
    if not archives:
        return None
    _, archive, signed_by = min(archives, key=lambda item: item[0])
    return Mirror(archive, security, signed_by)


def _doubt(source: Source) -> int:
    if DEBIAN_KEYRING in source.signed_by:
        return 0
    if "debian" in source.uris[0]:
        return 1 if not source.signed_by else 2
    return 3


def _is_security(suite: str) -> bool:
    return suite.endswith(SECURITY_SUFFIX) and suite.removesuffix(SECURITY_SUFFIX) in DEBIAN_SUITES


def _option(item: str) -> tuple[str, str]:
    name, _, value = item.partition("=")
    return name.lower(), value


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.split("\n"):
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            fields[name] += "\n" + line
        elif match := _FIELD.match(line):
            name = match["name"].lower()
            fields[name] = match["value"].strip()
    return fields
