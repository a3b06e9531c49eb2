"""What the wheel holds, and that it works where there is no checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=ROOT, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (built,) = folder.glob("cortex_deploy-*.whl")
    return built


def test_wheel_holds_the_four_packages_and_the_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {entry for entry in top if not entry.endswith(".dist-info")} == {
        "cortex", "cortex_operator", "cortex_core", "cortex_serve",
    }  # fmt: skip
    for package in ("cortex", "cortex_operator", "cortex_core", "cortex_serve"):
        assert f"{package}/py.typed" in names
    for folder in ("schemas", "configs"):
        shipped = {p.relative_to(ROOT / folder).as_posix() for p in (ROOT / folder).rglob("*") if p.is_file()}
        inside = f"cortex_core/data/{folder}/"
        assert shipped
        assert {name.removeprefix(inside) for name in names if name.startswith(inside)} == shipped


def test_installed_wheel_validates_and_writes_a_project(wheel: Path, tmp_path: Path) -> None:
    """Without a checkout, in a plain folder: data files are found inside the wheel."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = "from cortex.main import main; main()"
    environ = {"PYTHONPATH": str(site), "CORTEX_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    for words in (["init", "project"], ["validate", "project/cortex.yaml"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_nothing_of_ours_takes_a_name_that_a_handler_project_may_use(tmp_path: Path) -> None:
    names = ["cli", "serve", "configs", "schemas", "images", "examples", "tests", "benchmarks", "support"]
    program = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30
    )
    assert found.stdout.strip() == "[]"
