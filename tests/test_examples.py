"""Every example in the documents runs, in the order of its document and in a directory of its own.

A comment before a block says what becomes of it: `run`, `run with TACIT_DATA` (where that is set), `run in the
background until "TEXT"` is printed, `file: NAME`, or `not run: REASON`. A block of a shell or of Python without one is
an error.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from .free_port import free_port  # noqa: TID252 - tests are no package that could be named

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"(?:^<!-- (?P<mark>.*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 1200  # for one example, which hangs if it takes longer
PORT = "8100"  # what the documents use; examples run on a free one


@dataclass(frozen=True)
class Example:
    """One block of a document."""

    mark: str
    language: str
    text: str
    line: int


def examples(document: Path) -> list[Example]:
    text = document.read_text(encoding="utf-8")
    return [
        Example(found["mark"] or "", found["language"], found["text"], text.count("\n", 0, found.start("text")))
        for found in BLOCK.finditer(text)
    ]


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


RUN = [document for document in DOCUMENTS if any(one.mark.startswith("run") for one in examples(document))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_every_example_says_whether_it_is_run(document: Path) -> None:
    for one in examples(document):
        if one.language in ("sh", "python"):
            assert re.match(r"(run|not run|file: )", one.mark), f"line {one.line}"
        assert one.language, f"line {one.line} has a block without a language"


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_every_example_can_be_parsed(document: Path) -> None:
    for one in examples(document):
        if one.language == "python":
            compile(one.text, f"{document.name}:{one.line}", "exec")
        if one.language == "sh":
            subprocess.run(["bash", "-n"], input=one.text, text=True, check=True, timeout=30)


@dataclass
class Session:
    """What a reader does who follows a document: one directory, and a service that runs until the end."""

    home: Path
    port: str
    running: ExitStack

    def environment(self) -> dict[str, str]:
        dropped = ("PYTHONPATH", "TACIT_API_KEY", "TACIT_DB")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return kept | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def do(self, one: Example, where: str) -> None:
        text = one.text.replace(PORT, self.port)
        if one.mark.startswith("file: "):
            (self.home / one.mark.removeprefix("file: ")).write_text(text)
        elif one.mark.startswith("run in the background"):
            self.start(text, one.mark.partition('"')[2].rstrip('"'))
        else:
            self.run(one.language, text, where)

    def run(self, language: str, text: str, where: str) -> None:
        script = self.home / f".example.{language}"
        script.write_text(text if language == "python" else f"set -euo pipefail\n{text}")
        command = [sys.executable if language == "python" else "bash", str(script)]
        done = subprocess.run(
            command, cwd=self.home, env=self.environment(), capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, f"{where}: {done.stdout}\n{done.stderr}"

    def start(self, text: str, phrase: str) -> None:
        log = self.home / ".background"
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {text}"], cwd=self.home, env=self.environment(), stdout=output, stderr=output
            )
        self.running.callback(end, process)
        deadline = time.monotonic() + SECONDS
        while phrase not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


def end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with ExitStack() as running:
        yield Session(tmp_path, str(free_port()), running)


@pytest.mark.slow
@pytest.mark.parametrize("document", RUN, ids=ids)
def test_the_examples_of_a_document_run(document: Path, session: Session) -> None:
    for one in examples(document):
        with_data = one.mark == "run with TACIT_DATA"
        if one.mark.startswith(("run", "file: ")) and (not with_data or "TACIT_DATA" in os.environ):
            session.do(one, f"{ids(document)}, line {one.line}")
