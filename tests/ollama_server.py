"""Ollama's HTTP API as it really is, for the tests: on this machine, with threads, on a port of its own.

After https://github.com/ollama/ollama/blob/main/docs/api.md and server/routes.go: blobs are verified by their digest;
an error that is the first thing of a stream has its own status, a later one comes as a line with status 200; fields
that are zero are left out; durations are nanoseconds; a ``from`` that is not there starts a download.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from http_server import JsonHandler, serving

NAME = re.compile(r"^([\w.:-]+/)?([\w-]+/)?[\w][\w.-]{0,79}:[\w][\w.-]{0,79}$")
# llama.cpp's numbers of the file types that can be quantized: F16 and BF16.
QUANTIZABLE = {1, 32}
QUANTIZED = {"Q4_K_M", "Q4_K_S", "Q8_0", "F16", "F32"}


@dataclass
class Answer:
    text: str
    prompt_tokens: int
    tokens: int
    stopped: bool = True


@dataclass
class Model:
    blob: Path
    system: str | None
    template: str | None
    parameters: dict[str, Any]
    quantize: str | None = None
    adapter: Path | None = None

    @property
    def digest(self) -> str:
        """Of the manifest, which has the layers' digests and no name."""
        layers = (self.blob.name, self.system, self.template, self.parameters, self.quantize, self.adapter)
        return hashlib.sha256(repr(layers).encode()).hexdigest()


@dataclass
class State:
    """What the server has and does.

    Attributes:
        answers: (model, prompt, options) → answer.
        faults: what goes wrong, by path or "chat:" and the last message: "refuse", "break" (the connection, half-way),
            "garbage", "busy" (once), "hang", "large" (100 MB), and for create "late" (an error after the first line)
            and "silent" (no last line).
        older: as before 0.34.1, when LoRA adapters were taken, and GGUF files quantized.
        downloads: models that were asked for by ``from``; none ever should be.
        strike: number of the request → "before" or "after": it dies before or after it has carried it out.
    """

    folder: Path
    answers: Callable[[Model, str, dict[str, Any]], Answer]
    faults: dict[str, str] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    older: bool = False
    downloads: list[str] = field(default_factory=list)
    url: str = ""
    count: int = 0
    strike: Callable[[int], str | None] = lambda number: None

    def blob(self, digest: str) -> Path:
        return self.folder / digest.replace(":", "-")


