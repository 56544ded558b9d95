"""A whole round with a public seed, byte for byte: another version of the protocol needs another label.

The digests were made by this implementation when its format was fixed. They hold on every machine and Python version;
if one changes, members of two versions could no longer take part in one round, and labels must count up from
`tacit/secagg/1/`.
"""

import json
from hashlib import sha256
from pathlib import Path

from tacit.privacy.secagg.layout import Block, Layout, WideBlock
from tacit.privacy.secagg.progress import Phase

FROZEN = Path(__file__).parents[2] / "vectors" / "secure_aggregation_round.json"


def digests_of_a_round(scene, graph, size, dropout):
    layout = Layout((Block("update", 5, 1.5, 100.3, True), Block("weight", 1, 50.0, 2.0), WideBlock("sums", 2, 30, 10)))
    here = scene(size, colluders=1, dropout=dropout, graph=graph, layout=layout, round=3, attempt=2)
    seen = {}
    while here.server.phase is not Phase.DONE:
        phase = here.server.phase
        hashed = sha256()
        for name in sorted(here.server.waiting):
            if name == "m0002" and phase is Phase.MASK:
                continue
            if phase is Phase.MASK:
                here.give(name)
            request = here.server.request(name)
            reply = here.clients[name].receive(request)
            here.server.receive(name, reply.message, reply.vector)
            hashed.update(request + reply.message + (b"" if reply.vector is None else reply.vector.tobytes()))
        seen[phase.name.lower()] = hashed.hexdigest()
        here.server.close_phase()
    seen["receipts"] = sha256(b"".join(here.server.receipts().values())).hexdigest()
    seen["sum"] = here.server.result().integers.tolist()
    return seen


def test_a_seeded_round_on_the_complete_graph_is_what_it_was(scene):
    assert digests_of_a_round(scene, "complete", 7, 0.15) == json.loads(FROZEN.read_text())["complete"]


def test_a_seeded_round_on_the_regular_graph_is_what_it_was(scene):
    assert digests_of_a_round(scene, "regular", 40, 0.05) == json.loads(FROZEN.read_text())["regular"]
