# SPDX-License-Identifier: Apache-2.0
"""The files that deploy the key broker, read but not run: their options, names, ports and files exist."""

from __future__ import annotations

import argparse
import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from sealpod.cli import kbs, kbs_common
from sealpod.kbs.store.environment import url_from_environment

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy/kbs"
BASE = DEPLOY / "kubernetes/base"
YAML = sorted([*DEPLOY.rglob("*.yml"), *DEPLOY.rglob("*.yaml")])
HOST = re.compile(r"^[^/]*[.:][^/]*/")
"""An image name that begins with a registry's host."""


def served(words: list[str]) -> argparse.Namespace:
    """Options of ``kbs serve``, as its parser takes them."""
    parser = argparse.ArgumentParser()
    kbs.add_arguments(parser)
    return parser.parse_args(["serve", *words])


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def port(listen: str) -> int:
    return int(listen.rpartition(":")[2])


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_each_file_is_one_document(path: Path) -> None:
    assert path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert isinstance(load(path), dict)


class TestCompose:
    COMPOSE = load(DEPLOY / "docker-compose.yml")
    SERVER = COMPOSE["services"]["server"]

    def test_the_names_are_simple_kbs(self) -> None:
        assert set(self.COMPOSE["services"]) == {"server", "db"}
        assert self.SERVER["ports"] == ["44444:44444"]
        environment = self.COMPOSE["services"]["db"]["environment"]
        assert (environment["MARIADB_DATABASE"], environment["MARIADB_USER"]) == ("simple_kbs", "kbsuser")

    def test_the_options_and_variables_exist(self, tmp_path: Path) -> None:
        args = served(self.SERVER["command"])
        assert port(args.listen) == 44444
        environment = dict(self.SERVER["environment"])
        secret = environment["KBS_DB_PW_FILE"]
        (tmp_path / "pw").write_text("p@ss/word\n")
        url = url_from_environment({**environment, "KBS_DB_PW_FILE": str(tmp_path / "pw")})
        assert url is not None
        assert (url.host, url.database, url.username) == ("db", "simple_kbs", "kbsuser")
        assert url.password == "p@ss/word"
        assert Path(secret).name in self.SERVER["secrets"]
        assert environment["SEALPOD_KBS_KEK"] == "file:/run/secrets/kek"

    def test_no_password_stands_in_it(self) -> None:
        for service in self.COMPOSE["services"].values():
            for name in service["environment"]:
                assert not re.search(r"PW$|PASSWORD$", name), name
            assert set(service["secrets"]) <= set(self.COMPOSE["secrets"])

    def test_the_server_waits_for_the_database(self) -> None:
        assert self.SERVER["depends_on"]["db"]["condition"] == "service_healthy"
        assert "healthcheck" in self.COMPOSE["services"]["db"]
        assert (DEPLOY / self.SERVER["build"]["context"] / self.SERVER["build"]["dockerfile"]).exists()

    def test_its_image_is_built_and_never_looked_for_elsewhere(self) -> None:
        assert self.SERVER["pull_policy"] == "never"

    def test_the_secrets_beside_it_are_not_part_of_a_commit(self) -> None:
        places = {Path(one["file"]).parent for one in self.COMPOSE["secrets"].values()}
        ignored = (ROOT / ".gitignore").read_text().split()
        assert {f"/{DEPLOY.relative_to(ROOT)}/{place}/" for place in places} <= set(ignored)

    def test_compose_takes_it(self) -> None:
        if tool("docker", "compose", "version").returncode:
            pytest.skip("docker has no compose")
        done = tool("docker", "compose", "--file", str(DEPLOY / "docker-compose.yml"), "config", "--quiet")
        assert done.returncode == 0, done.stderr


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program, or skip where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, check=False)


