"""What is shipped, what is imported, and that a checkout which cannot be shipped says so."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PARTS = ("client", "models", "privacy", "server", "simulations")
SHIPPED = {".css", ".html", ".js", ".mako", ".py", ".toml"}
LEFT_AT_HOME = {"__pycache__", ".mypy_cache", ".ruff_cache"}


def python(code: str, *arguments: str) -> str:
    """Run Python code in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources() -> Iterator[Path]:
    """Yield every file of the package, by its real path."""
    for part in PARTS:
        for path in (ROOT / part).rglob("*"):
            if path.is_file() and not LEFT_AT_HOME & set(path.parts):
                yield path


@pytest.mark.parametrize("part", PARTS)
def test_the_link_to_a_part_is_there_and_leads_to_it(part: str) -> None:
    link = ROOT / "src" / "tacit" / part
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{part}"
    assert link.resolve() == ROOT / part
    assert (link / "__init__.py").is_file()


def test_no_part_can_be_imported_by_its_bare_name() -> None:
    code = f"import importlib.util as u; print([name for name in {PARTS!r} if u.find_spec(name)])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"


def test_every_kind_of_file_in_the_parts_is_shipped() -> None:
    kinds = {path.suffix for path in sources()}
    assert kinds <= SHIPPED
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    assert {f"*{kind}" for kind in SHIPPED - {".py"}} | {"py.typed"} == set(declared)


def test_every_folder_with_files_is_a_package_or_data_of_one() -> None:
    for path in sources():
        if path.suffix == ".py":
            assert (path.parent / "__init__.py").is_file(), f"{path.parent.relative_to(ROOT)} would not be in the wheel"


def checkout(folder: Path) -> Path:
    """Copy what a build needs, links as links."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*PARTS, "src"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def build(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder / "dist"),
        str(folder),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def test_a_wheel_is_not_built_without_the_parts(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    shutil.rmtree(folder / "privacy")
    (folder / "src/tacit/server").unlink()
    done = build(folder)
    assert done.returncode != 0
    assert "the links privacy, server lead nowhere" in done.stdout + done.stderr
    assert "core.symlinks" in done.stdout + done.stderr
    assert not list(folder.glob("dist/*.whl"))


def test_links_that_were_checked_out_as_text_files_are_no_links(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    link = folder / "src/tacit/models"
    link.unlink()
    link.write_text("../../models")  # what git writes where core.symlinks is false
    done = build(folder)
    assert done.returncode != 0
    assert "the links models lead nowhere" in done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_parts_and_a_recipe_of_it_can_be_read(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    expected = {f"tacit/{path.relative_to(ROOT).as_posix()}" for path in sources()}
    assert {"tacit/__init__.py", "tacit/__main__.py", "tacit/py.typed"} | expected <= names
    assert any(name.startswith("tacit/server/store/migrations/versions/v") for name in names)
    others = {name for name in names if not name.startswith("tacit/") and ".dist-info/" not in name}
    assert others == set()

    code = (
        "import tacit, json; from tacit.models.recipe import read_recipe; from importlib.resources import files;"
        "from tacit.server.store import open_store; open_store('tacit.db').close();"
        "print(json.dumps([tacit.__file__, read_recipe('demo', bundled=files('tacit.simulations.recipes')).name]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [str(tmp_path / "installed/tacit/__init__.py"), "demo"]


LOADED = "import sys, json; from tacit.__main__ import run; code = run(sys.argv[1:]); print(); print(json.dumps([code, sorted({m.split('.')[0] for m in sys.modules})]))"  # noqa: E501


def loaded_by(*arguments: str) -> set[str]:
    """Return the top-level modules that a process has loaded after one successful command."""
    code, modules = json.loads(python(LOADED, *arguments).splitlines()[-1])
    assert code == 0
    return set(modules)


HEAVY = {
    "alembic",
    "dp_accounting",
    "fastapi",
    "flwr",
    "matplotlib",
    "numpy",
    "pydantic",
    "sklearn",
    "sqlalchemy",
    "torch",
}


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        (("--help",), set()),
        (("--version",), set()),
        (("simulate", "--help"), set()),
        (("agent", "--help"), set()),
        (("agent", "policy", "--help"), set()),
        (("agent", "init", "--help"), set()),
        (("agent", "data", "add", "--help"), set()),
        (("agent", "outbox", "--help"), set()),
        (("predict", "--help"), {"numpy", "pydantic"}),
        (("model", "list", "--help"), {"alembic", "sqlalchemy"}),
        (("runs", "list", "--help"), {"alembic", "sqlalchemy"}),
        (("serve", "--help"), {"alembic", "sqlalchemy"}),
        (("serve", "keys", "create", "--help"), {"alembic", "sqlalchemy"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_loads_only_what_it_uses(command: tuple[str, ...], allowed: set[str]) -> None:
    assert loaded_by(*command) & HEAVY <= allowed


def test_importing_the_packages_is_light() -> None:
    code = "import sys, json; {}; print(json.dumps(sorted(sys.modules)))"
    imports = "; ".join(f"import tacit.{part}" for part in PARTS)
    loaded = {name.split(".")[0] for name in json.loads(python(code.format(imports)))}
    assert not loaded & HEAVY


def test_an_owner_looks_at_an_agents_directory_without_pytorch() -> None:
    python("import sys, tacit.client.directory; assert not {'torch', 'flwr'} & set(sys.modules)")


def test_the_notebook_function_is_there_and_stays_the_function() -> None:
    python(
        "import sys, tacit.simulations; assert 'torch' not in sys.modules;"
        "from tacit.simulations import simulate; from tacit.simulations import simulate as again;"
        "assert simulate is again and simulate.__name__ == 'simulate' and 'torch' in sys.modules"
    )


def declared() -> dict[str, set[str]]:
    """Return what users install, by distribution: what it is declared in, and what those distributions declare."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [extra for name, extra in project["optional-dependencies"].items() if name != "dev"]
    names = {Requirement(text).name for text in (*project["dependencies"], *sum(extras, []))} - {"tacit"}
    return {name: {Requirement(text).name.lower() for text in requires(name) or ()} for name in names}


def test_everything_that_is_imported_is_declared() -> None:
    direct = declared()
    known = {name.lower() for name in direct} | {name for names in direct.values() for name in names}
    distributions = packages_distributions()
    for path in (*sources(), *(ROOT / "src/tacit").glob("*.py")):
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else modules
            for module in modules:
                top = module.partition(".")[0]
                if top in sys.stdlib_module_names or top == "tacit":
                    continue
                found = {name.lower().replace("_", "-") for name in distributions[top]}
                assert found & {name.replace("_", "-") for name in known}, f"{path.name} imports {top}"


def test_every_declared_distribution_has_an_exact_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if line and not line.startswith("#")}
    assert {name.lower().replace("_", "-") for name in declared()} <= pinned
