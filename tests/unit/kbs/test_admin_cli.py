# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs ... --server``, ``policy test`` and ``policy suggest``, as their user meets them."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from brokerkit import private
from ovmfkit import FULL, build_image

from sealpod.cli import main
from sealpod.kbs.server import RunningBroker, ServerConfig, serve
from sealpod.kbs.server.config import AdminConfig
from sealpod.measure.components import Components

TOKEN = "0123456789abcdef" * 3
KEY = bytes(range(32))
DIGEST = bytes(range(100, 132)).hex()


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'kbs.db'}"


@pytest.fixture
def broker(url: str, tmp_path: Path) -> Iterator[RunningBroker]:
    tokens = private(tmp_path / "tokens", f"ops {TOKEN}\n".encode())
    with serve(ServerConfig("127.0.0.1:0", url, admin=AdminConfig("127.0.0.1:0", tokens))) as running:
        yield running


@pytest.fixture
def kbs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str) -> Run:
    """Runs ``sealpod kbs ...`` in this process; ``stdin`` as bytes."""
    monkeypatch.setenv("SEALPOD_KBS_DATABASE", url)

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "argv", ["sealpod", "kbs", *arguments])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        try:
            status = main.main()
        except SystemExit as exit_:  # argparse
            status = int(exit_.code or 0)
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def far(kbs: Run, broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same, asked of a broker; the database is not named."""
    monkeypatch.delenv("SEALPOD_KBS_DATABASE")
    options = ("--server", f"http://{broker.admin_address}", "--token-file", str(tmp_path / "tokens"))
    return lambda *arguments, **more: kbs(*arguments, *options, **more)


def test_the_same_verbs_print_the_same(kbs: Run, far: Run, url: str, tmp_path: Path) -> None:
    """What is set from afar is shown nearby and the other way round, word by word."""
    near = ("--database", url)
    (tmp_path / "key").write_bytes(KEY)
    policy = ("policy", "set", "app", "--digest", DIGEST, "--allow-policy", "3", "--min-api", "0.24")
    assert far(*policy).stdout == "policy app set\n"
    assert (
        kbs("secret", "set", "k", "--from-file", str(tmp_path / "key"), "--policy", "app", *near).returncode
        == 0
    )
    assert far("keyset", "set", "K", "--secret", "k").stdout == "keyset K set\n"
    assert far("resource", "set", "r", "--type", "t", "--path", "file").returncode == 0
    assert far("report-key", "set", "rk", "--generate").returncode == 0
    for noun, name in (
        ("policy", "app"),
        ("secret", "k"),
        ("keyset", "K"),
        ("resource", "r"),
        ("report-key", "rk"),
    ):
        for form in ("text", "json"):
            here, there = kbs(noun, "show", name, "-o", form, *near), far(noun, "show", name, "-o", form)
            if form == "json":
                assert json.loads(here.stdout) | {"schemaVersion": 1} == json.loads(there.stdout) | {
                    "schemaVersion": 1
                }
            else:
                assert here.stdout == there.stdout
    for noun in ("policy", "secret", "keyset", "resource", "report-key", "connection", "launch"):
        for form in ("text", "json"):
            assert far(noun, "list", "-o", form).stdout == kbs(noun, "list", "-o", form, *near).stdout
    shown = far("secret", "show", "k", "--reveal", "-o", "json")
    assert json.loads(shown.stdout)["value"] == base64.b64encode(KEY).decode()
    refused = far("policy", "delete", "app")
    assert (refused.returncode, refused.stdout) == (5, "")
    assert refused.stderr.startswith("sealpod: error: policy 'app' is used by secret k; ")
    log = kbs("audit", "list", "--call", "AdminDelete", "-o", "json", *near)
    assert [one["record"]["secrets"] for one in json.loads(log.stdout)["records"]] == [["policy:app"]]
    assert far("keyset", "delete", "K").stdout == "keyset K deleted\n"
    assert far("secret", "delete", "k").returncode == 0
    assert far("secret", "show", "k").returncode == 4


def test_connections_are_chosen_from_afar_as_nearby(kbs: Run, far: Run, url: str) -> None:
    # Of today: the broker that has just started removes old ones.
    row = "INSERT INTO conn_bundle VALUES ('c{}',NULL,0,0,0,0,'','','',datetime('now'),{})"
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        for number, ended in enumerate(("NULL", "datetime('now')", "NULL")):
            database.execute(row.format(number, ended))
        database.commit()
    for options, count in ((), 2), (("--limit", "1"), 1), (("--all",), 3), (("--all", "--limit", "2"), 2):
        listed = far("connection", "list", *options).stdout
        assert listed == kbs("connection", "list", *options, "--database", url).stdout
        assert len(listed.splitlines()) == 1 + count


def test_a_value_shown_by_the_command_is_recorded(kbs: Run, tmp_path: Path) -> None:
    assert kbs("secret", "set", "k", "--from-file", "-", stdin=KEY).returncode == 0
    assert kbs("secret", "show", "k").returncode == 0
    assert kbs("secret", "show", "k", "--reveal").returncode == 0
    exported = kbs("audit", "export").stdout.splitlines()
    calls = [json.loads(line)["record"]["call"] for line in exported]
    assert calls == ["AdminReveal"]


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--server", "http://192.0.2.1:1"], 2, "plain HTTP is for this machine only"),
        (["--server", "nowhere"], 2, "not the URL of an admin API"),
        (["--server", "ftp://127.0.0.1:1"], 2, "not the URL of an admin API"),
        (["--server", "http://127.0.0.1:1"], 6, "does not answer"),
        (["--server", "http://127.0.0.1:1", "--token-file", "/nowhere"], 4, "no file '/nowhere'"),
        (["--server", "https://127.0.0.1:1", "--ca", "/nowhere"], 2, "certificates cannot be read"),
        (["--server", "http://127.0.0.1:1", "--database", "sqlite:////x"], 2, "--database and --server do"),
        (["--server", "http://127.0.0.1:1", "--kek", "none"], 2, "--kek and --server do not go together"),
        (["--server", "http://127.0.0.1:1", "--old-kek", "env:X"], 2, "--old-kek and --server do not go"),
    ],
)
def test_servers_that_cannot_be_asked(kbs: Run, arguments: list[str], status: int, text: str) -> None:
    done = kbs("secret", "list", *arguments)
    assert done.returncode == status
    assert text in done.stderr


@pytest.mark.parametrize("option", ["--token-file", "--ca", "--client-cert"])
def test_what_is_for_a_server_is_not_ignored_without_one(kbs: Run, option: str) -> None:
    done = kbs("secret", "list", option, "/nowhere")
    assert done.returncode == 2
    assert f"{option} goes with --server" in done.stderr


def test_a_wrong_token(far: Run, kbs: Run, broker: RunningBroker, tmp_path: Path) -> None:
    path = private(tmp_path / "wrong", b"x" * 40)
    done = kbs("secret", "list", "--server", f"http://{broker.admin_address}", "--token-file", path)
    assert done.returncode == 7
    assert "no valid token; check the token with the broker's owner [" in done.stderr
    done = kbs("secret", "list", "--server", f"http://{broker.admin_address}")
    assert "no valid token; give it with --token-file FILE [" in done.stderr
    (tmp_path / "wrong").chmod(0o644)
    done = kbs("secret", "list", "--server", f"http://{broker.admin_address}", "--token-file", path)
    assert "can be read or changed by others" in done.stderr


def test_an_id_that_is_not_utf_8(far: Run, kbs: Run, url: str) -> None:
    done = far("secret", "show", "\udcff")
    assert (done.returncode, "the id is not UTF-8" in done.stderr) == (2, True)
    assert kbs("secret", "show", "\udcff", "--database", url).returncode == 4


def test_verbs_that_need_the_database(far: Run) -> None:
    assert "`policy withdraw` needs the database" in far("policy", "withdraw", "x").stderr
    assert "`doctor` needs the database" in far("doctor").stderr
    assert far("connection", "delete", "x").returncode == 2


class TestTrial:
    ASKED = ("policy", "test", "--digest", DIGEST, "--api", "0.24", "--build", "15")

    @pytest.fixture(autouse=True)
    def _policies(self, kbs: Run) -> None:
        kbs("policy", "set", "app", "--digest", DIGEST, "--allow-policy", "3")
        kbs("policy", "set", "strict", "--digest", "00" * 32, "--allow-policy", "7", "--min-api", "1.0")
        kbs("secret", "set", "good", "--from-file", "-", "--policy", "app", stdin=KEY)
        kbs("secret", "set", "bad", "--from-file", "-", "--policy", "strict", stdin=KEY)
        kbs("secret", "set", "free", "--from-file", "-", stdin=KEY)
        kbs("keyset", "set", "ALL", "--secret", "good", "bad", "free")

    def test_granted(self, kbs: Run) -> None:
        done = kbs(*self.ASKED, "--key", "good", "--key", "free", "--connection")
        assert done.returncode == 0
        assert done.stdout.splitlines()[0] == "granted"
        assert "no policy: any launch on a trusted platform may have it" in done.stdout

    def test_refused_with_every_rule_that_fails(self, kbs: Run) -> None:
        done = kbs(*self.ASKED, "--bundle", "ALL")
        assert done.returncode == 3
        zero, found = (base64.b64encode(bytes.fromhex(text)).decode() for text in ("00" * 32, DIGEST))
        assert done.stdout.splitlines() == [
            "refused",
            "the broker's default policy: agrees",
            "bundle:ALL: refused",
            "  policy app: agrees",
            "  policy strict: refuses",
            f"    digest: the launch has {found}, allowed: {zero}",
            "    sev-policy: the launch has 3, allowed: 7",
            "    min-api: the launch has 0.24, allowed: 1.0",
        ]

    def test_a_policy_that_members_share_is_told_once(self, kbs: Run) -> None:
        kbs("secret", "set", "too", "--from-file", "-", "--policy", "app", stdin=KEY)
        kbs("policy", "set", "twin", "--digest", DIGEST, "--sev-policy", "3")  # the same, by another name
        kbs("secret", "set", "other", "--from-file", "-", "--policy", "twin", stdin=KEY)
        kbs("keyset", "set", "SOME", "--secret", "good", "too", "other", "--policy", "app")
        done = kbs(*self.ASKED, "--bundle", "SOME", "--allow-policy", "3")
        assert done.stdout.splitlines()[2:] == [
            "bundle:SOME: granted",
            "  policy app: agrees",
            "  policy twin: agrees",
        ]

    def test_what_is_not_there(self, kbs: Run) -> None:
        done = kbs(*self.ASKED, "--key", "nope", "--bundle", "NOPE", "--report", "x", "--resource", "y")
        assert done.returncode == 3
        for code in ("secret.unknown", "keyset.unknown", "report-key.unknown", "resource.unknown"):
            assert f"[{code}]" in done.stdout

    def test_a_default_policy_and_a_version_out_of_range(self, kbs: Run, tmp_path: Path) -> None:
        path = tmp_path / "default.json"
        path.write_text(
            '{"allowed_digests":[],"allowed_policies":[7],"min_fw_api_major":0,'
            '"min_fw_api_minor":0,"allowed_build_ids":[]}'
        )
        done = kbs(*self.ASKED, "--key", "good", "--default-policy", str(path))
        assert done.returncode == 3
        assert "default policy: refuses" in done.stdout
        path.write_text("{")
        done = kbs(*self.ASKED, "--key", "good", "--default-policy", str(path))
        assert f"the default policy '{path}' cannot be read: the text of a policy is not" in done.stderr
        assert "correct the file [policy.malformed]" in done.stderr
        wrong = ("policy", "test", "--digest", DIGEST, "--api", "0.24", "--build", "256", "--key", "good")
        assert "build id not valid [request.version-range]" in kbs(*wrong).stdout

    def test_a_secret_that_does_not_fit(self, kbs: Run) -> None:
        for at in range(5):
            kbs("secret", "set", f"big{at}", "--from-file", "-", stdin=bytes(600))
        kbs("keyset", "set", "BIG", "--secret", *(f"big{at}" for at in range(5)))
        done = kbs(*self.ASKED, "--bundle", "BIG")
        assert done.returncode == 3
        assert "launch secret too large" in done.stdout

    def test_the_same_from_afar(self, kbs: Run, url: str, tmp_path: Path) -> None:
        tokens = private(tmp_path / "tokens", f"ops {TOKEN}\n".encode())
        config = ServerConfig("127.0.0.1:0", url, admin=AdminConfig("127.0.0.1:0", tokens))
        with serve(config) as running:
            far = kbs(
                *self.ASKED,
                "--bundle",
                "ALL",
                "--server",
                f"http://{running.admin_address}",
                "--token-file",
                tokens,
            )
        assert far == kbs(*self.ASKED, "--bundle", "ALL")


class TestSuggestion:
    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[str, ...]:
        for name, data in (("ovmf", build_image(FULL)), ("kernel", b"kernel"), ("initrd", b"initrd")):
            (tmp_path / name).write_bytes(data)
        paths = {name: str(tmp_path / name) for name in ("ovmf", "kernel", "initrd")}
        words = [word for name, path in paths.items() for word in (f"--{name}", path)]
        return (*words, "--append", "quiet")

    def test_from_files(self, kbs: Run, files: tuple[str, ...]) -> None:
        done = kbs("policy", "suggest", *files, "--set", "app", "--min-api", "0.24")
        assert done.returncode == 0, done.stderr
        expected = Components.of(build_image(FULL), b"kernel", b"initrd", "quiet").digest
        shown = json.loads(kbs("policy", "show", "app", "-o", "json").stdout)
        assert shown["digests"] == [base64.b64encode(bytes.fromhex(expected)).decode()]
        assert (shown["policies"], shown["minApi"]) == ([3], "0.24")
        assert done.stdout.startswith("policy app set: SEV\nsealpod kbs policy set app \\\n    --digest ")

    def test_kinds_of_guests_are_named_once(self, kbs: Run) -> None:
        digests = [word for at in range(3) for word in ("--digest", f"{at:064x}")]
        done = kbs("policy", "suggest", *digests, "--allow-policy", "3", "--set", "q")
        assert done.stdout.startswith("policy q set: digest (3 digests)\n")

    def test_a_range_of_vcpus(self, kbs: Run, files: tuple[str, ...]) -> None:
        done = kbs("policy", "suggest", *files, "--sev-policy", "7", "--vcpus", "1-3,8", "-o", "json")
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        assert [one["guest"] for one in made["guests"]] == [
            "SEV-ES, 1 vCPU",
            "SEV-ES, 2 vCPUs",
            "SEV-ES, 3 vCPUs",
            "SEV-ES, 8 vCPUs",
        ]
        assert len(set(made["policy"]["digests"])) == 4
        assert made["policy"]["policies"] == [7]

    def test_from_a_measurement(
        self, kbs: Run, files: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert main.dispatch(["measure", "--mode", "sev", *files, "-o", "json"]) == 0
        record = capsys.readouterr().out
        (tmp_path / "record").write_text(record)
        made = json.loads(
            kbs("policy", "suggest", "--measurement", str(tmp_path / "record"), "-o", "json").stdout
        )
        assert bytes.fromhex(json.loads(record)["digest"]) == base64.b64decode(made["policy"]["digests"][0])
        assert kbs("policy", "suggest", "--measurement", "-", stdin=record.encode()).returncode == 0

    def test_from_a_nodes_configuration_and_a_pod(
        self, kbs: Run, files: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        paths = dict(zip(files[::2], files[1::2], strict=True))
        config = tmp_path / "node.toml"
        config.write_text(
            f'[hypervisor.qemu]\nconfidential_guest = true\nfirmware = "{paths["--ovmf"]}"\n'
            f'kernel = "{paths["--kernel"]}"\ninitrd = "{paths["--initrd"]}"\n'
        )
        pod = tmp_path / "pod.yaml"
        pod.write_text('kind: Pod\nmetadata: {annotations: {io.katacontainers.config.sev.policy: "7"}}\n')
        kata = ("--kata-config", str(config), "--pod", str(pod), "--vcpu-type", "EPYC")
        made = json.loads(kbs("policy", "suggest", *kata, "--vcpus", "1-2", "-o", "json").stdout)
        assert main.dispatch(["measure", *kata, "--vcpus", "1-2", "-o", "json"]) == 0
        guests = json.loads(capsys.readouterr().out)["guests"]
        found = [base64.b64decode(one).hex() for one in made["policy"]["digests"]]
        assert found == [guest["digest"] for guest in guests]
        assert made["policy"]["policies"] == [7]

    def test_what_it_says_to_think_about(self, kbs: Run) -> None:
        done = kbs("policy", "suggest", "--digest", DIGEST, "--sev-policy", "0")
        assert "lets the host read the guest's memory" in done.stderr
        assert "any firmware version is allowed" in done.stderr

    @pytest.mark.parametrize(
        ("arguments", "status", "text"),
        [
            ([], 2, "no guest to allow"),
            (["--kernel", "x"], 2, "need --ovmf or --guest"),
            (["--ovmf", "/nowhere"], 4, "no such file"),
            (["--measurement", "/dev/null"], 1, "[measure.record]"),
            (["--digest", "zz"], 2, "not a launch digest"),
            (["--digest", DIGEST, "--min-api", "x"], 2, "not MAJOR.MINOR"),
            (["--digest", DIGEST, "--build-id", "256"], 2, "not a number from 0 to 255"),
            (["--ovmf", "OVMF", "--sev-policy", "7", "--vcpus", "0"], 2, "not a range of vCPUs"),
            (["--ovmf", "OVMF", "--sev-policy", "7", "--vcpus", "4-2"], 2, "not a range of vCPUs"),
        ],
    )
    def test_mistakes(
        self, kbs: Run, files: tuple[str, ...], arguments: list[str], status: int, text: str
    ) -> None:
        done = kbs("policy", "suggest", *(files[1] if word == "OVMF" else word for word in arguments))
        assert done.returncode == status
        assert text in done.stderr
