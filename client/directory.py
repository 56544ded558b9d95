"""An agent's own directory: its key, its owner's policy, settings and data register, and beside them its journal.

    agent.key       the agent's Ed25519 key
    policy.toml     what it does for a coordinator
    settings.toml   how it works on this machine
    data.toml       the data register
    paused          there while the owner has paused it

What else is in it belongs to the journal (`tacit.client.journal`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.client.audit import AuditLog, Noted
from tacit.client.journal import AUDIT, ROUNDS, AgentJournal, list_ledgers, read_ledger
from tacit.client.ledger import Budgets
from tacit.client.lines import FileLines, InUse, Lines, MemoryLines, check_private, is_in_use, read_lines
from tacit.client.pause import Pause
from tacit.client.policy import Policy
from tacit.client.policy_file import default_policy_toml, parse_policy
from tacit.client.register import DataSet, Register, absolute, parse_register
from tacit.client.settings import Settings, default_settings_toml, parse_settings
from tacit.models.durable import write_directory, write_file
from tacit.models.errors import InputError
from tacit.models.key_file import read_identity
from tacit.privacy.identity import Identity, check_name
from tacit.privacy.ledger import Verified
from tacit.privacy.randomness import Randomness, SystemRandomness
from tacit.privacy.terms import Unit

if TYPE_CHECKING:  # it brings PyTorch, which most commands can do without
    from tacit.models.noise import NoisePlan

KEY, POLICY, SETTINGS, REGISTER, PAUSED = "agent.key", "policy.toml", "settings.toml", "data.toml", "paused"
LARGEST_FILE = 1 << 20  # bytes of what an owner writes by hand
_SYSTEM = SystemRandomness()


@dataclass(frozen=True)
class AgentDirectory:
    """An opened directory, whose files were all there, private and readable.

    Attributes:
        path: where it is.
        identity: the agent's key.
        policy: the owner's policy.
        settings: the owner's settings.
        register: the data register.
    """

    path: Path
    identity: Identity
    policy: Policy
    settings: Settings
    register: Register

    @classmethod
    def open(cls, path: Path) -> AgentDirectory:
        """Open and check a directory that `init` made.

        Raises:
            InputError: it is none, a file is missing, cannot be used, or is open to other users.
        """
        try:
            found = path.stat()
            # Before a word about permissions: it may be any directory, such as the one that a command was given in.
            if stat.S_ISDIR(found.st_mode) and os.access(path, os.X_OK) and not os.path.lexists(path / KEY):
                raise InputError(
                    f"is no agent's directory: it has no {KEY}",
                    where=str(path),
                    right="name another with --dir, or restore the key",
                )
            check_private(found, path, stat.S_ISDIR, "directory", "700")
        except FileNotFoundError:
            raise InputError("there is no such directory", where=str(path), right=f"tacit agent init {path}") from None
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
        identity = read_identity(path / KEY)
        if identity is None:  # it was there a moment ago
            raise InputError("is missing", where=str(path / KEY))
        policy, settings, register = (path / name for name in (POLICY, SETTINGS, REGISTER))
        return cls(
            path=path,
            identity=identity,
            policy=parse_policy(_text(policy), where=str(policy)),
            settings=parse_settings(_text(settings), where=str(settings)),
            register=parse_register(_text(register), where=str(register)),
        )

    @cached_property
    def pause(self) -> Pause:
        """Return the owner's pause."""
        return Pause(self.path / PAUSED)

    @property
    def organisation_key(self) -> Path | None:
        """Return the file of the organisation's key, which the settings may name from this directory."""
        return self.path / self.settings.organisation_key if self.settings.organisation_key else None

    @property
    def is_running(self) -> bool:
        """Say whether an agent has the journal open."""
        return is_in_use(self.path / ROUNDS)

    def budgets(self, noise: NoisePlan) -> Budgets:
        """Return what the policy grants a new ledger for noise of this kind, as `Consent` asks for it."""
        return self.policy.budgets(noise.terms.unit)

    def journal(self, *, now: Callable[[], float] = time.time) -> AgentJournal:
        """Open the journal, which nobody else can until it is closed.

        Raises:
            InUse: an agent is running.
            InputError, JournalBroken, AuditBroken: see `AgentJournal.open`.
        """
        return AgentJournal.open(self.path, self.identity, now=now)

    def rehearsal(self, *, now: Callable[[], float] = time.time) -> AgentJournal:
        """Return a journal that knows what is on the disk and writes nothing to it, whether an agent runs or not.

        Raises:
            InputError, JournalBroken, AuditBroken: see `AgentJournal.open`; a ledger is checked when it is asked for.
        """
        anchors: dict[str, Lines] = {}

        def remembered(name: str) -> Lines:
            if name in anchors:
                return anchors.pop(name)
            if name.endswith(".ledger"):  # its anchors come first: whatever they say, the records say already
                other = f"{name.removesuffix('.ledger')}.anchors"
                anchors[other] = MemoryLines(read_lines(self.path / other))
            return MemoryLines(read_lines(self.path / name))

        return AgentJournal(remembered, self.identity, now)

    def set_pause(self, paused: bool) -> bool:
        """Pause the agent, or let it go on, and say whether that changed anything; it holds when this returns.

        Raises:
            InputError: it cannot be done.
            AuditBroken: it holds, and the account that should say so is not what was written here.
        """
        changed = self.pause.set(paused)
        with suppress(InUse):  # the agent that is running looks before it answers, and writes it down then
            self.note_pause()
        return changed

    def note_pause(self) -> None:
        """Bring the account up to date about the owner's pause.

        Raises:
            InUse: an agent is running, which does it itself.
            AuditBroken: the account is not what was written here.
        """
        lines = FileLines(self.path / AUDIT)
        try:
            self.pause.noted_in(AuditLog(lines, time.time))
        finally:
            lines.close()

    def account_lines(self) -> list[bytes]:
        """Return the lines of the account, whether an agent runs or not."""
        return read_lines(self.path / AUDIT)

    def ledgers(self) -> list[tuple[str, Unit]]:
        """Return the data sets and units that there is a ledger of, in order; those of removed data sets too."""
        return list_ledgers(self.path)

    def ledger(self, dataset: str, unit: Unit) -> Verified:
        """Return a ledger, checked, whether an agent runs or not; see `read_ledger`."""
        return read_ledger(self.path, dataset, unit, self.identity.public_key)

    def add_data(self, name: str, added: DataSet, environ: Mapping[str, str]) -> AgentDirectory:
        """Put a data set, or another source under its name, into the register and the account.

        Raises:
            InUse: an agent is running, and would not notice.
            InputError: see `Register.with_added`; nothing was changed.
        """
        added = added.model_copy(update={"source": absolute(added.source, Path.cwd())})
        scheme = added.source.partition(":")[0]
        return self._registered(
            lambda register: register.with_added(name, added, environ), "data-added", data=name, scheme=scheme
        )

    def remove_data(self, name: str) -> AgentDirectory:
        """Take a data set out of the register; its ledger stays.

        Raises:
            InUse: an agent is running, and would not notice.
            InputError: there is none of that name; nothing was changed.
        """
        return self._registered(lambda register: register.without(name), "data-removed", data=name)

    def write_policy(self, text: str) -> AgentDirectory:
        """Replace the policy's file.

        Raises:
            InputError: the text is no policy, or cannot be written; nothing was changed.
        """
        policy = parse_policy(text, where=POLICY)
        self._write(POLICY, text)
        return replace(self, policy=policy)

    def policy_text(self) -> str:
        """Return the text of the policy's file."""
        return _text(self.path / POLICY)

    @property
    def policy_sha256(self) -> str:
        """Return the hash of the policy's file, by which the account names what an agent has read."""
        return hashlib.sha256(self.policy_text().encode()).hexdigest()

    def policy_in_force(self, account: Iterable[Noted]) -> bool:
        """Say whether an agent that runs goes by the policy as it is now; it reads it when it is started."""
        read = [entry.details.get("sha256") for entry in account if entry.kind == "policy-read"]
        return not read or read[-1] == self.policy_sha256

    def _registered(self, change: Callable[[Register], Register], kind: str, **details: str) -> AgentDirectory:
        lines = FileLines(self.path / AUDIT)
        try:
            # Read again now that nobody else can write it: another command may have done so since it was opened.
            path = self.path / REGISTER
            register = change(parse_register(_text(path), where=str(path)))
            AuditLog(lines, time.time).append(kind, **details)
            self._write(REGISTER, register.to_toml())
        finally:
            lines.close()
        return replace(self, register=register)

    def _write(self, name: str, text: str) -> None:
        try:
            write_file(self.path / name, text.encode(), private=True)
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", where=str(self.path / name)) from None


