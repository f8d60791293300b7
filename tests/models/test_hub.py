"""The real download code against a hub on loopback that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlx_lora.models.resolve import BUILT_IN

TINY = BUILT_IN["builtin/tiny-lumen"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSALS = {
    "/api/models/owner/gated": (403, "GatedRepo", "Access to this model is restricted"),
    "/api/models/owner/absent": (401, "RepoNotFound", "Repository not found"),
    "/api/models/owner/model/revision/v9": (404, "RevisionNotFound", "Invalid rev id: v9"),
    "/api/models/owner/broken": (400, "", "Bad request"),
}


class Hub(BaseHTTPRequestHandler):
    files = {f.name: f.read_bytes() for f in TINY.iterdir()} | {"pytorch_model.bin": b"\x80\x04pickle"}

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        for prefix, (status, code, message) in REFUSALS.items():
            if path.startswith(prefix):
                return self.answer(status, X_Error_Code=code, X_Error_Message=message)
        if path.startswith("/api/models/owner/model"):
            info = {"id": "owner/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            if "/tree/" in path:
                tree = [
                    {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                    for n, b in self.files.items()
                ]
                return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
        name = path.rsplit("/", 1)[-1]
        if path.startswith(f"/owner/model/resolve/{COMMIT}/") and name in self.files:
            body = self.files[name]
            return self.answer(200, body, ETag=f'"{hashlib.sha256(body).hexdigest()}"')
        return self.answer(404, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def log_message(self, *args) -> None:
        pass


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def resolve(tmp_path):
    """Resolve a name in a process of its own, since the hub's client reads its address when imported."""

    def run(endpoint: str, name: str, revision: str | None = None) -> dict:
        code = (
            "import json, sys\n"
            "from mlx_lora.models.resolve import resolve_model\n"
            "from mlx_lora.errors import UserError\n"
            "try:\n"
            "    m = resolve_model(sys.argv[1], sys.argv[2] or None)\n"
            "    print(json.dumps({'revision': m.revision, 'files': sorted(f.name for f in m.path.iterdir())}))\n"
            "except UserError as error:\n"
            "    print(json.dumps({'error': str(error)}))\n"
        )
        environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", code, name, revision or ""],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_model_is_downloaded_as_safetensors_and_its_commit_recorded(hub, resolve):
    found = resolve(hub, "owner/model")
    assert found.get("revision") == COMMIT, found
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(found["files"])
    assert "pytorch_model.bin" not in found["files"]


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("owner/gated", None, "gated; accept its licence at https://huggingface.co/owner/gated"),
        ("owner/absent", None, "no such model, or it is private"),
        ("owner/model", "v9", "no revision 'v9'"),
        ("owner/broken", None, "failed"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub, resolve, name, revision, said):
    error = resolve(hub, name, revision)["error"]
    assert said in error
    assert error.startswith(f"{name}: ")
    assert "\n" not in error


def test_no_network_is_one_sentence(resolve):
    error = resolve("http://127.0.0.1:9", "owner/model")["error"]
    assert "the hub cannot be reached" in error
