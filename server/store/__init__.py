"""State in SQLAlchemy; the only SQL of the project.

`open_store` gives a `Store`; what goes in and comes out are the frozen records of `tacit.server.store.records`.
"""

from tacit.server.store.errors import LedgerConflict, RoundAlreadyCommitted, StoreUnavailable
from tacit.server.store.records import (
    AliasChange,
    AuditEntry,
    CheckpointRef,
    KeyRecord,
    LedgerLine,
    ModelSummary,
    ModelVersion,
    NewKey,
    NewModelVersion,
    NewRun,
    Participation,
    RoundRecord,
    RunRecord,
)
from tacit.server.store.store import Store, open_store

__all__ = [
    "AliasChange",
    "AuditEntry",
    "CheckpointRef",
    "KeyRecord",
    "LedgerConflict",
    "LedgerLine",
    "ModelSummary",
    "ModelVersion",
    "NewKey",
    "NewModelVersion",
    "NewRun",
    "Participation",
    "RoundAlreadyCommitted",
    "RoundRecord",
    "RunRecord",
    "Store",
    "StoreUnavailable",
    "open_store",
]
