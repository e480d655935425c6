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

from topoprior.utils.files import CONFIG, MODEL, CheckpointError, parse_json, read_file

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_RECORD, _MOST_RECORD = "training.json", 1_000_000
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
            f"{text!r} is neither a shipped prior nor a folder; priors of a hub need: pip install huggingface_hub"
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

    def push_to_hub(
        self,
        repository: str,
        *,
        data: str | None = None,
        licence: str = "apache-2.0",
        metrics: Mapping[str, float] | None = None,
        private: bool = False,
        message: str = "Upload a kernel prior",
        token: str | None = None,
    ) -> str:
        """Save the prior to the hub, with a card: what it is, how to load it, data, metrics, licence, citation.

        The record of `topoprior train-prior` goes with it where the prior was loaded from such a folder.

        Args:
            repository: "user/name", made if it is not there.
            data: what it was trained on, a sentence for the card.
            licence: of the numbers, by its identifier on the hub.
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
        try:
            from huggingface_hub import HfApi
        except ImportError:
            raise ImportError("push_to_hub: pip install huggingface_hub") from None
        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.save_pretrained(folder)  # type: ignore[attr-defined]
            record = _record(self.name)
            if record is not None:
                (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            card = model_card(self, repository, data=data, licence=licence, metrics=metrics, record=record)
            (folder / "README.md").write_text(card, encoding="utf-8")
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
        return str(done.commit_url)


def model_card(
    prior: Any,
    repository: str,
    *,
    data: str | None = None,
    licence: str = "apache-2.0",
    metrics: Mapping[str, float] | None = None,
    record: Mapping[str, Any] | None = None,
) -> str:
    """The README.md of a prior on the hub, written from the prior and, if given, the record of its training."""
    found = dict(metrics or {})
    for key, title in _TITLES.items():
        if record is not None and isinstance(record.get(key), float):
            found.setdefault(title, record[key])
    if data is None and record is not None:
        arguments = record.get("arguments")
        kernels = arguments.get("kernels") if isinstance(arguments, dict) else None
        data = "Analytic Klein kernels." if kernels == "klein" else None
    table = "\n".join(f"| {name} | {value:.4g} |" for name, value in found.items())
    kind = type(prior).__name__
    parts = [
        f"---\nlicense: {licence}\nlibrary_name: topoprior\ntags: [bayesian, weight-prior, topology]\n---",
        f"# {repository.partition('/')[2]}",
        "A prior of convolution kernels for Bayesian layers: every kernel is decoded from a point of a space.",
        f"    {prior!r}",
        "## Use",
        f"```python\nimport topoprior as tp\n\nprior = tp.{kind}.from_pretrained({json.dumps(repository)})\n"
        f"layer = tp.BayesConv2d(3, 16, {prior.kernel_size}, prior=prior)\n```",
        f"## Data\n\n{data or 'Not stated.'}",
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


def _record(name: str | None) -> dict[str, Any] | None:
    """training.json of the folder that a prior was loaded from."""
    path = Path(name or "") / _RECORD
    if not name or not path.is_file():
        return None
    return parse_json(read_file(path, _MOST_RECORD), path, _MOST_RECORD)
