"""Every block of Python in README.md and docs/ runs: page by page, in order, one namespace a page, nothing else given.

But for blocks of packages that are not installed."""

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import topoprior as tp
from topoprior.priors import registry
from topoprior.utils import files

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """What the page's blocks leave behind; run in an empty folder, and names they register are forgotten."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(registry, "_PRIORS", dict(registry._PRIORS))
    text = page.read_text(encoding="utf-8")
    namespace: dict = {"__name__": "page"}
    for block in BLOCK.finditer(text):
        indent, code = block.groups()
        wanted = re.match(
            r" *# pip install (.*)", code
        )  # what a block needs beyond the package, in its first line
        names = wanted[1].replace("-", "_").split() if wanted else []
        if any(importlib.util.find_spec(name) is None for name in names):
            continue
        line = text.count("\n", 0, block.start(2))
        source = "\n" * line + re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        exec(compile(source, str(page), "exec"), namespace)
    return namespace


@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))], ids=_name
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    _run(page, tmp_path, monkeypatch)


def test_the_table_of_a_converted_network_is_what_the_page_shows(tmp_path, monkeypatch):
    page = ROOT / "docs" / "concepts" / "layers.md"
    table = str(_run(page, tmp_path, monkeypatch)["table"]).splitlines()
    shown = re.search(r"^layer {2,}type.*?^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    rows = [
        line.split()[:5] for line in shown[0].splitlines()[2:] if line.startswith(("conv", "layer", "fc"))
    ]
    assert len(rows) == 10
    assert all(row in [line.split()[:5] for line in table] for row in rows), (
        "names, types, shapes, priors, numbers"
    )


def test_links_between_pages_lead_somewhere():
    results = sorted((ROOT / "experiments" / "results").rglob("*.md"))
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", *results]:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"


@pytest.mark.skipif(importlib.util.find_spec("mkdocstrings") is None, reason="needs the extra `docs`")
def test_the_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr[-4000:]
    reference = (tmp_path / "api" / "nn" / "index.html").read_text(encoding="utf-8")
    assert "BayesConv2d" in reference
    assert (tmp_path / "explorer.html").stat().st_size > 30_000
    assert "<math" in (tmp_path / "api" / "distributions" / "index.html").read_text(encoding="utf-8")
    results = (tmp_path / "results" / "index.html").read_text(encoding="utf-8")
    assert 'href="../reports/quick/report/"' in results, "reports are pages of the site"
    report = (tmp_path / "reports" / "quick" / "report" / "index.html").read_text(encoding="utf-8")
    assert "<details>" in report
    assert "<p>NLL: negative log likelihood" in report, "folded parts are read as markdown"
    for page in (tmp_path / "api").rglob("*.html"):
        text = re.sub(
            r'<details class="mkdocstrings-source">.*?</details>',
            "",
            page.read_text(encoding="utf-8"),
            flags=re.DOTALL,
        )
        assert not re.search(r"\.\. math::|:(class|func|math):", text), page


def _changed(folder: Path) -> None:
    tp.get_prior("klein-3x3").save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"mean_fraction": 0.1', '"mean_fraction": 0.2'))
    tp.DecoderPrior.from_pretrained(folder)


def _other(folder: Path) -> None:
    tp.get_prior("klein-3x3").save_pretrained(folder)
    config, tensors = files.load(folder, "topoprior.DecoderPrior/1")
    files.save(folder, {**config, "kernel_size": [5, 5]}, tensors)
    tp.DecoderPrior.from_pretrained(folder)


def _hooked() -> torch.nn.Module:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3))
    net[0].register_forward_hook(lambda *_: None)
    return net


_NET = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))


def _uncertified(_: Path) -> None:
    vae = tp.CoveringVAE(tp.Circle(), (4,), likelihood="gaussian")
    tp.vae.fit(vae, torch.randn(100, 4), epochs=1, warm=False, progress=False)


def _hot(_: Path) -> None:
    parts = {"x": tp.priors.Part(torch.Size([50]), tp.priors.StandardNormal())}
    tp.inference.sample_density(
        lambda p: -50 * p["x"].square().sum(), parts, method="baoab", num_chains=1, num_samples=10, warmup=0,
        friction=0.1, progress=False,
    )  # fmt: skip


_TROUBLE = {
    "kinetic temperature": _hot,
    "num_data": lambda _: tp.elbo_loss(torch.zeros(8, 2), torch.zeros(8).long(), tp.BayesLinear(4, 2), 3),
    "no Bayesian layer": lambda _: tp.kl_divergence(_NET),
    "probabilities already": lambda _: tp.predict(
        torch.nn.Sequential(tp.BayesLinear(4, 2), torch.nn.Softmax(1)), torch.zeros(3, 4), 2
    ),
    "kernel_size": lambda _: tp.BayesConv2d(1, 1, 5),
    "neither a known name": lambda _: tp.BayesConv2d(1, 1, 3, prior="klien-3x3"),
    "found the class": lambda _: tp.BayesConv2d(1, 1, 3, prior=tp.Laplace),
    "dimension 1": lambda _: tp.elbo_loss(
        torch.zeros(8, 1), torch.zeros(8).long(), tp.BayesLinear(4, 2), 8
    ),
    "sum to 1": lambda _: tp.predictive_entropy(torch.randn(4, 8, 2)),
    "left deterministic": lambda _: tp.to_bayesian(_hooked()),
    "changed": _changed,
    "Missing key": lambda _: torch.nn.Sequential(tp.BayesLinear(4, 2)).load_state_dict(
        torch.nn.Sequential(torch.nn.Linear(4, 2)).state_dict()
    ),
    "it draws one": lambda _: tp.BayesLinear(4, 2).weight,
    "expected an input": lambda _: tp.predict(torch.nn.Sequential(tp.BayesLinear(4, 2)), torch.zeros(3, 5)),
    "is not certified": _uncertified,
    "does not describe": _other,
}


@pytest.mark.parametrize("what", _TROUBLE)
def test_errors_are_found_by_their_words(what, tmp_path):
    """A heading of docs/troubleshooting.md is a part of the error or the warning."""
    headings = re.findall(r"^### `(.*)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            _TROUBLE[what](tmp_path)
            said = [str(warning.message) for warning in found]
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            said = [str(error)]
    (heading,) = [heading for heading in headings if what in heading or heading.startswith(what)]
    assert any(heading in message for message in said), said
    assert len(headings) == len(_TROUBLE)
