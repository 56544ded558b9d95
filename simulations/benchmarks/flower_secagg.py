"""Flower's own secure aggregation on the vectors that Tacit's is measured on, to compare; Tacit never uses it.

Flower's client mod and workflow run unchanged in this process. Only what a transport or a training would do around them
is ours: handing over messages, each in a copy of its own, and returning the vector. That is not counted.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common import recorddict_compat
from flwr.server import ServerConfig, SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from numpy.typing import NDArray

from tacit.simulations.engine import FIRST_NODE, InProcessGrid, server_context, task_identity


class _Proxy(ClientProxy):
    """A node as Flower's strategies see it; it is never talked to through this."""

    def __init__(self, node: int) -> None:
        super().__init__(str(node))
        self.node_id = node

    def get_properties(self, ins: Any, timeout: Any, group_id: Any) -> Any:
        raise NotImplementedError

    get_parameters = fit = evaluate = reconnect = get_properties


class _Members:
    """Every node's app: Flower's mod around a training that returns the node's vector."""

    def __init__(self, vectors: NDArray[np.float32], gone: frozenset[int]) -> None:
        self._vectors = vectors
        self._gone = gone
        self.not_counted = 0.0

    def __call__(self, message: Message, context: Context) -> Message:
        start = time.process_time()
        records: dict[str, Any] = {
            name: ConfigRecord(dict(record)) if isinstance(record, ConfigRecord) else record
            for name, record in message.content.items()
        }
        message.content = RecordDict(records)
        stage = records[RECORD_KEY_CONFIGS][Key.STAGE]
        self.not_counted += time.process_time() - start
        if stage == Stage.COLLECT_MASKED_VECTORS and context.node_id - FIRST_NODE in self._gone:
            raise RuntimeError("drops out")
        return secaggplus_mod(message, context, self._train)

    def _train(self, message: Message, context: Context) -> Message:
        start = time.process_time()
        parameters = ndarrays_to_parameters([self._vectors[context.node_id - FIRST_NODE]])
        result = FitRes(Status(Code.OK, ""), parameters, 1, {})
        reply = Message(recorddict_compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)
        self.not_counted += time.process_time() - start
        return reply


def flower_round(
    vectors: NDArray[np.float32], gone: frozenset[int], threshold: int, clip: float
) -> tuple[float, NDArray[np.float32]]:
    """Return the processor time of all parties of one SecAgg+ round, and the mean that came out.

    Args:
        vectors: one row a member, shape `(members, parameters)`.
        gone: the members whose masked vector never arrives.
        threshold: the shares that recover a secret.
        clip: the range of a parameter.
    """
    members = len(vectors)
    app = _Members(vectors, gone)
    manager = SimpleClientManager()
    for node in range(FIRST_NODE, FIRST_NODE + members):
        manager.register(_Proxy(node))
    blank = ndarrays_to_parameters([np.zeros_like(vectors[0])])
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    with task_identity():
        context = LegacyContext(
            server_context(),
            ServerConfig(num_rounds=1),
            FedAvg(fraction_fit=1.0, min_fit_clients=members, min_available_clients=members),
            manager,
        )
        context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
        context.state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(blank, True)
        workflow = SecAggPlusWorkflow(members, threshold, max_weight=1.0, clipping_range=clip)
        start = time.process_time()
        workflow(InProcessGrid(app, members), context)  # type: ignore[arg-type]
        spent = time.process_time() - start - app.not_counted
    result: Parameters = recorddict_compat.arrayrecord_to_parameters(
        context.state.array_records[MAIN_PARAMS_RECORD], keep_input=True
    )
    return spent, np.asarray(parameters_to_ndarrays(result)[0], dtype=np.float32)