class TestDockerfile:
    LINES = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    STEPS: ClassVar = [line.split(None, 1) for line in LINES if line and not line.startswith("#")]

    def of(self, name: str) -> list[str]:
        return [rest for step, rest in self.STEPS if step == name]

    def test_what_it_copies_exists(self) -> None:
        for rest in self.of("COPY"):
            *sources, _ = shlex.split(rest)
            for source in sources:
                if source.startswith("--from="):
                    break
                assert (ROOT / source).exists(), source

    def test_the_builder_gets_that_and_nothing_else(self) -> None:
        """No secrets that lie beside the compose file, no virtual environment, no history."""
        copied = {
            source for rest in self.of("COPY") if "--from=" not in rest for source in shlex.split(rest)[:-1]
        }
        first, *rest = [
            line
            for line in (ROOT / ".dockerignore").read_text().splitlines()
            if line and not line.startswith("#")
        ]
        assert first == "*"
        assert {line[1:] for line in rest if line.startswith("!")} == copied
        assert "**/__pycache__" in rest

    def test_its_commands_are_on_the_path(self) -> None:
        place = Path(yaml.safe_load(self.of("ENTRYPOINT")[0])[0]).parent
        assert f"PATH={place}:$PATH" in shlex.split(" ".join(self.of("ENV")))

    def test_it_runs_as_nobody_in_particular(self) -> None:
        assert self.of("USER") == ["10001:10001"]
        command = [*yaml.safe_load(self.of("ENTRYPOINT")[0]), *yaml.safe_load(self.of("CMD")[0])]
        assert command[1:3] == ["kbs", "serve"]
        args = served(command[3:])
        assert [port(args.listen), port(args.ops_listen)] == [
            int(one) for one in self.of("EXPOSE")[0].split()
        ]
        assert f":{port(args.ops_listen)}/readyz" in self.of("HEALTHCHECK")[0]

    def test_it_installs_what_the_lock_says_and_nothing_else(self) -> None:
        def pins(path: Path) -> dict[str, str]:
            blocks = re.split(r"\n(?=[A-Za-z])", path.read_text())
            return {block.split("==")[0]: block.strip() for block in blocks if "==" in block.split("\n")[0]}

        mine, lock = pins(DEPLOY / "requirements.txt"), pins(ROOT / "requirements/dev.txt")
        assert mine
        assert {name: lock.get(name) for name in mine} == mine
        assert set(mine) == needed() | {"setuptools"}


def needed() -> set[str]:
    """Everything ``sealpod[kbs]`` installs, by its installed metadata."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    found: set[str] = set()
    todo = [(Requirement("sealpod[kbs]"), frozenset({"kbs"}))]
    while todo:
        one, extras = todo.pop()
        for text in requires(one.name) or ():
            further = Requirement(text)
            marker = further.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
                name = further.name.lower().replace("_", "-").replace(".", "-")
                if name not in found:
                    found.add(name)
                    todo.append((further, frozenset(further.extras)))
    return found


class TestSystemd:
    @pytest.fixture
    def unit(self) -> configparser.RawConfigParser:
        parser = configparser.RawConfigParser(strict=False)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read(DEPLOY / "sealpod-kbs.service")
        return parser

    def test_the_command_can_be_typed(self, unit: configparser.RawConfigParser) -> None:
        words = shlex.split(unit["Service"]["ExecStart"])
        assert words[1:3] == ["kbs", "serve"]
        args = served([word for word in words[3:] if word != "$KBS_OPTIONS"])
        # systemd waits longer than the end may take.
        assert float(unit["Service"]["TimeoutStopSec"]) > args.drain_delay + args.grace

    def test_another_database_takes_the_place_of_its_own(self) -> None:
        """What stands in kbs.env, which systemd reads after the unit's own variables."""
        lines = re.findall(
            r"^Environment=(\w+)=(.+)$", (DEPLOY / "sealpod-kbs.service").read_text(), re.MULTILINE
        )
        own = {name: value.replace("%S", "/var/lib") for name, value in lines}
        url = url_from_environment(own)
        assert url is not None
        assert url.render_as_string() == "sqlite:////var/lib/sealpod-kbs/kbs.db"
        other = {
            "KBS_DB_TYPE": "mysql",
            "KBS_DB_HOST": "db",
            "KBS_DB_USER": "u",
            "KBS_DB_PW": "p",
            "KBS_DB": "d",
        }
        url = url_from_environment({**own, **other})
        assert url is not None
        assert (url.get_backend_name(), url.host, url.database) == ("mysql", "db", "d")
        # It would count before any of these.
        assert kbs_common.DATABASE_VARIABLE not in own

    def test_it_is_up_when_it_says_so(self, unit: configparser.RawConfigParser) -> None:
        assert unit["Service"]["Type"] == "notify"
        # Neither a database that comes late nor a migration may be cut short.
        assert unit["Service"]["TimeoutStartSec"] == "infinity"

    def test_the_example_in_its_comment_can_be_typed(self) -> None:
        text = (DEPLOY / "sealpod-kbs.service").read_text()
        example = re.search(r"KBS_OPTIONS=(--.*)", text)
        assert example is not None
        served(shlex.split(example[1]))

    def test_it_is_confined(self, unit: configparser.RawConfigParser) -> None:
        service = unit["Service"]
        assert service["DynamicUser"] == "yes"
        assert service["CapabilityBoundingSet"] == ""
        assert service["ProtectSystem"] == "strict"
        assert service["NoNewPrivileges"] == "yes"

    def test_systemd_takes_it(self, tmp_path: Path) -> None:
        text = (DEPLOY / "sealpod-kbs.service").read_text()
        path = tmp_path / "sealpod-kbs.service"
        path.write_text(text.replace("/usr/local/bin/sealpod", "/bin/true"))
        done = tool("systemd-analyze", "verify", "--man=no", str(path))
        assert done.returncode == 0
        assert path.name not in done.stderr  # what it says of other units is not ours