class Refused(Exception):
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class Handler(JsonHandler):
    state: State

    def _route(self) -> None:
        self.state.count += 1
        when, answer = self.state.strike(self.state.count), self.wfile
        if when == "after":
            self.wfile = BytesIO()
        if when != "before":
            self._carry_out()
        self.wfile = answer
        if when:
            self._break()

    def _carry_out(self) -> None:
        name = self.path.split("/")[2]
        if name == "blobs" and self.command == "POST":
            return self._receive(self.state.faults.get(name))
        body = json.loads(self._body() or b"null")
        asked = f"chat:{body['messages'][-1]['content']}" if name == "chat" else name
        fault = self.state.faults.get(name) or self.state.faults.get(asked)
        self.state.requests.append((self.command, self.path, body))
        if name == "blobs":
            return self._send(200 if self.state.blob(self.path.rpartition("/")[2]).exists() else 404)
        if fault == "refuse":
            return self._json(500, {"error": f"{name} is out of order"})
        if fault == "garbage":
            return self._send(200, b"<html>a captive portal</html>")
        if fault == "busy":
            del self.state.faults[asked]
            return self._json(503, {"error": "server busy, please try again.  maximum pending requests exceeded"})
        if fault == "hang":
            return time.sleep(30)
        if fault == "large":
            self._head(200, "application/json", 100_000_000)
            for _ in range(100):
                self.wfile.write(b" " * 1_000_000)
            return None
        if fault == "break" and name != "create":
            return self._break()
        try:
            return getattr(self, f"_{name}")(body)
        except Refused as error:
            return self._json(error.status, {"error": str(error)})

    do_GET = do_POST = do_HEAD = do_DELETE = _route

    def _version(self, _: Any) -> None:
        self._json(200, {"version": "0.34.0" if self.state.older else "0.35.0"})

    def _tags(self, _: Any) -> None:
        models = [{"name": name, "digest": model.digest} for name, model in self.state.models.items()]
        self._json(200, {"models": models})

    def _show(self, body: dict[str, Any]) -> None:
        found = self._find(body["model"]).parameters
        self._json(200, {"parameters": "\n".join(f"{key} {value}" for key, value in found.items())})

    def _find(self, name: str) -> Model:
        if name not in self.state.models:
            raise Refused(404, f"model '{name}' not found")
        return self.state.models[name]

    def _copy(self, body: dict[str, Any]) -> None:
        self.state.models[body["destination"]] = self._find(body["source"])
        self._send(200)

    def _delete(self, body: dict[str, Any]) -> None:
        self._find(body["model"])
        del self.state.models[body["model"]]
        self._send(200)

    def _receive(self, fault: str | None) -> None:
        digest = self.path.rpartition("/")[2]
        if fault == "break":
            self.rfile.read(1000)
            return self._break()
        content = self._body()
        self.state.requests.append(("POST", self.path, len(content)))
        if fault == "refuse":
            return self._json(500, {"error": "no space left on device"})
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            return self._json(400, {"error": f"digest mismatch, expected {digest}"})
        self.state.blob(digest).write_bytes(content)
        return self._send(201)

    def _create(self, body: dict[str, Any]) -> None:
        fault, started = self.state.faults.get("create"), False
        try:
            for number, status in enumerate(self._creation(body)):
                if fault == "late" and number == 1:
                    raise Refused(500, "unsupported architecture")
                if fault == "break" and number == 1:
                    self._break()
                    return
                if fault == "silent" and status == "success":
                    break
                if not started:
                    self._head(200, "application/x-ndjson", None)
                    started = True
                self._chunk({"status": status})
        except Refused as error:
            if not started:
                raise
            self._chunk({"error": str(error)})
        self.wfile.write(b"0\r\n\r\n")

    def _creation(self, body: dict[str, Any]) -> Iterator[str]:
        """The lines of a stream, the model at its end."""
        if not NAME.match(body["model"]):
            raise Refused(400, "invalid model name")
        if "from" in body:
            self.state.downloads.append(body["from"])
            raise Refused(400, "pull model manifest: file does not exist")
        if not body.get("files"):
            raise Refused(400, "neither 'from' or 'files' was specified")
        if body.get("adapters") and not self.state.older:
            raise Refused(400, "LoRA adapters are no longer supported")
        blob = self.state.blob(next(iter(body["files"].values())))
        if not blob.exists():
            raise Refused(400, "digest not found")
        wanted = body.get("quantize")
        if wanted and not self.state.older:
            raise Refused(400, "create-time quantization is only supported for safetensors imports")
        yield "parsing GGUF"
        if blob.read_bytes()[:4] != b"GGUF":
            raise Refused(400, "invalid file magic")
        if wanted:
            if wanted.upper() not in QUANTIZED:
                raise Refused(400, f"unsupported quantization type {wanted}")
            if file_type(blob) not in QUANTIZABLE:
                raise Refused(400, "quantization is only supported for F16 and BF16 models")
            yield f"quantizing F16 model to {wanted}"
        yield f"using existing layer {blob.name}"
        yield "writing manifest"
        adapter = next((self.state.blob(digest) for digest in (body.get("adapters") or {}).values()), None)
        texts = (body.get("system"), body.get("template"))
        self.state.models[body["model"]] = Model(blob, *texts, body.get("parameters", {}), wanted, adapter)
        yield "success"

    def _generate(self, body: dict[str, Any]) -> None:
        self._answer(body, body["prompt"], lambda text: {"response": text})

    def _chat(self, body: dict[str, Any]) -> None:
        self._answer(
            body, body["messages"][-1]["content"], lambda text: {"message": {"role": "assistant", "content": text}}
        )

    def _answer(self, body: dict[str, Any], prompt: str, written: Callable[[str], dict[str, Any]]) -> None:
        model = self._find(body["model"])
        started = time.perf_counter_ns()
        answer = self.state.answers(model, prompt, body.get("options", {}))
        spent = time.perf_counter_ns() - started
        said = {
            "model": body["model"],
            **written(answer.text),
            "done": True,
            "done_reason": "stop" if answer.stopped else "length",
            "total_duration": spent,
            "load_duration": spent // 2,
            "prompt_eval_count": answer.prompt_tokens,
            "prompt_eval_duration": spent // 4,
            "eval_count": answer.tokens,
            "eval_duration": spent // 4 if answer.tokens else 0,
        }
        self._json(200, {key: value for key, value in said.items() if value or key in ("response", "message", "done")})


def render_go(template: str, system: str | None, messages: list[dict[str, str]]) -> str:
    """What Go's templates make of ``if``, ``else``, ``range .Messages`` and the fields in them."""
    parts = re.split(r"\{\{ (.*?) \}\}", template, flags=re.DOTALL)
    written, position = _render(parts, 0, {".System": system or ""}, messages, True)
    assert position == len(parts)
    return written


def _render(parts: list[str], at: int, fields: dict[str, str], messages: list, live: bool) -> tuple[str, int]:
    """Literal texts are at even places and actions at odd ones; ends after the ``end`` or ``else`` of its block."""
    text = parts[at] if live else ""
    at += 1
    while at < len(parts):
        action = parts[at]
        if action == "end" or action.startswith("else"):
            return text, at
        if action.startswith("if "):
            done, at, reached = False, at, action
            while reached != "end":
                wanted = not done and (reached == "else" or _holds(reached, fields))
                said, at = _render(parts, at + 1, fields, messages, live and wanted)
                text, done, reached = text + said, done or wanted, parts[at]
        elif action == "range .Messages":
            start = at + 1
            for message in messages or [{}]:
                inner = {**fields, ".Role": message.get("role", ""), ".Content": message.get("content", "")}
                said, at = _render(parts, start, inner, messages, live and bool(messages))
                text += said
        elif live:
            text += fields[action]
        text += parts[at + 1] if live else ""
        at += 2
    return text, at


def _holds(action: str, fields: dict[str, str]) -> bool:
    words = action.removeprefix("else ").split()
    return fields[words[2]] == words[3].strip('"') if words[1] == "eq" else bool(fields[words[1]])


def file_type(blob: Path) -> int:
    from gguf import GGUFReader

    return int(GGUFReader(blob).get_field("general.file_type").contents())


@contextmanager
def ollama_server(folder: Path, answers: Callable[[Model, str, dict[str, Any]], Answer]) -> Iterator[State]:
    """A server until the block ends; its address is ``state.url``."""
    folder.mkdir(parents=True, exist_ok=True)
    with serving(Handler, State(folder, answers)) as state:
        yield state
