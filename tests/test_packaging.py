"""What a user gets: the source archive with tests that collect, the wheel with priors that decode."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import topoprior as tp

ROOT = Path(__file__).parents[1]
_COPIED = ("topoprior", "tests", "experiments", "docs", "data")


def _run(*command: str, cwd: Path, path: Path | None = None) -> str:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))
    }
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, Path]:
    """The source archive of a copy of this tree, unpacked, and the wheel that is built from it, as pip does."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in _COPIED:
        shutil.copytree(ROOT / name, copy / name, ignore=skip)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    build = "import sys; from setuptools import build_meta; print(build_meta.{}(sys.argv[1]))"
    _run("-c", build.format("build_sdist"), str(out), cwd=copy)
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(out / "sdist", filter="data")
    (source,) = (out / "sdist").iterdir()
    _run("-c", build.format("build_wheel"), str(out), cwd=source)
    (wheel,) = out.glob("*.whl")
    return {"source": source, "wheel": wheel}


def test_the_wheel_decodes_a_kernel_where_nothing_else_is(archives, tmp_path):
    _run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path / "site"), str(archives["wheel"]), cwd=tmp_path)  # fmt: skip
    code = (
        "import torch, topoprior as tp; print(tp.__file__); print(tp.__version__);"
        "print(tuple(tp.DecoderPrior.from_pretrained('klein-3x3').decode(torch.tensor([[0.3, 0.2]])).shape))"
    )
    where, version, shape = _run(
        "-W", "error", "-c", code, cwd=tmp_path, path=tmp_path / "site"
    ).splitlines()
    assert Path(where).is_relative_to(tmp_path / "site")
    assert (version, shape) == (tp.__version__, "(1, 3, 3)")


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(archives):
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    skip = {".pyc", ".pyo"}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "topoprior").rglob("*")
        if path.is_file() and path.suffix not in skip
    }
    assert names == expected


def test_the_metadata(archives):
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = wheel.read(name).decode()
    head, _, description = metadata.partition("\n\n")
    assert f"Version: {tp.__version__}\n" in head
    assert "License-Expression: Apache-2.0\n" in head
    assert "Author: The topoprior authors\n" in head
    assert "Description-Content-Type: text/markdown" in head
    assert "tp.BayesConv2d(3, 64, 3, padding=1)" in description
    prose = re.sub(r"^```.*?^```$", "", description, flags=re.DOTALL | re.MULTILINE)
    assert "docs/start.md" in prose
    links = re.findall(r"!?\[[^\]]*\](?:\((?!https://).*|:.*|\[.*)", prose)
    assert not links, "an index has no files that they could lead to"
    assert not re.search(r"<(img|a)\b", prose)
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {tp.__version__}\n" in citation
    assert re.search(
        rf"^## {re.escape(tp.__version__)} ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


def test_the_source_archive_has_all_that_tests_and_pages_need(archives):
    wanted = [
        path for name in ("tests", "experiments", "docs", "data") for path in (ROOT / name).rglob("*")
    ]
    expected = {
        path.relative_to(ROOT).as_posix() for path in wanted if path.is_file() and path.suffix != ".pyc"
    }
    source = archives["source"]
    found = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert expected <= found, sorted(expected - found)


@pytest.mark.slow
def test_the_tests_of_the_source_archive_collect(archives):
    command = ("-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "", "tests")  # slow ones, too
    found, expected = (
        {
            line.partition(":")[0]
            for line in _run(*command, cwd=where).splitlines()
            if line.startswith("tests/")
        }
        for where in (archives["source"], ROOT)
    )
    assert len(expected) > 100
    assert found == expected


def test_importing_warns_of_nothing(tmp_path):
    _run("-W", "error", "-c", "import topoprior, topoprior.blitz, topoprior.cli", cwd=tmp_path, path=ROOT)


def test_importing_does_not_load_the_compiler(tmp_path):
    """It would double the time that torch itself takes."""
    code = "import sys, torch; before = 'torch._dynamo' in sys.modules; import topoprior"
    code += "; assert ('torch._dynamo' in sys.modules) == before"
    environment = os.environ | {"PYTHONPATH": str(Path(tp.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
