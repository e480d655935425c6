"""Priors to and from a hub: a small server on this machine that speaks the protocol, with HF_ENDPOINT."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

import topoprior as tp
from topoprior.priors.hub import model_card
from topoprior.utils.files import CheckpointError

ROOT = Path(__file__).parents[2]


class _Hub(BaseHTTPRequestHandler):
    """Repositories in memory: every upload is a commit; `main` is the last of them."""

    commits: ClassVar[dict[str, list[tuple[str, dict[str, bytes]]]]] = {}
    asked: ClassVar[list[str]] = []

    def log_message(self, *_):
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers.setdefault("Content_Type", "application/json")
        for name, value in {**headers, "Content_Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self._answer(404, b'{"error": "not here"}', X_Error_Code=code, X_Error_Message="not here")

    def _find(self, repository: str, revision: str):
        commits = self.commits.get(repository, [])
        return next((c for c in reversed(commits) if revision in ("main", c[0])), None)

    def do_GET(self):
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = found or tree or file
        if match is None:
            return self._missing("EntryNotFound")
        if match[1] not in self.commits:
            return self._missing("RepoNotFound")
        commit = self._find(match[1], match[2] or "main")
        if commit is None:
            return self._missing("RevisionNotFound")
        sha, files = commit
        if file:
            if file[3] not in files:
                return self._missing("EntryNotFound")
            data = files[file[3]]
            return self._answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=sha)
        if tree:
            listed = [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for n, d in files.items()
            ]
            return self._answer(200, json.dumps(listed).encode())
        told = {
            "id": match[1],
            "modelId": match[1],
            "sha": sha,
            "siblings": [{"rfilename": n} for n in files],
        }
        return self._answer(
            200, json.dumps({**told, "private": False, "tags": [], "downloads": 0}).encode()
        )

    do_HEAD = do_GET

    def do_POST(self):
        self.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = f"http://{self.headers['Host']}"
        if self.path == "/api/repos/create":
            given = json.loads(body)
            name = (
                f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
            )
            self.commits.setdefault(name, [("0" * 40, {})])
            return self._answer(200, json.dumps({"url": f"{url}/{name}", "name": name}).encode())
        if self.path == "/api/validate-yaml":
            return self._answer(200, b'{"errors": [], "warnings": []}')
        found = re.fullmatch(
            r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path.partition("?")[0]
        )
        if found is None:
            return self._missing("EntryNotFound")
        if found[2] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._answer(200, json.dumps({"files": files}).encode())
        files = dict(self.commits[found[1]][-1][1])
        for line in map(json.loads, body.decode().splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[found[1]].append((sha, files))
        told = {"commitUrl": f"{url}/{found[1]}/commit/{sha}", "commitOid": sha, "success": True}
        return self._answer(200, json.dumps(told).encode())


@pytest.fixture
def hub():
    _Hub.commits, _Hub.asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _python(code: str, endpoint: str, home: Path, **more: str) -> str:
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_test",
        **more,
    }
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


_LOAD = """
import topoprior as tp
prior = tp.DecoderPrior.from_pretrained("someone/my-prior", init_scale=0.3)
print(prior.gain, prior.init_scale, prior.name)
"""
_PUSH_AND_LOAD = f"""
import topoprior as tp
from topoprior.utils.files import CheckpointError
commits = []
for gain in (1.0, 2.0):
    prior = tp.DecoderPrior.from_pretrained("klein-3x3", gain=gain)
    url = prior.push_to_hub("someone/my-prior", data="Kernels of my own.", metrics={{"error": 0.25}})
    commits.append(url.rpartition("/")[2])
print(*commits)
{_LOAD}
print(tp.DecoderPrior.from_pretrained("someone/my-prior", revision=commits[0]).gain)
for name, revision in (("someone/my-prior", "v9"), ("someone/other", None)):
    try:
        tp.DecoderPrior.from_pretrained(name, revision=revision)
    except CheckpointError as error:
        print(str(error).count("\\n"), name in str(error))
"""


def test_a_prior_goes_to_the_hub_and_comes_back(hub, tmp_path):
    pytest.importorskip("huggingface_hub")
    commits, latest, first, *refused = _python(_PUSH_AND_LOAD, hub, tmp_path).splitlines()
    assert commits.split() == [sha for sha, _ in _Hub.commits["someone/my-prior"][1:]]
    assert len(set(commits.split())) == 2
    assert latest == "2.0 0.3 someone/my-prior"
    assert first == "1.0"
    assert refused == ["0 True", "0 True"], "one line, with the name"
    files = _Hub.commits["someone/my-prior"][-1][1]
    assert set(files) == {"config.json", "model.safetensors", "README.md", "kernels.png", "training.json"}
    assert files["kernels.png"].startswith(b"\x89PNG")
    card = files["README.md"].decode()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "Kernels of my own." in card
    assert "| error | 0.25 |" in card
    assert "](kernels.png)" in card
    assert json.loads(files["config.json"])["about"]["data"] == "Kernels of my own."

    count = len(_Hub.asked)
    assert _python(_LOAD, hub, tmp_path, HF_HUB_OFFLINE="1") == latest + "\n", "from the cache"
    assert len(_Hub.asked) == count, "without a question"


def test_names_that_are_no_repository_never_reach_a_hub(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # where there is no ../x
    for name in ("no-such-prior", str(tmp_path / "missing"), "a/b/c", "../x"):
        with pytest.raises(CheckpointError, match="neither a shipped prior"):
            tp.DecoderPrior.from_pretrained(name)
    with pytest.raises(CheckpointError, match="user/name"):
        tp.DecoderPrior.from_pretrained("klein-3x3", revision="main")
    with pytest.raises(ValueError, match="repository: expected user/name, found 'mine'"):
        tp.get_prior("klein-3x3").push_to_hub("mine")


def test_the_card_has_the_record_of_the_training():
    prior = tp.get_prior("klein-3x3")
    about = {
        "data": "Some kernels.",
        "licence": "cc0-1.0",
        "authors": "Ada",
        "date": "2026-01-02",
        "version": "0.1.0",
    }
    card = model_card(prior, "someone/klein", about, record={"test_relative_error_of_prior": 0.0007})
    assert card.startswith("---\nlicense: cc0-1.0\n")
    assert "Made by Ada on 2026-01-02 with topoprior 0.1.0." in card
    assert "Some kernels." in card
    assert "kernels.png" not in card
    assert "| relative error of the prior's decoder on held-out kernels | 0.0007 |" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    exec(code.replace('"someone/klein"', '"klein-3x3"'), {})


def test_networks_go_to_a_hub_by_the_mixin_of_the_hub(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    import torch

    class Net(torch.nn.Module, hub.PyTorchModelHubMixin):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.conv = tp.BayesConv2d(1, width, 3)

    net = Net(width=6)
    net.save_pretrained(tmp_path)
    again = Net.from_pretrained(tmp_path)
    for (name, value), (other, found) in zip(
        net.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(value, found)
