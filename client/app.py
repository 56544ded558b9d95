"""The Flower ClientApp: carries instructions to an agent and its replies back, and does nothing else."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from tacit.client.agent import Agent
from tacit.client.holdings import SourceHoldings
from tacit.client.training import Workbench
from tacit.models.errors import InputError
from tacit.models.messages import ELIDED_ACTIONS, MASKED_ACTIONS, RECEIPT_ACTION, Instruction, Reply

_LOG = logging.getLogger(__name__)

DTYPES = frozenset({"float32", "float16", "int8"})  # of the vectors that a coordinator sends


def answer(message: Message, context: Context, agent_of: Callable[[Context], Agent]) -> Message:
    """Carry one message to the agent of a context and return its answer."""
    reply = agent_of(context).handle(instruction_from(message))
    return Message(reply_records(reply), reply_to=message)


def instruction_from(message: Message) -> Instruction:
    """Read an instruction from Flower's records.

    Raises:
        ValueError: the records are not those of an instruction.
    """
    try:
        # Not through `config_records` and `array_records`, whose cycles of references keep the message in memory.
        config, vectors = message.content["instruction"], message.content["arrays"]
        if not isinstance(config, ConfigRecord) or not isinstance(vectors, ArrayRecord):
            raise TypeError("records of another kind")
        header = json.loads(_bytes(config["header"]))
        return Instruction(
            action=str(header["action"]),
            run=str(header["run"]),
            round=int(header["round"]),
            attempt=int(header["attempt"]),
            plan=_bytes(config["plan"]),
            body=dict(header["body"]),
            arrays={name: _unpack(array) for name, array in vectors.items()},
            message=_bytes(config["message"]),
            receipt=_bytes(config["receipt"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"the instruction cannot be read ({type(error).__name__})") from None


def reply_records(reply: Reply) -> RecordDict:
    """Write a reply as Flower's records."""
    header = json.dumps({"outcome": reply.outcome, "reason": reply.reason, "body": dict(reply.body)})
    arrays = ArrayRecord()
    for name, vector in reply.arrays.items():
        arrays[name] = _pack(vector)
    config = ConfigRecord({"header": header.encode(), "message": reply.message})
    return RecordDict({"reply": config, "arrays": arrays})


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value


def _pack(vector: np.ndarray) -> Array:
    return Array(str(vector.dtype), tuple(vector.shape), "tacit.raw", vector.tobytes())


def _unpack(array: Array) -> np.ndarray:
    if array.dtype not in DTYPES:  # numpy reads far more into a type's name, some of it as an expression
        raise ValueError("unknown type")
    return np.frombuffer(array.data, dtype=array.dtype).reshape(array.shape)


_STOCK_BENCH = Workbench()


def _stock_agent(context: Context) -> Agent:
    """Return the agent of a stock SuperNode, whose `--node-config` names its data."""
    source = context.node_config.get("data")
    if not isinstance(source, str):
        raise InputError("the node has no data", where="--node-config", right='give data="csv:FILE"')
    _LOG.warning("NOTHING IS MASKED under stock Flower: the coordinator sees each of this node's updates as it is.")
    name = context.node_config.get("name", f"node-{context.node_id}")
    return Agent(str(name), SourceHoldings(source, os.environ), _STOCK_BENCH)


def build_app(agent_of: Callable[[Context], Agent]) -> ClientApp:
    """Return a ClientApp whose messages go to the agents that `agent_of` names."""
    built = ClientApp()

    def carry(message: Message, context: Context) -> Message:
        return answer(message, context, agent_of)

    # One Flower action a step, so that Flower's own logs and filters tell them apart.
    built.query("prepare")(carry)
    built.train("plain")(carry)
    for action in (*MASKED_ACTIONS, *ELIDED_ACTIONS):
        built.train(action)(carry)
    built.query(RECEIPT_ACTION)(carry)
    return built


app = build_app(_stock_agent)
