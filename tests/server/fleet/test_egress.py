"""Coordinator and agent speak to each other and to nobody else, in whatever environment they are started."""

import json
import os
import subprocess
import sys

WATCHED = """
import json, os, socket, sys, threading

seen = []

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        seen.append(str(arguments[0]))
    elif event in ("socket.connect", "socket.sendto") and arguments[0].family != socket.AF_UNIX:
        seen.append(str(arguments[1][0]))
    elif event in ("subprocess.Popen", "os.posix_spawn", "os.system"):
        seen.append(f"process {arguments[0]}")

sys.addaudithook(watch)

from tacit.client.connection import Address, Connection
from tacit.client.fleet import Resident
from tacit.models.messages import Instruction, Reply
from tacit.privacy.identity import Identity
from tacit.server.rounds import Request
from tacit.server.superlink import SuperLink


class Agent:
    def handle(self, instruction):
        return Reply(message=b"done")


identity = Identity(os.urandom(32))
with SuperLink() as link, link.grid() as grid:
    link.admit(identity.public_key, "clinic")
    transport = link.transport(grid)
    resident = Resident(lambda: Connection(Address("127.0.0.1", link.address[1]), identity), Agent())
    thread = threading.Thread(target=resident.run)
    thread.start()
    while not transport.clients():
        grid.wait(0.01)
    transport.send([Request("clinic", Instruction("train", "run", 1, 0, b"plan"))])
    (arrival,) = transport.arrivals(transport.now() + 60)
    resident.stop()
    thread.join()
print(json.dumps({"seen": sorted(set(seen)), "answered": arrival.reply.message.decode()}))
"""


PROXIES = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://192.0.2.1:1")


def test_a_coordinator_and_an_agent_reach_for_nothing_but_the_loopback() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")} | PROXIES
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"seen": ["127.0.0.1"], "answered": "done"}
    assert done.stderr == ""