class TestKubernetes:
    OBJECTS: ClassVar = {path.stem: load(path) for path in BASE.glob("*.yaml")}
    POD = OBJECTS["deployment"]["spec"]["template"]
    CONTAINER = POD["spec"]["containers"][0]

    def args(self, *more: str) -> argparse.Namespace:
        return served([*self.CONTAINER["args"], *more])

    @pytest.mark.parametrize("name", ["base", "tls"])
    def test_the_kustomization_names_every_file(self, name: str) -> None:
        place = DEPLOY / "kubernetes" / name
        resources = load(place / "kustomization.yaml")["resources"]
        for one in resources:
            assert (place / one).exists()
        assert {path.name for path in place.glob("*.yaml")} - {"kustomization.yaml"} <= set(resources)

    @pytest.mark.parametrize("name", ["base", "tls"])
    def test_kustomize_takes_it(self, name: str) -> None:
        done = tool("kubectl", "kustomize", str(DEPLOY / "kubernetes" / name))
        assert done.returncode == 0, done.stderr
        objects = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
        assert set(objects) == {one["kind"] for one in self.OBJECTS.values()} - {"Kustomization"}
        assert {one["metadata"].get("namespace", "sealpod-kbs") for one in objects.values()} == {
            "sealpod-kbs"
        }
        pod = objects["Deployment"]["spec"]["template"]["spec"]
        served(pod["containers"][0]["args"])
        assert pod["containers"][0]["image"] == "sealpod-kbs:0.1.0"

    def test_ports_probes_and_options_agree(self) -> None:
        args = self.args()
        ports = {one["name"]: one["containerPort"] for one in self.CONTAINER["ports"]}
        assert ports == {"grpc": port(args.listen), "ops": port(args.ops_listen)}
        paths = {self.CONTAINER[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")}
        assert paths == {"/healthz"}
        assert self.CONTAINER["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "ops"}
        (service,) = self.OBJECTS["service"]["spec"]["ports"]
        assert (service["port"], service["targetPort"]) == (44444, "grpc")
        allowed = [
            one["port"] for rule in self.OBJECTS["networkpolicy"]["spec"]["ingress"] for one in rule["ports"]
        ]
        assert sorted(allowed) == sorted(ports.values())

    def test_the_end_has_time(self) -> None:
        args = self.args()
        assert self.POD["spec"]["terminationGracePeriodSeconds"] > args.drain_delay + args.grace
        probe = self.CONTAINER["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] > args.wait_for_database

    def test_selectors_find_the_pods(self) -> None:
        labels = self.POD["metadata"]["labels"]
        objects = self.OBJECTS
        for selector in (
            objects["deployment"]["spec"]["selector"]["matchLabels"],
            objects["service"]["spec"]["selector"],
            objects["poddisruptionbudget"]["spec"]["selector"]["matchLabels"],
            objects["networkpolicy"]["spec"]["podSelector"]["matchLabels"],
        ):
            assert selector.items() <= labels.items()

    def test_files_and_variables_are_mounted(self) -> None:
        mounts = {one["mountPath"]: one["name"] for one in self.CONTAINER["volumeMounts"]}
        volumes = {one["name"] for one in self.POD["spec"]["volumes"]}
        assert set(mounts.values()) == volumes
        args = self.args()
        named = [args.default_policy]
        named += [one["value"] for one in self.CONTAINER["env"] if one["name"].endswith("_FILE")]
        # Not by an option: what is run with `kubectl exec` needs the key too.
        kek = next(one["value"] for one in self.CONTAINER["env"] if one["name"] == "SEALPOD_KBS_KEK")
        named.append(kek.removeprefix("file:"))
        assert args.kek is None
        for path in named:
            assert str(Path(path).parent) in mounts
        config = self.OBJECTS["configmap"]["data"]
        for one in self.CONTAINER["env"]:
            if "valueFrom" in one:
                assert one["valueFrom"]["configMapKeyRef"]["key"] in config
        assert "password" not in " ".join(config).lower()

    def test_the_default_policy_can_be_read(self, tmp_path: Path) -> None:
        from sealpod.kbs.core.policy import ALLOW_ALL
        from sealpod.kbs.server.defaultpolicy import read_rule

        path = tmp_path / "default_policy.json"
        path.write_text(self.OBJECTS["configmap"]["data"]["default_policy.json"])
        assert read_rule(str(path)) == ALLOW_ALL

    def test_no_secret_is_part_of_it(self) -> None:
        assert not [one for one in self.OBJECTS.values() if one["kind"] == "Secret"]

    def test_the_pods_are_confined(self) -> None:
        spec, container = self.POD["spec"], self.CONTAINER["securityContext"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 10001
        assert container["readOnlyRootFilesystem"]
        assert container["capabilities"] == {"drop": ["ALL"]}
        assert not container["allowPrivilegeEscalation"]
        assert spec["automountServiceAccountToken"] is False

    def test_the_tls_variant_names_what_it_mounts(self) -> None:
        patches = load(DEPLOY / "kubernetes/tls/kustomization.yaml")["patches"]
        steps = yaml.safe_load(patches[0]["patch"])
        words = [step["value"] for step in steps if step["path"].endswith("/args/-")]
        args = self.args(*words)
        (mount,) = [step["value"] for step in steps if step["path"].endswith("/volumeMounts/-")]
        assert {str(Path(path).parent) for path in (args.tls_cert, args.tls_key)} == {mount["mountPath"]}

    def test_the_tls_variant_has_a_port_for_guests(self) -> None:
        patches = load(DEPLOY / "kubernetes/tls/kustomization.yaml")["patches"]
        steps = {one["target"]["kind"]: yaml.safe_load(one["patch"]) for one in patches}
        words = [step["value"] for step in steps["Deployment"] if step["path"].endswith("/args/-")]
        guests = port(str(self.args(*words).guest_listen))
        (container,) = [step["value"] for step in steps["Deployment"] if step["path"].endswith("/ports/-")]
        (service,) = [step["value"] for step in steps["Service"] if step["op"] == "add"]
        (allowed,) = [step["value"] for step in steps["NetworkPolicy"]]
        assert container["containerPort"] == service["port"] == allowed["port"] == guests
        assert service["targetPort"] == container["name"]


def test_no_image_is_of_a_named_registry() -> None:
    text = "\n".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file())
    images = re.findall(r"(?:^FROM|image:|- name:)\s+(\S+)", text, re.MULTILINE)
    assert "debian:12-slim" in images
    assert not [name for name in images if HOST.match(name)]
