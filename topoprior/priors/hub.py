"""Priors on a model hub: download by "user/name" and revision, upload with a card; the extra `hub` (huggingface_hub).

Its environment applies: HF_ENDPOINT (another hub), HF_HOME (the cache), HF_TOKEN, HF_HUB_OFFLINE=1 (the cache alone).
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topoprior import plots
from topoprior.utils.extras import needed
from topoprior.utils.files import CONFIG, MODEL, CheckpointError, parse_json, read_config, read_file

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_RECORD, _MOST_RECORD = "training.json", 1_000_000
_PICTURE = "kernels.png"
_CITATION = """@article{beketov2026reparameterization,
  title = {Reparameterization through Coverings and Topological Weight Priors},
  author = {Beketov and Snopov},
  journal = {arXiv:2604.23804},
  year = {2026}
}"""


def find_folder(name: str | Path, shipped: Mapping[str, Path], revision: str | None = None) -> Path:
    """The folder of a checkpoint: one shipped, one on this machine, or one of the hub, downloaded or in the cache.

    Args:
        name: of a shipped prior, a folder, or "user/name"; the first that there is.
        revision: of the hub: a branch, a tag or a commit.

    Raises:
        CheckpointError: there is none, or the hub does not give it.
    """
    known, text = Path(name), str(name)
    if revision is None:
        if text in shipped:
            return shipped[text]
        if known.is_dir():
            return known
    if not _REPOSITORY.fullmatch(text):
        names = ", ".join(shipped)
        raise CheckpointError(
            f"{text!r} is neither a shipped prior ({names}) nor a folder"
            if revision is None
            else f"{text!r}: expected user/name with a revision, found a name that is not on a hub"
        )
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            f"{text!r} is neither a shipped prior nor a folder; priors of a hub need: pip install 'topoprior[hub]'"
        ) from None
    try:
        # Both files of one commit.
        return Path(
            huggingface_hub.snapshot_download(text, revision=revision, allow_patterns=[CONFIG, MODEL])
        )
    except Exception as error:  # it raises its own, its transport's and OSError
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        at = "" if revision is None else f" at revision {revision!r}"
        raise CheckpointError(
            f"{text!r}{at}: no shipped prior, no folder, and the hub says: {reason}"
        ) from None


class OnHub:
    """Gives priors that have ``save_pretrained`` a ``push_to_hub``."""

    name: str | None
    about: Mapping[str, str]
    _folder: Path | None = None  # that it was loaded from

    def push_to_hub(
        self,
        repository: str,
        *,
        data: str | None = None,
        licence: str | None = None,
        authors: str | None = None,
        metrics: Mapping[str, float] | None = None,
        private: bool = False,
        message: str = "Upload a kernel prior",
        token: str | None = None,
    ) -> str:
        """Save the prior to the hub, with a card: a picture, how to load it, data, metrics, licence, citation.

        The record of `topoprior train-prior` goes with it where the prior was loaded from such a folder.

        Args:
            repository: "user/name", made if it is not there.
            data: what it was trained on, a sentence; default what the prior says itself (``about``).
            licence: of the numbers, by its identifier on the hub; default the same, or apache-2.0.
            authors: of the numbers; default the same.
            metrics: for the card, by name.
            private: of a repository that is made.
            token: in place of the one of HF_TOKEN or of `hf auth login`.

        Returns:
            The address of the commit.

        Raises:
            ValueError: ``repository`` is not of the form user/name.
            ImportError: no huggingface_hub.
        """
        if not isinstance(repository, str) or not _REPOSITORY.fullmatch(repository):
            raise ValueError(f"repository: expected user/name, found {repository!r}")
        api = needed("huggingface_hub", "push_to_hub", "'topoprior[hub]'").HfApi(token=token)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            licence = licence or self.about.get("licence", "apache-2.0")
            self.save_pretrained(folder, data=data, licence=licence, authors=authors)  # type: ignore[attr-defined]
            about = read_config(folder)["about"]
            record = None if self._folder is None else _record(self._folder)
            if record is not None:
                (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            picture = _draw(self, folder)
            card = model_card(self, repository, about, metrics=metrics, record=record, picture=picture)
            (folder / "README.md").write_text(card, encoding="utf-8")
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
        return str(done.commit_url)


def model_card(
    prior: Any,
    repository: str,
    about: Mapping[str, str],
    *,
    metrics: Mapping[str, float] | None = None,
    record: Mapping[str, Any] | None = None,
    picture: str | None = None,
) -> str:
    """The README.md of a prior on the hub.

    Args:
        about: what its checkpoint says of itself: data, licence, authors, date, version.
        metrics: by name, beside those of ``record``, which `topoprior train-prior` wrote.
        picture: name of the file with its kernels.
    """
    found = dict(metrics or {})
    for key, title in _TITLES.items():
        if record is not None and isinstance(record.get(key), float):
            found.setdefault(title, record[key])
    table = "\n".join(f"| {name} | {value:.4g} |" for name, value in found.items())
    kind, licence = type(prior).__name__, about.get("licence", "unknown")
    made = [f"by {about['authors']}"] if "authors" in about else []
    made += [f"on {about['date']}"] if "date" in about else []
    made += [f"with topoprior {about['version']}"] if "version" in about else []
    parts = [
        f"---\nlicense: {licence}\nlibrary_name: topoprior\ntags: [bayesian, weight-prior, topology]\n---",
        f"# {repository.partition('/')[2]}",
        "A prior of convolution kernels for Bayesian layers: every kernel is decoded from a point of a space.",
        *([f"![Kernels over the space]({picture})"] if picture else []),
        f"    {prior!r}",
        *([f"Made {' '.join(made)}."] if made else []),
        "## Use",
        f"```python\nimport topoprior as tp\n\nprior = tp.{kind}.from_pretrained({json.dumps(repository)})\n"
        f"layer = tp.BayesConv2d(3, 16, {prior.kernel_size}, prior=prior)\n```",
        f"## Data\n\n{about.get('data', 'Not stated.')}",
        "## Metrics\n\n" + (f"| metric | value |\n|---|---|\n{table}" if table else "Not stated."),
        f"## Licence\n\n{licence}",
        f"## Citation\n\n```bibtex\n{_CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


_TITLES = {
    "test_relative_error": "relative error of the autoencoder on held-out kernels",
    "test_relative_error_of_prior": "relative error of the prior's decoder on held-out kernels",
    "test_negative_elbo": "negative ELBO on held-out kernels, nats",
}


def _draw(prior: Any, folder: Path) -> str | None:
    """A picture of the kernels over the prior's space in the folder, where there can be one; its name."""
    space = prior.covering
    if not space.rank or space.dim > 3 or len(prior.kernel_size) != 2:
        return None
    try:
        plots.save(plots.kernel_grid(prior.decode, space), folder / _PICTURE)
    except ImportError:  # no matplotlib
        return None
    return _PICTURE


def _record(folder: Path) -> dict[str, Any] | None:
    """training.json of the folder that a prior was loaded from."""
    path = folder / _RECORD
    if not path.is_file():
        return None
    return parse_json(read_file(path, _MOST_RECORD), path, _MOST_RECORD)
