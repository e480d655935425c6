"""Every script of the experiments: help with defaults, quickly; results where git ignores them; errors of one line."""

import importlib
import re
import subprocess
from pathlib import Path

import pytest

import experiments

FOLDER = Path(experiments.__file__).parent
SCRIPTS = sorted(
    ".".join(("experiments", *path.relative_to(FOLDER).with_suffix("").parts))
    for path in FOLDER.rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text() and path.name != "compare_priors.py"
)


def test_there_are_scripts():
    assert len(SCRIPTS) >= 12


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_says_what_there_is(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")  # no name is broken in two
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert module.__doc__.splitlines()[0] in " ".join(text.split())
    options = re.findall(r"^  (--?[a-z][a-z-]*)", text, re.M)
    assert "--output" in options
    # A report draws nothing: what it shows has its seeds.
    assert {"--seed", "--seeds"} & {*options} or name.endswith(".report")
    assert "--quiet" in options or name.endswith(".report")
    for option in options:
        rest = text.split(f"  {option}", 1)[1]
        entry = re.split(r"^  -|\n\n", rest, maxsplit=1, flags=re.M)[0]
        assert len(entry.split()) > 1, f"{option} has no help"
    if not name.endswith(".report"):  # it writes where the results are
        output = re.search(r"^  --output (?:(?!^  -).)*?\(default:\s+(\S+)\)", text, re.S | re.M)
        assert output is not None
        ignored = subprocess.run(["git", "check-ignore", "-q", output[1]], cwd=FOLDER.parent)
        assert ignored.returncode == 0, f"{output[1]} is not ignored by git"


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_error_of_use_is_one_line(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main(["--no-such-option"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
