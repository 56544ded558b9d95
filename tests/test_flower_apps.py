"""What importing the two Flower apps does and does not do, and what their bundle holds."""

import json
import os
import subprocess
import sys
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_files
from flwr.supercore.object_ref import validate

ROOT = Path(__file__).parents[1]
SWITCHES = ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK")

# Prints which switches were set when Flower was first looked for, what it read, and what else was imported.
IMPORT = """
import importlib, json, os, sys

class Watch:
    seen = None
    def find_spec(self, name, path=None, target=None):
        if name == "flwr" and Watch.seen is None:
            Watch.seen = {name: os.environ.get(name) for name in sys.argv[2:]}

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
import flwr.supercore.telemetry as telemetry
ours = sorted(name for name in sys.modules if name.startswith("tacit."))
print(json.dumps({"seen": Watch.seen, "telemetry": telemetry.FLWR_TELEMETRY_ENABLED, "ours": ours}))
"""


@cache
def imported(module: str) -> dict[str, object]:
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    environment["PYTHONPATH"] = str(ROOT / "src")
    command = [sys.executable, "-c", IMPORT, module, *SWITCHES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "module", ["tacit.client.app", "tacit.server.app", "tacit.server.flower", "tacit.simulations.engine"]
)
def test_flower_finds_its_telemetry_and_update_check_switched_off_when_it_is_imported(module: str) -> None:
    found = imported(module)
    assert found["seen"] == {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    assert found["telemetry"] == "0"


def test_an_agent_imports_no_service_no_store_and_no_simulation() -> None:
    ours = imported("tacit.client.app")["ours"]
    assert isinstance(ours, list)
    assert "tacit.client.agent" in ours
    assert {name.split(".")[1] for name in ours} <= {"client", "models", "privacy"}


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_the_flower_bundle_holds_no_code() -> None:
    # All that lies in a checkout, without what is hidden: an environment has tens of thousands of files.
    checkout = {
        str(path.relative_to(ROOT)): path
        for top in ROOT.iterdir()
        if not top.name.startswith(".")
        for path in [top, *top.rglob("*")]
        if path.is_file()
    }
    assert "privacy/terms.py" in checkout
    built, _ = build_fab_from_files(checkout)
    with zipfile.ZipFile(BytesIO(built)) as bundle:
        assert set(bundle.namelist()) == {"pyproject.toml", "README.md", ".info/CONTENT"}


@pytest.mark.parametrize("app", ["tacit.server.app:app", "tacit.client.app:app"])
def test_flower_finds_both_apps_in_the_installed_package(app: str, tmp_path: Path) -> None:
    assert validate(app, check_module=True, project_dir=tmp_path) == (True, None)
