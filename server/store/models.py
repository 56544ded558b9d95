"""Models, their immutable versions, and the aliases that move between them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tacit.models.errors import InputError
from tacit.server.store import runs
from tacit.server.store.records import AliasChange, ModelSummary, ModelVersion, NewModelVersion
from tacit.server.store.tables import AliasChangeRow, ModelRow, ModelVersionRow

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ALIAS = re.compile(r"[a-z][a-z0-9-]{0,63}")


def add_version(session: Session, new: NewModelVersion, now: datetime) -> tuple[int, bool]:
    """Return the version of `new` and whether it was added; the same name and digest is the same version."""
    if not _NAME.fullmatch(new.name):
        raise InputError(
            "is no name for a model", where=repr(new.name), right="letters, digits, `.`, `_` and `-`, a letter first"
        )
    if not _DIGEST.fullmatch(new.digest):
        raise InputError("is no digest", where=f"model {new.name}", right="64 hexadecimal digits in lower case")
    if new.run is not None and not runs.exists(session, new.run):
        raise InputError("there is no such run", where=f"run {new.run}", right="create the run before its models")
    model = _locked_model(session, new.name, now)
    same = select(ModelVersionRow.version).where(ModelVersionRow.name == new.name, ModelVersionRow.digest == new.digest)
    if (version := session.scalars(same).one_or_none()) is not None:
        return version, False
    model.versions += 1
    session.add(
        ModelVersionRow(
            name=new.name,
            version=model.versions,
            digest=new.digest,
            run=new.run,
            round=new.round,
            metrics={name: float(value) for name, value in new.metrics.items()},
            details=dict(new.details),
            files=dict(new.files),
            created_at=now,
        )
    )
    session.flush()
    return model.versions, True


def get_version(session: Session, name: str, version: int) -> ModelVersion:
    """Return one version of a model."""
    _known_model(session, name)
    row = session.get(ModelVersionRow, (name, version)) if 0 < version < 2**31 else None
    if row is None:
        raise InputError(
            f"there is no version {version}", where=f"model {name}", right=f"`tacit model show {name}` lists them"
        )
    return _record(row)


def list_models(session: Session) -> list[ModelSummary]:
    """Return every model, by name."""
    aliases: dict[str, dict[str, int]] = defaultdict(dict)
    for change in session.scalars(_current_aliases()):
        aliases[change.name][change.alias] = change.version
    rows = session.scalars(select(ModelRow).order_by(ModelRow.name))
    return [ModelSummary(row.name, row.versions, aliases[row.name], row.created_at) for row in rows]


def list_versions(session: Session, name: str) -> list[ModelVersion]:
    """Return every version of a model, oldest first."""
    _known_model(session, name)
    query = select(ModelVersionRow).where(ModelVersionRow.name == name).order_by(ModelVersionRow.version)
    return [_record(row) for row in session.scalars(query)]


def set_alias(
    session: Session, name: str, alias: str, version: int, actor: str, displaced: str | None, now: datetime
) -> Mapping[str, int]:
    """Point `alias` at `version`, and `displaced` at the version that `alias` pointed at; return what moved."""
    for word in (alias, displaced):
        if word is not None and (not _ALIAS.fullmatch(word) or word == "latest"):
            raise InputError(
                "is no alias",
                where=repr(word),
                right="lower-case letters, digits and `-`, a letter first, not `latest`",
            )
    _known_model(session, name, lock=True)
    get_version(session, name, version)
    before = alias_of(session, name, alias)
    if before == version:
        return {}
    moves = {alias: version}
    if displaced is not None and before is not None:
        moves[displaced] = before
    for word, target in moves.items():
        session.add(AliasChangeRow(name=name, alias=word, version=target, actor=actor, at=now))
    session.flush()
    return moves


def alias_of(session: Session, name: str, alias: str) -> int | None:
    """Return the version that an alias points at, None when it was never set."""
    if not _NAME.fullmatch(name) or not _ALIAS.fullmatch(alias):
        return None
    query = (
        select(AliasChangeRow.version)
        .where(AliasChangeRow.name == name, AliasChangeRow.alias == alias)
        .order_by(AliasChangeRow.number.desc())
        .limit(1)
    )
    return session.scalars(query).one_or_none()


def alias_history(session: Session, name: str) -> list[AliasChange]:
    """Return every move of every alias of a model, oldest first."""
    _known_model(session, name)
    query = select(AliasChangeRow).where(AliasChangeRow.name == name).order_by(AliasChangeRow.number)
    return [AliasChange(row.name, row.alias, row.version, row.actor, row.at) for row in session.scalars(query)]


def _current_aliases() -> Select[AliasChangeRow]:
    newest = select(func.max(AliasChangeRow.number)).group_by(AliasChangeRow.name, AliasChangeRow.alias)
    return select(AliasChangeRow).where(AliasChangeRow.number.in_(newest)).order_by(AliasChangeRow.alias)


def _known_model(session: Session, name: str, *, lock: bool = False) -> ModelRow:
    row = session.get(ModelRow, name, with_for_update=lock) if _NAME.fullmatch(name) else None
    if row is None:
        raise InputError("there is no such model", where=f"model {name!r}", right="`tacit model list` names them")
    return row


def _locked_model(session: Session, name: str, now: datetime) -> ModelRow:
    """Return the model's row, made if need be, locked until the transaction ends."""
    if session.get(ModelRow, name) is None:
        try:
            with session.begin_nested():
                session.add(ModelRow(name=name, versions=0, created_at=now))
        except IntegrityError:
            pass  # Another writer made it in this moment, which is as good.
    return session.get_one(ModelRow, name, with_for_update=True, populate_existing=True)


def _record(row: ModelVersionRow) -> ModelVersion:
    return ModelVersion(
        name=row.name,
        version=row.version,
        digest=row.digest,
        run=row.run,
        round=row.round,
        metrics=row.metrics,
        details=row.details,
        files=row.files,
        created_at=row.created_at,
    )
