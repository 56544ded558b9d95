"""Processes that are started again whenever they end, as a service manager with `Restart=always` does.

The manager is a process of its own. It imports what Tacit's commands need once and forks for each of them, so that one
that was killed is back in a moment on any machine, and can be killed again; from then on the command is as any other.

It reads one JSON object a line and writes one for each process that starts or ends; when its input ends, so does all.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PAUSE_SECONDS = 0.5  # between the end of a process and the next start
LOOK_SECONDS = 0.05
STOP_SECONDS = 150.0


class Supervisor:
    """The manager's handle in a test; use it as a context.

    Args:
        folder: where everything runs and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.starts: Counter[str] = Counter()
        self.codes: defaultdict[str, list[int]] = defaultdict(list)  # of processes that nobody had killed
        self._folder = folder
        self._running: set[str] = set()
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self._thread = threading.Thread(target=self._listen, name="supervisor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(2 * STOP_SECONDS)
        self._thread.join(5)
        self._process.stdout.close()

    def keep_up(self, name: str, *words: str) -> None:
        """Start a command of Tacit's, and start it again whenever it ends."""
        self._say(do="keep", name=name, words=words, folder=str(self._folder))
        self._wait(lambda: self.starts[name] > 0, 300.0)

    def kill(self, name: str) -> None:
        """Send SIGKILL to a process, if it runs now."""
        self._say(do="kill", name=name)

    def stop(self, name: str) -> int:
        """Send SIGTERM to a process, keep it up no longer, and return its exit code."""
        before = len(self.codes[name])
        self._say(do="stop", name=name)
        self._wait(lambda: name not in self._running and len(self.codes[name]) > before, STOP_SECONDS)
        return self.codes[name][-1]

    def log(self, name: str) -> str:
        """Return what a command has said, in all its lives."""
        path = self._folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _say(self, **what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            name, code = json.loads(line)
            with self._changed:
                if code is None:
                    self.starts[name] += 1
                    self._running.add(name)
                else:
                    self._running.discard(name)
                    if code != -signal.SIGKILL:
                        self.codes[name].append(code)
                self._changed.notify_all()

    def _wait(self, what: Callable[[], bool], seconds: float) -> None:
        with self._changed:
            if not self._changed.wait_for(what, seconds):
                raise TimeoutError("the supervisor did not do in time what it was told")


def until(what: Callable[[], bool], seconds: float, awaited: str) -> None:
    """Return as soon as something is so.

    Raises:
        TimeoutError: it is not so in time.
    """
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{awaited}: not within {seconds:g} s")
        time.sleep(0.1)


@dataclass
class _Service:
    name: str
    words: Sequence[str]
    folder: Path
    process: int = 0
    ended_at: float = -PAUSE_SECONDS
    wanted: bool = True

    def tend(self) -> None:
        """Note an end, and start the next process when the pause is over."""
        if self.process:
            ended, status = os.waitpid(self.process, os.WNOHANG)
            if not ended:
                return
            self.process, self.ended_at = 0, time.monotonic()
            _tell(self.name, os.waitstatus_to_exitcode(status))
        if self.wanted and time.monotonic() - self.ended_at >= PAUSE_SECONDS:
            self.process = os.fork()
            if self.process == 0:
                self._be()
            _tell(self.name, None)

    def signal(self, number: int) -> None:
        """Send a signal, if there is a process to get it."""
        if self.process:
            os.kill(self.process, number)

    def _be(self) -> None:
        """Be the service, in a process of its own."""
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.chdir(self.folder)
            log = os.open(f"{self.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            null = os.open(os.devnull, os.O_RDONLY)
            for target, source in ((0, null), (1, log), (2, log)):
                os.dup2(source, target)
            os.closerange(3, 1024)
            logging.getLogger().handlers.clear()  # what was imported has made some; a command sets up its own
            from tacit.__main__ import run

            code = run(self.words)
        except BaseException:  # noqa: BLE001 - the log is all that is left of it
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _tell(name: str, code: int | None) -> None:
    print(json.dumps([name, code]), flush=True)


def main() -> None:
    """Do what standard input says until it ends."""
    import tacit.client.cli.start
    import tacit.client.member
    import tacit.server.cli.up
    import tacit.server.enrolment_routes
    import tacit.server.federation
    import tacit.server.superlink  # noqa: F401

    services: dict[str, _Service] = {}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever tests is told, and says so here
    said = b""
    while True:
        if select.select([0], [], [], LOOK_SECONDS)[0]:
            piece = os.read(0, 1 << 16)
            if not piece:
                break
            *lines, said = (said + piece).split(b"\n")
            for line in lines:
                values = json.loads(line)
                name, do = values["name"], values.pop("do")
                if do == "keep":
                    services[name] = _Service(**{**values, "folder": Path(values["folder"])})
                elif do == "kill":
                    services[name].signal(signal.SIGKILL)
                else:
                    services[name].wanted = False
                    services[name].signal(signal.SIGTERM)
        for service in services.values():
            service.tend()
    for service in reversed(services.values()):  # whoever needs another one was started after it
        service.wanted = False
        service.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS / 2
        while service.process:
            service.tend()
            if time.monotonic() > deadline:
                service.signal(signal.SIGKILL)
            time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
