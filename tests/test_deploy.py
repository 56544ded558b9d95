"""What services and containers are made of is there, is hardened, and calls commands that exist."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from tacit.__main__ import cli

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))
POSTGRES = "TACIT_TEST_POSTGRES_URL"
NEWER = ("RestartSteps", "RestartMaxDelaySec")  # than the systemd of Debian 12


def resolve(words: list[str]) -> None:
    """Parse `tacit` words as the command line would, without running anything."""
    command: click.Command = cli
    context = click.Context(cli)
    words = list(words)
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
    assert not isinstance(command, click.Group), "names no command"
    command.make_context(command.name, words)


def settings(unit: Path) -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


# systemd


HARDENED = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectControlGroups": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "SystemCallArchitectures": "native",
    "LimitCORE": "0",
    "MemorySwapMax": "0",
    "UMask": "0077",
    "StateDirectoryMode": "0700",
    "Restart": "always",
    "StartLimitIntervalSec": "0",
}


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_service_is_hardened_starts_again_for_ever_and_runs_a_command_that_exists(unit: Path) -> None:
    found = settings(unit)
    assert {name: found[name] for name in HARDENED} == {name: [value] for name, value in HARDENED.items()}
    assert found["SystemCallFilter"] == ["@system-service", "~@privileged @resources @obsolete"]
    (start,) = found["ExecStart"]
    program, *words = start.replace("%S", "/var/lib").replace("%i", "hub").split()
    assert program == "/opt/tacit/bin/tacit"
    resolve(words)
    user = re.search(r"^u (\S+) ", (DEPLOY / "systemd/tacit.conf").read_text(), re.MULTILINE)
    assert user and found["User"][0] in (DEPLOY / "systemd/tacit.conf").read_text()


def test_the_two_services_are_protected_alike() -> None:
    one, other = (settings(unit) for unit in UNITS)
    apart = {"Description", "ConditionPathExists", "User", "ExecStart", "WorkingDirectory", "StateDirectory"}
    apart |= {
        "Environment",
        "EnvironmentFile",
        "After",
        "RestartSteps",
        "RestartMaxDelaySec",
        "Nice",
        "ProtectHome",
        "LimitNOFILE",
    }
    assert {name for name in one.keys() | other.keys() if one[name] != other[name]} <= apart


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_understands_a_service_and_finds_little_of_it_exposed(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/tacit/bin/tacit", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    if "Failed to" in done.stderr and "namespace" in done.stderr:
        pytest.skip("systemd-analyze cannot look at units here")
    complaints = [
        line for line in done.stderr.splitlines() if unit.name in line and not any(one in line for one in NEWER)
    ]
    assert complaints == []
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", copy], capture_output=True, text=True
    )
    if "unrecognized option" not in told.stderr:
        assert told.returncode == 0, told.stdout[-300:]


# Containers


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def copied(dockerfile: Path) -> list[str]:
    """Return what is copied out of the checkout."""
    found = [shlex.split(rest) for word, rest in instructions(dockerfile) if word == "COPY" and "--from" not in rest]
    return [source for words in found for source in [one for one in words if not one.startswith("--")][:-1]]


def is_in_the_context(path: str) -> bool:
    included = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if fnmatch.fnmatch(path, pattern) or path.startswith(f"{pattern}/"):
                included = line.startswith("!")
    return included


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_without_root_looks_after_itself_and_calls_commands_that_exist(dockerfile: Path) -> None:
    found = instructions(dockerfile)
    last = found[max(at for at, (word, _) in enumerate(found) if word == "FROM") :]
    said = dict(last)
    assert int(said["USER"].split(":")[0]) > 0
    assert "VOLUME" in said and "HEALTHCHECK" in said
    assert not re.search(r"password|secret|token", dockerfile.read_text(), re.IGNORECASE)
    resolve(yaml.safe_load(said["CMD"]))
    health = re.search(r"CMD (?:tacit|tacit-entrypoint) (.*?) \|", said["HEALTHCHECK"])
    assert health
    resolve(health[1].split())
    for source in copied(dockerfile):
        assert (ROOT / source).exists() and is_in_the_context(source), source


def test_nothing_but_sources_goes_into_a_build() -> None:
    for path in ("tacit.db", "tacit.key", "hub/coordinator.key", ".git/config", "runs/x", "deploy/secrets/password"):
        assert not is_in_the_context(path), path
    assert is_in_the_context("src/tacit/__init__.py")


def test_both_images_are_built_in_the_same_way_from_the_same_pytorch_as_everything_else() -> None:
    one, other = (path.read_text() for path in DOCKERFILES)
    pin = re.search(r"^torch(==\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for text in (one, other):
        assert pin and f"'torch{pin[1]}+cpu'" in text and "--constraint constraints.txt" in text
    for word in ("COPY src", "COPY server", "COPY privacy", "ARG TORCH=cpu", "ARG TORCH_INDEX="):
        assert word in one and word in other


@pytest.mark.slow
@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_an_image_copies_builds_a_wheel_with_every_part(dockerfile: Path, tmp_path: Path) -> None:
    for source in copied(dockerfile):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / "src" / source, symlinks=True)
        else:
            (tmp_path / "src").mkdir(exist_ok=True)
            shutil.copy(ROOT / source, tmp_path / "src" / Path(source).name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), "."]
    done = subprocess.run(command, cwd=tmp_path / "src", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((tmp_path / "dist").glob("tacit-*.whl"))) as wheel:
        names = set(wheel.namelist())
    for part in ("client", "models", "privacy", "server", "simulations"):
        assert f"tacit/{part}/__init__.py" in names
    assert any(name.startswith("tacit/server/store/migrations/versions/v") for name in names)


COMPOSE: Mapping[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]
AGENTS = sorted(name for name in SERVICES if name.startswith("agent-"))


def test_there_are_a_coordinator_three_agents_and_a_database_each_made_from_a_file_that_exists() -> None:
    assert SERVICES.keys() == {"database", "coordinator", *AGENTS} and len(AGENTS) == 3
    for name in ("coordinator", *AGENTS):
        build = SERVICES[name]["build"]
        assert (DEPLOY / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]) in DOCKERFILES
    assert re.search(r":\d+", SERVICES["database"]["image"])


def test_agents_reach_the_coordinator_alone_and_nobody_reaches_the_database_but_it() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    for name in AGENTS:
        assert networks[name] == {"fleet"}
        assert not networks[name] & networks["database"]
    assert networks["database"] == {"state"} <= networks["coordinator"]
    assert COMPOSE["networks"]["state"]["internal"] and COMPOSE["networks"]["fleet"]["internal"]
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"coordinator"}
    assert SERVICES["coordinator"]["ports"] == ["9092:9092"]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(f"{key}={item}" if isinstance(item, str) else item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    else:
        yield str(value)


def test_passwords_are_files_and_nothing_else() -> None:
    for text in strings(COMPOSE):
        if "PASSWORD" in text:
            assert re.fullmatch(r"\w+_PASSWORD_FILE=/run/secrets/[\w-]+", text), text
        assert not re.search(r"://[^/\s]*:[^/\s]*@", text), text
    (secret,) = COMPOSE["secrets"].values()
    assert set(secret) == {"file"}
    assert {name for name, one in SERVICES.items() if "secrets" in one} == {"database", "coordinator"}
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/secrets/database-password"], cwd=ROOT)
    assert ignored.returncode in (0, 128), "a password could be committed"


def test_containers_are_hardened_and_have_volumes_of_their_own() -> None:
    seen: list[str] = []
    for name in ("coordinator", *AGENTS):
        service = SERVICES[name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"] and service["ulimits"]["core"] == 0
        own, *mounted = service["volumes"]
        seen.append(own)
        assert own.endswith(":/var/lib/tacit") and all(one.endswith(":ro") for one in mounted)
    assert len(set(seen)) == len(seen)
    assert {one.partition(":")[0] for one in seen} | {"database"} == COMPOSE["volumes"].keys()
    for service in SERVICES.values():
        assert service["restart"] == "unless-stopped"
    assert SERVICES["coordinator"]["depends_on"]["database"]["condition"] == "service_healthy"
    assert "pg_isready" in SERVICES["database"]["healthcheck"]["test"]


def test_the_cuda_variant_changes_every_agent_and_nothing_else() -> None:
    variant = yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text())["services"]
    assert variant.keys() == set(AGENTS)
    for service in variant.values():
        assert service["build"]["args"] == {"TORCH": "cuda"}
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]


# What the page says


def blocks() -> Iterator[str]:
    text = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def commands() -> Iterator[list[str]]:
    """Yield the words behind `tacit` of every command on the page, however it is called."""
    for line in blocks():
        for part in re.split(r"\s[|<>]\s?", line):
            words = shlex.split(part.strip().rstrip("|"), comments=True)
            if words[:3] == ["docker", "compose", "run"]:
                rest = words[3:]
                while rest and rest[0].startswith("-"):
                    rest = rest[2:] if rest[0] == "--volume" else rest[1:]
                assert rest[0].replace("$owner", "north") in SERVICES
                yield rest[1:]
            elif words and words[0] in ("tacit", "hub", "north"):
                yield words[1:]


def test_every_command_on_the_page_exists() -> None:
    found = list(commands())
    assert len(found) > 15
    for words in found:
        resolve(words)


def test_every_file_that_the_page_installs_exists() -> None:
    named = {word for line in blocks() for word in line.split() if word.startswith("deploy/")}
    assert named and all((ROOT / word).exists() for word in named)


@pytest.mark.skipif(POSTGRES not in os.environ, reason=f"{POSTGRES} is not set")
@pytest.mark.parametrize("right", [True, False])
def test_the_password_comes_from_its_file_and_stands_nowhere_else(tmp_path: Path, right: bool) -> None:
    from sqlalchemy import make_url

    url = make_url(os.environ[POSTGRES])
    if not url.password:
        pytest.skip("the database wants no password")
    secret = tmp_path / "password"
    secret.write_text(f"{url.password if right else 'wrong'}\n")
    database = url._replace(password=None).render_as_string()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "tacit").write_text(f'#!/bin/sh\nexec {sys.executable} -W ignore -m tacit "$@"\n')
    (programs / "tacit").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "TACIT_DATABASE_PASSWORD_FILE": str(secret),
        "TACIT_COORDINATOR": str(tmp_path / "hub"),
    }

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(DEPLOY / "entrypoint.sh"), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert call("coordinator", "init", str(tmp_path / "hub"), "--db", database).returncode == 0
    shown = call("coordinator", "status", "--format", "json")
    assert (shown.returncode == 0) == right
    assert right or re.fullmatch(r"error: .*password authentication failed.*\n", shown.stderr)
    assert url.password not in (tmp_path / "hub/coordinator.toml").read_text()
