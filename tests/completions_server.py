"""The OpenAI-compatible protocol for the tests, by a local server that fails in each of the ways that servers do."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from http_server import JsonHandler, serving

HTML = b"<html><body>502 Bad Gateway</body></html>"


def echoed(messages: list[dict[str, Any]]) -> str:
    return f"You said {messages[-1]['content']}"


@dataclass
class State:
    """What the server has and does.

    Attributes:
        answers: messages → text.
        faults: what goes wrong, by the last message's text, or "" for every request: "refuse" (404, the model), "hang",
            "drip" (a byte at a time, for ever), "html", "break" (in the middle), "429" and "503" (once for each
            text, then it succeeds), "500", "large" (100 MB), "bomb" (the same, compressed), "redirect", "key", "odd"
            (valid JSON of another shape).
        listed: the models of /v1/models; ``None`` if it has no such path.
        requests: bodies of all requests, in order.
        asked: the key and the last message of each request, by which clients are told apart.
        most_at_once: the largest number of requests that ran at a time.
    """

    answers: Callable[[list[dict[str, Any]]], str] = echoed
    faults: dict[str, str] = field(default_factory=dict)
    listed: list[str] | None = field(default_factory=lambda: ["tiny"])
    requests: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    running: int = 0
    most_at_once: int = 0
    sent: int = 0
    url: str = ""


class Handler(JsonHandler):
    state: State

    def do_GET(self) -> None:
        self.state.headers.append(dict(self.headers))
        if self.state.faults.get("") == "hang":
            time.sleep(30)
        elif self.path == "/v1/models" and self.state.listed is not None:
            rows = [{"id": name, "object": "model"} for name in self.state.listed]
            self._json(200, {"object": "list", "data": rows})
        else:
            self._json(404, {"error": {"message": "no such path"}})

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self._body())
        state.requests.append(body)
        state.headers.append(dict(self.headers))
        state.running += 1
        state.most_at_once = max(state.most_at_once, state.running)
        try:
            if self.path == "/v1/completions" and state.faults.get("completions") != "refuse":
                self._echo(body)
            elif self.path == "/v1/chat/completions":
                text = body["messages"][-1]["content"]
                state.asked.append((self.headers.get("Authorization", "").removeprefix("Bearer "), text))
                fault = state.faults.get(text) or state.faults.get("")
                state.counts[text] += 1
                self._answer(body, text) if fault is None else self._fail(fault, body, text)
            else:
                self._json(404, {"error": {"message": f"no such path: {self.path}"}})
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            state.running -= 1

    def _fail(self, fault: str, body: dict[str, Any], text: str) -> None:
        if fault == "refuse":
            error = {"message": f"The model `{body['model']}` does not exist", "code": "model_not_found"}
            self._json(404, {"error": error})
        elif fault == "key":
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            self._json(401, {"error": {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}})
        elif fault == "hang":
            time.sleep(30)
        elif fault == "html":
            self._send(200, HTML, "text/html")
        elif fault in ("429", "503"):
            if self.state.counts[text] > 1:
                return self._answer(body, text)
            self.send_response(int(fault))
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif fault == "500":
            self._json(500, {"error": {"message": "CUDA error: an illegal memory access"}})
        elif fault == "odd":
            self._json(200, {"choices": [None], "usage": []})
        elif fault == "redirect":
            self.send_response(307)
            self.send_header("Location", "http://elsewhere.invalid/v1/chat/completions")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif fault == "break":
            self._head(200, "text/event-stream" if body.get("stream") else "application/json", 1000)
            self.wfile.write(b'data: {"choices": [{"delta": {"content": "ha"}}]}\n\n' if body.get("stream") else b"{")
            self._break()
        else:
            self._flood(fault)
        return None

    def _flood(self, fault: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if fault == "bomb":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", "100000000")
        self.end_headers()
        for _ in range(100):
            self.state.sent += self.wfile.write(b" " * (1 if fault == "drip" else 1_000_000))
            self.wfile.flush()
            time.sleep(0.1 if fault == "drip" else 0)

    def _answer(self, body: dict[str, Any], text: str) -> None:
        said = self.state.answers(body["messages"])
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": len(said.split())}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            return self._json(200, {"object": "chat.completion", "choices": [choice], "usage": usage})
        self._head(200, "text/event-stream", None)
        parts: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]}]
        pieces = re.findall(r"\s*\S+|\s+$", said)
        parts += [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
        parts += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": usage}]
        for data in [*map(json.dumps, parts), "[DONE]"]:
            event = f"data: {data}\n\n".encode()
            self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")
        return None

    def _echo(self, body: dict[str, Any]) -> None:
        """Log-probabilities as vLLM gives them: minus the length of each word, and the top-1 token is "the"."""
        words = [f" {word}" if i else word for i, word in enumerate(body["prompt"].split(" "))] + [" end"]
        logprobs = [None, *(-float(len(word)) for word in words[1:])]
        top = [
            None,
            *(
                {word: value} if word == " the" else {word: value, " the": -1.0}
                for word, value in zip(words[1:], logprobs[1:], strict=True)
            ),
        ]
        given = {"tokens": words, "token_logprobs": logprobs, "top_logprobs": top}
        self._json(200, {"choices": [{"text": "".join(words), "logprobs": given}]})


@contextmanager
def completions_server() -> Iterator[State]:
    """A server until the block ends; its address is ``state.url``, without /v1."""
    with serving(Handler, State()) as state:
        yield state
