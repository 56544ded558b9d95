"""A real browser for the tests: Debian's Chromium, headless, driven over a pipe, cut off from all names but ours."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 180.0  # to start, and for whatever it is asked: it hangs if it takes longer
CHROMIUM = shutil.which("chromium")
_AT_THREE_AND_FOUR = """
import fcntl, os, sys
first, second = (fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3])
os.dup2(first, 3)
os.dup2(second, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """One browser with one tab.

    Attributes:
        asked: the address of every request that the tab has made.
        said: what its console has said.
    """

    def __init__(self, profile: Path, *, dark: bool = False, width: int = 1100, height: int = 1400) -> None:
        """Start it."""
        assert CHROMIUM is not None
        self.asked: list[str] = []
        self.said: list[str] = []
        self._number, self._buffer = 0, b""
        read_here, self._to = os.pipe()
        self._from, write_here = os.pipe()
        flags = [
            "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run", "--no-sandbox",
            "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", "--no-proxy-server", "--password-store=basic",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
        ]  # fmt: skip

        launched = [sys.executable, "-c", _AT_THREE_AND_FOUR, str(read_here), str(write_here), CHROMIUM]
        self._process = subprocess.Popen(
            [*launched, *flags, "about:blank"], pass_fds=(read_here, write_here), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_here)
        os.close(write_here)
        self._session = ""
        try:
            self._begin(dark, width, height)
        except BaseException:
            self.close()
            raise

    def _begin(self, dark: bool, width: int, height: int) -> None:
        target = self.order("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.order("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.order(f"{domain}.enable")
        media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.order("Emulation.setEmulatedMedia", features=media)
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """Give the tab another size in pixels."""
        self.order(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def open(self, address: str) -> None:
        """Go to an address."""
        self.order("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """Run a script in the page and return its value."""
        answer = self.order("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a script returns something true."""
        deadline = time.monotonic() + seconds
        while not self._is_true(script):
            assert time.monotonic() < deadline, f"never: {script}\n{self.said}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press a key: Tab or Enter."""
        codes = {"Tab": (9, ""), "Enter": (13, "\r")}
        code, text = codes[key]
        for kind in ("keyDown", "keyUp"):
            self.order(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )  # fmt: skip

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page."""
        height = self.run("document.documentElement.scrollHeight") if whole else None
        if height:
            width = self.run("innerWidth")
            self.resize(width, height)
        path.write_bytes(base64.b64decode(self.order("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """End it, with every process of its own."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def order(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _is_true(self, script: str) -> bool:
        answer = self.order("Runtime.evaluate", expression=script, returnByValue=True)
        return bool(answer["result"].get("value")) and "exceptionDetails" not in answer

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.asked.append(event["params"]["request"]["url"])
            case "Log.entryAdded":
                self.said.append(event["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.said.append(str(event["params"]["exceptionDetails"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], PATIENCE_SECONDS)
            assert ready, "the browser does not answer"
            piece = os.read(self._from, 1 << 20)
            assert piece, "the browser has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found
