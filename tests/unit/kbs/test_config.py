# SPDX-License-Identifier: Apache-2.0
"""The broker's configuration: addresses, private files, files that change, and options that go together."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.cli import kbs
from sealpod.cli.kbs_serve_config import server_config
from sealpod.errors import AccessError, NotFoundError, OperationError, SealpodError, UsageError
from sealpod.kbs.server.config import TlsFiles, is_loopback, split_listen
from sealpod.kbs.server.files import MAX_FILE, Watched, read_file, read_private


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:44444", "127.0.0.1", 44444),
        ("localhost:0", "localhost", 0),
        ("[::1]:1", "[::1]", 1),
        ("[fe80::1%eth0]:65535", "[fe80::1%eth0]", 65535),
        ("kbs.example:80", "kbs.example", 80),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert split_listen(text) == (host, port)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    refused = None
    try:
        host, port = split_listen(text)
    except UsageError as error:
        refused = error.code
    if refused is not None:
        assert refused == "kbs.listen"
        return
    assert host
    assert 0 <= port <= 65535


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("[::]", False),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


class TestFiles:
    def test_a_private_file(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_bytes(b"data")
        path.chmod(0o600)
        assert read_private(str(path), "key") == b"data"

    @pytest.mark.parametrize("mode", [0o604, 0o601, 0o602, 0o620, 0o666, 0o777, 0o610])
    def test_a_file_that_others_reach(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "key"
        path.write_bytes(b"data")
        path.chmod(mode)
        with pytest.raises(AccessError) as caught:
            read_private(str(path), "key")
        assert caught.value.code == "kbs.file-mode"

    @pytest.mark.skipif(os.getuid() != 0, reason="gives a file to another user")
    def test_a_group_may_read_what_root_lends_it(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_bytes(b"data")
        path.chmod(0o440)
        os.chown(path, 0, os.getegid())
        assert read_private(str(path), "key") == b"data"  # as Kubernetes mounts it
        os.chown(path, 1, os.getegid())
        with pytest.raises(AccessError):
            read_private(str(path), "key")

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            read_file(str(tmp_path / "nothing"), "x")
        with pytest.raises(OperationError):
            read_file(str(tmp_path), "x")
        (tmp_path / "large").write_bytes(bytes(MAX_FILE + 1))
        with pytest.raises(OperationError, match="too large"):
            read_file(str(tmp_path / "large"), "x")


class TestWatched:
    def test_it_follows_changes_and_keeps_the_last_good_value(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "file"
        path.write_text("1")
        reads: list[int] = []

        def read() -> int:
            try:
                value = int(path.read_text())
            except (ValueError, OSError):
                raise UsageError("not a number", code="test.number") from None
            reads.append(value)
            return value

        watched = Watched((str(path),), read)
        assert [watched.get() for _ in range(5)] == [1] * 5
        assert reads == [1]  # looked at, not read
        path.write_text("22")
        assert watched.get() == 22
        path.write_text("broken")
        assert watched.get() == 22
        assert watched.get() == 22
        assert caplog.text.count("not a number") == 1  # said once, not at every call
        path.unlink()
        assert watched.get() == 22
        path.write_text("3")
        assert watched.get() == 3
        watched.reload()
        assert reads[-2:] == [3, 3]

    def test_a_first_value_that_cannot_be_read_is_an_error(self, tmp_path: Path) -> None:
        def fail() -> int:
            raise UsageError("no")

        with pytest.raises(UsageError):
            Watched((str(tmp_path / "x"),), fail)


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    kbs.add_arguments(parser)
    return parser.parse_args(["serve", *words])


class TestOptions:
    def test_what_they_come_to(self) -> None:
        args = parsed(
            *("--grpc_sock", "0.0.0.0:1", "--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"),
            *("--admin-listen", "127.0.0.1:2", "--admin-token-file", "t", "--rate-limit", "0"),
            *("--connection-ttl", "0", "--launch-ttl", "30.5", "--max-connections", "5", "--no-reflection"),
        )
        config = server_config(args, "sqlite:///x")
        assert config.listen == "0.0.0.0:1"
        assert config.tls == TlsFiles("c", "k", "a")
        assert config.admin is not None
        assert (config.admin.listen, config.admin.token_file, config.admin.tls) == ("127.0.0.1:2", "t", None)
        assert config.rate.rate == 0
        assert config.limits.connection_ttl == float("inf")
        assert config.limits.launch_ttl == 30.5
        assert config.connections.connections == 5
        assert not config.reflection

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            (["--tls-cert", "c"], "tls.options"),
            (["--tls-key", "k"], "tls.options"),
            (["--tls-client-ca", "a"], "tls.options"),
            (["--admin-token-file", "t"], "admin.options"),
            (["--admin-tls-cert", "c", "--admin-tls-key", "k"], "admin.options"),
        ],
    )
    def test_options_that_do_not_go_together(self, words: list[str], code: str) -> None:
        with pytest.raises(SealpodError) as caught:
            server_config(parsed(*words), "sqlite:///x")
        assert caught.value.code == code

    @pytest.mark.parametrize(
        "words",
        [
            ["--rate-limit", "-1"],
            ["--rate-limit", "nan"],
            ["--max-connections", "0"],
            ["--grace", "x"],
            ["--launch-ttl", "0"],
            ["--launch-ttl", "inf"],
            ["--chain-cache", "-1"],
            ["--chain-cache", "x"],
        ],
    )
    def test_numbers_that_cannot_be(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            parsed(*words)
        assert "not a " in capsys.readouterr().err

    def test_no_option_takes_a_secret(self) -> None:
        """Tokens, keys and passwords are named by file, by environment or by program, never given."""
        text = argparse.ArgumentParser()
        kbs.add_arguments(text)
        for action in _options(text):
            for name in action.option_strings:
                if any(word in name for word in ("token", "password", "secret-value")):
                    assert action.metavar == "FILE", name


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found += _options(below)
        else:
            found.append(action)
    return found