def init(path: Path, name: str, randomness: Randomness = _SYSTEM) -> AgentDirectory:
    """Make an agent's directory, all of it or nothing: a new key, and a policy that refuses everything.

    Args:
        path: a new or an empty directory.
        name: the agent's name.
        randomness: where the key comes from.

    Raises:
        InputError: there is something at `path`, it cannot be made, or the name cannot be one.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise InputError(f"{name[:64]!r} is no name", where="--name", right=str(error)) from None
    files = {
        KEY: randomness.key("identity", "agent"),
        POLICY: default_policy_toml().encode(),
        SETTINGS: default_settings_toml(name).encode(),
        REGISTER: Register().to_toml().encode(),
    }
    try:
        write_directory(path, files, private=True)
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror})", where=str(path)) from None
    return AgentDirectory.open(path)


def _text(path: Path) -> str:
    """Return the text of a file that nobody else may read or write."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        what = {errno.ENOENT: "is missing", errno.ELOOP: "is a link"}.get(error.errno or 0)
        raise InputError(what or f"cannot be read ({error.strerror})", where=str(path)) from None
    try:
        check_private(os.fstat(file), path, stat.S_ISREG, "plain file", "600")
        with os.fdopen(file, "rb", closefd=False) as opened:
            content = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    finally:
        os.close(file)
    if len(content) > LARGEST_FILE:
        raise InputError("is larger than an owner writes", where=str(path), right="less than a megabyte")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=str(path), right="a TOML file") from None
