# SPDX-License-Identifier: Apache-2.0
"""A database server that comes up after its broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from databases import Server, server_database
from kbsload import BUNDLE_GUID, Caller, LoadPlatform

from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.keks import KekSources
from sealpod.kbs.store.keysets import set_keyset
from sealpod.kbs.store.secrets import set_secret
from sealpod.secret import SecretBytes


@pytest.fixture(params=["mariadb", "postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def test_a_server_that_is_started_last(server: Server, tmp_path: Path) -> None:
    """The broker is there first, says what it waits for, and serves once the server answers."""
    database = server_database(server, tmp_path)
    with open_database(database.url, keks=KekSources(database.kek)) as db:
        set_secret(db, "key_id1", SecretBytes(b"k" * 32), policy=None)
        set_keyset(db, "KEYSET-1", ("key_id1",), policy=None)
    platform = LoadPlatform()
    words = [sys.executable, "-m", "sealpod.cli.main", "kbs", "serve", "--listen", "127.0.0.1:0"]
    words += ["--trust-ark", platform.fingerprint, "--wait-for-database", "120"]
    environment = {**os.environ, **database.environment}
    server.stop()
    try:
        broker = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    except BaseException:
        server.start()
        raise
    with broker:
        try:
            assert broker.stderr is not None
            said = ""
            for line in broker.stderr:
                said += line
                if "waiting for the database" in line:
                    server.start()
                if line.startswith("listening on "):
                    break
            assert "waiting for the database" in said
            assert broker.poll() is None, said
            with Caller(said.split()[-1]) as caller:
                got = caller.launch(platform, (BUNDLE_GUID, "json", "bundle", "KEYSET-1"))
            assert b"key_id1" in got[BUNDLE_GUID]
        finally:
            broker.kill()
            if server.process is None:
                server.start()
    # The server's password is in its URL, and nowhere in what was said.
    assert str(database.url.password) not in said
