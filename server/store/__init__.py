"""State in SQLAlchemy; the only SQL of the project.

`open_store` gives a `Store`; what goes in and comes out are the frozen records of `tacit.server.store.records`.
"""

from tacit.server.store.errors import EnrolmentConflict, LedgerConflict, RoundAlreadyCommitted, StoreUnavailable
from tacit.server.store.opening import open_store
from tacit.server.store.records import (
    AliasChange,
    AuditEntry,
    CheckpointRef,
    ClientRecord,
    ClientState,
    Figures,
    InvitationRecord,
    KeyRecord,
    LedgerLine,
    ModelSummary,
    ModelVersion,
    NewClient,
    NewInvitation,
    NewKey,
    NewModelVersion,
    NewRun,
    Participation,
    RoundRecord,
    RunRecord,
)
from tacit.server.store.store import Store

__all__ = [
    "AliasChange",
    "AuditEntry",
    "CheckpointRef",
    "ClientRecord",
    "ClientState",
    "EnrolmentConflict",
    "Figures",
    "InvitationRecord",
    "KeyRecord",
    "LedgerConflict",
    "LedgerLine",
    "ModelSummary",
    "ModelVersion",
    "NewClient",
    "NewInvitation",
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
