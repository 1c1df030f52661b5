import pytest
from typer.testing import CliRunner

from mda_jax import methods
from mda_jax.cli import app


def run(*arguments):
    return CliRunner().invoke(app, ["methods", *arguments])


def test_every_method_is_listed_with_its_summary():
    result = run()
    assert result.exit_code == 0
    words = result.stdout.split()
    for name in methods.names:
        summary = getattr(methods, name).__doc__.splitlines()[0]
        assert name in words and summary.split()[0] in words


@pytest.mark.parametrize("name", methods.names)
def test_one_method_in_full(name):
    result = run(name)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{name}(") and "Paper:" in result.stdout


def test_an_unknown_method():
    result = run("tvs")
    assert result.exit_code == 2
    assert "did you mean 'tsv'?" in result.stderr and result.stderr.count("\n") == 1
