"""What an installed copy contains."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Names of the files in a wheel built from the tree as it is."""
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    unwanted = shutil.ignore_patterns(".*", "tests", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=unwanted)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_no_source_file_is_forgotten(shipped):
    for folder, installed in (
        ("mda_jax", "mda_jax"),
        ("converters", "mda_jax/converters"),
    ):
        for file in (ROOT / folder).rglob("*.py"):
            assert f"{installed}/{file.relative_to(ROOT / folder)}" in shipped


def test_the_benchmark_is_shipped_and_small(shipped):
    weights = ROOT / "mda_jax/glyphs/weights"
    files = sorted(weights.glob("*"))
    assert {f"mda_jax/glyphs/weights/{file.name}" for file in files} <= shipped
    assert "mda_jax/glyphs/alphabets.json" in shipped
    assert sum(file.stat().st_size for file in files) <= 40e6


def test_type_information_is_shipped(shipped):
    assert "mda_jax/py.typed" in shipped


def test_nothing_is_installed_under_a_foreign_name(shipped):
    tops = {name.split("/")[0] for name in shipped}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mda_jax"}
