"""The shape of the repository, checked so that nobody has to recall it."""

import ast
import tomllib
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
LAYERS = (
    "_types _check linalg trees primitives combine methods engine features compression"
    " adaptive training pipeline glyphs cli"
).split()
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
SOURCES = sorted(
    path for root in ("mda_jax", "converters") for path in (ROOT / root).rglob("*.py")
)


def imported(path):
    """Dotted names of what a file imports; `from a import b` counts as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write the import with its full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(dotted):
    """`linalg` of `mda_jax.linalg.polar`; `converters` for itself; else None."""
    first, *rest = dotted.split(".")
    return rest[0] if first == "mda_jax" and rest else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_point_down(path):
    here, *below = path.relative_to(ROOT).with_suffix("").parts
    allowed = {"converters"}
    if here == "mda_jax" and below == ["__init__"]:
        allowed |= set(LAYERS)  # the root re-exports
    elif here == "mda_jax":
        high = ("pipeline", "glyphs", "cli")
        own = LAYERS.index(below[0])
        allowed = {*LAYERS[: own + 1], *(["converters"] if below[0] in high else [])}
    used = {layer(name) for name in imported(path)} - {None}
    root = {"__version__"} if below[:1] == ["cli"] else set()
    assert used <= allowed | root, f"{path} imports {used - allowed}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_private_parts_of_jax_stay_private(path):
    assert not any(name.startswith("jax._src") for name in imported(path))


def test_top_level_is_what_the_readme_promises():
    allowed = {"pyproject.toml", "mda_jax", "converters", "tests", "notebooks"}
    allowed |= {"README.md", "LICENSE", "CHANGELOG.md"}
    built = {"mda_jax.egg-info", "build", "dist"}  # ignored by git
    seen = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")} - built
    assert seen == allowed, seen ^ allowed


def test_every_method_has_its_test():
    for file in (ROOT / "mda_jax/methods").glob("_[a-z]*.py"):
        test = ROOT / f"tests/methods/test{file.stem}.py"
        assert test.exists(), f"write {test}"


def test_every_package_is_installed():
    listed = set(PACKAGES["packages"])
    folders = {path.parent.relative_to(ROOT) for path in SOURCES}
    names = {".".join(folder.parts) for folder in folders}
    found = {n if n.startswith("mda_jax") else f"mda_jax.{n}" for n in names}
    assert listed == found, listed ^ found
    assert all((ROOT / folder / "__init__.py").exists() for folder in folders)
