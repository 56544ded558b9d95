"""The demonstration: train a small federation, serve its model, and ask it for one prediction over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from tacit.models.data import open_source
from tacit.simulations.cli.progress import Progress
from tacit.simulations.cli.simulate import aggregation_line, privacy_line
from tacit.simulations.simulation import Simulation, simulate

BARS = "▁▂▃▄▅▆▇█"
START_SECONDS = 30


def main() -> None:
    """Run the demonstration; anything that does not work ends it with an error."""
    print(
        "1. Train: 50 clients keep their handwritten digits; the coordinator sees masked, noised sums of updates.\n",
        flush=True,
    )
    started = time.perf_counter()
    with Progress(quiet=False) as progress:
        finished = simulate("demo", on_start=progress.start, on_round=progress.round)
    seconds = time.perf_counter() - started
    # The same sums, to the last bit, as with masks.
    without = simulate("demo", ["name=demo-without-noise", "privacy.unit=none", "secure_aggregation.mode=elided"])
    _describe(finished, seconds, without)
    print("\n2. Serve: the registered model answers on a free port of this machine, without keys, to nobody else.\n")
    model = finished.summary["model"]
    with _Service() as service:
        image, label = _digit()
        answer = service.predict(model["name"], image)
        print(f"   POST {service.url}/api/v1/models/{model['name']}/predict")
        print(f"   the picture shows a {label}; the model says {answer['label']} (score {answer['score']:.2f})")
    print(
        f"""
3. Go on:
   look at the report       {finished.report}
   change something         tacit simulate demo --set population.alpha=0.1 --set training.rounds=40
   compare runs             tacit runs list
   what was promised        tacit privacy show {finished.directory.name}
   serve the model          tacit serve --insecure-no-auth
(tacit is {Path(sys.executable).parent / "tacit"})"""
    )


def _describe(finished: Simulation, seconds: float, without: Simulation) -> None:
    curve = [float(round_["validation_accuracy"]) for round_ in finished.rounds if "validation_accuracy" in round_]
    low, high = min(curve), max(curve)
    line = "".join(BARS[round((value - low) / ((high - low) or 1) * (len(BARS) - 1))] for value in curve)
    privacy, aggregation = finished.summary["privacy"], finished.summary["secure_aggregation"]
    print(f"\n   accuracy by round   {line}  {curve[0]:.2f} to {curve[-1]:.2f} on the validation share")
    print(f"   test accuracy       {finished.metrics['accuracy']:.4f}")
    print(f"   without any noise   {without.metrics['accuracy']:.4f}, and no promise to anybody")
    print(f"   privacy             {privacy_line(privacy)}")
    print(f"   aggregation         {aggregation_line(aggregation)}")
    print(f"   time                {seconds:.1f} s, {finished.summary['timing']['seconds_per_round']:.3f} s a round")
    print(f"   report              {finished.report}")


def _digit() -> tuple[np.ndarray, str]:
    source = open_source("sklearn:digits", task="image-classification", environ={})
    (column,) = source.schema.columns
    return source.train.columns[column.name][0], source.schema.classes[int(source.train.labels[0])]


class _Service:
    """`tacit serve` in a process of its own, for as long as the block lasts."""

    def __init__(self) -> None:
        self.url = ""

    def __enter__(self) -> _Service:
        command = [sys.executable, "-m", "tacit", "serve", "--port", "0", "--insecure-no-auth"]
        self._process = subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
        )
        deadline = time.monotonic() + START_SECONDS
        while self._process.stdout is not None and time.monotonic() < deadline:
            line = self._process.stdout.readline()
            if not line:
                break
            if line.startswith("listening on "):
                self.url = line.split()[-1]
                return self
            print(f"   {line.rstrip()}")
        self._process.kill()
        raise RuntimeError("the service did not start")

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def predict(self, model: str, image: np.ndarray) -> dict[str, Any]:
        """Send one picture and return the model's answer."""
        body = json.dumps({"inputs": [{"image": image.tolist()}]}).encode()
        request = urllib.request.Request(  # noqa: S310 - the address is our own service's
            f"{self.url}/api/v1/models/{model}/predict", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310
            answers = json.load(reply)
        predictions = answers["predictions"] if isinstance(answers, dict) else answers
        first: dict[str, Any] = predictions[0]
        return first


if __name__ == "__main__":
    main()
