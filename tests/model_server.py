"""A model's API on loopback: real HTTP and server-sent events, with answers written by the test.

    with ModelServer([overloaded(), reply([("train.py", "LR = 0.1", "LR = 0.2")])]) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)

`script` is a list of answers, the last of which repeats, or a function from the request's body to an answer. What came in
is in `requests` (bodies) and `headers`. Speaks POST /v1/messages, streamed or not, and no other part of the API.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {
    "input_tokens": 1_000,
    "output_tokens": 500,
    "cache_read_input_tokens": 4_000,
    "cache_creation_input_tokens": 2_000,
}


@dataclass(frozen=True)
class Answer:
    status: int = 200
    text: str = ""
    stop: str = "end_turn"
    error: str = ""  # type of an API error
    headers: dict[str, str] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=lambda: dict(USAGE))
    hang: bool = False  # after the first half of the text the stream stays open and silent
    broken: bool = False  # after the first half of the text the connection closes
    thinking: str = ""  # a block before the text
    tools: tuple[tuple[str, dict[str, Any]], ...] = ()  # name and input of each tool asked for


def reply(
    edits: Sequence[tuple[str, str, str]], description: str = "Another step size", **more: Any
) -> Answer:
    """A good reply with (file, search, replace) edits."""
    facts = {
        "hypothesis": "It is too small.",
        "expected": "-0.1",
        "description": description,
        "comparable": True,
    } | more
    return Answer(
        text=json.dumps(
            facts
            | {
                "edits": [
                    dict(zip(("file", "search", "replace"), edit, strict=True)) for edit in edits
                ]
            }
        )
    )


def using(*tools: tuple[str, dict[str, Any]], text: str = "", **facts: Any) -> Answer:
    """A reply that asks for tools, each a name and its input."""
    return Answer(text=text, tools=tools, stop="tool_use", **facts)


def submit(description: str = "Another step size", **more: Any) -> tuple[str, dict[str, Any]]:
    """The tool that ends the turns."""
    return "submit", {
        "description": description,
        "hypothesis": "It is too small.",
        "kind": "parameter",
        "expected_gain": 0.1,
        "expected_low": 0.0,
        "expected_high": 0.2,
        "lessons": [],
        "notes": "",
    } | more


def failing(status: int, error: str, **headers: str) -> Answer:
    return Answer(
        status,
        error=error,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def overloaded() -> Answer:
    return failing(529, "overloaded_error", retry_after_ms="1")


def limited(seconds: float) -> Answer:
    return failing(429, "rate_limit_error", retry_after=f"{seconds:g}")


Script = Sequence[Answer] | Callable[[dict[str, Any]], Answer]


class ModelServer:
    def __init__(self, script: Script) -> None:
        self.script, self.requests, self.headers = (
            script,
            list[dict[str, Any]](),
            list[dict[str, str]](),
        )
        self.closing = threading.Event()
        self.hung = threading.Event()  # a stream is being held open
        self.gone = threading.Event()  # the other side of a held stream went away
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner._answer(self, body, owner._next(body, dict(self.headers)))

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> ModelServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def _next(self, body: dict[str, Any], headers: dict[str, str]) -> Answer:
        with self._lock:
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            place = len(self.requests) - 1
        # Which may wait for another request
        if callable(self.script):
            return self.script(body)
        return self.script[min(place, len(self.script) - 1)]

    def _answer(self, http: BaseHTTPRequestHandler, body: dict[str, Any], answer: Answer) -> None:
        streamed = answer.status == 200 and body.get("stream")
        http.send_response(answer.status)
        for name, value in answer.headers.items():
            http.send_header(name, value)
        http.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body.get("model"),
            "stop_sequence": None,
        }
        if streamed:
            http.end_headers()
            self._stream(http, message, answer)
            return
        facts: dict[str, Any] = message | {
            "content": [{"type": "text", "text": answer.text}],
            "stop_reason": answer.stop,
            "usage": answer.usage,
        }
        if answer.status != 200:
            # A careless gateway echoes the key; it must not get any further.
            key = http.headers.get("Authorization", "")
            facts = {
                "type": "error",
                "error": {"type": answer.error, "message": f"{answer.error}: {key}"},
            }
        data = json.dumps(facts).encode()
        http.send_header("Content-Length", str(len(data)))
        http.end_headers()
        http.wfile.write(data)

    def _stream(
        self, http: BaseHTTPRequestHandler, message: dict[str, Any], answer: Answer
    ) -> None:
        def send(kind: str, **facts: Any) -> None:
            http.wfile.write(
                f"event: {kind}\ndata: {json.dumps({'type': kind} | facts)}\n\n".encode()
            )
            http.wfile.flush()

        start = answer.usage | {"output_tokens": 1}
        send(
            "message_start", message=message | {"content": [], "stop_reason": None, "usage": start}
        )
        if answer.thinking:
            block = {"type": "thinking", "thinking": "", "signature": ""}
            send("content_block_start", index=0, content_block=block)
            for delta in (
                {"type": "thinking_delta", "thinking": answer.thinking},
                {"type": "signature_delta", "signature": "signed"},
            ):
                send("content_block_delta", index=0, delta=delta)
            send("content_block_stop", index=0)
        first = int(bool(answer.thinking))
        if answer.text:
            send("content_block_start", index=first, content_block={"type": "text", "text": ""})
            half = len(answer.text) // 2
            send(
                "content_block_delta",
                index=first,
                delta={"type": "text_delta", "text": answer.text[:half]},
            )
            if answer.broken:
                return
            if answer.hang:
                self.hung.set()
                try:
                    while not self.closing.wait(0.02):
                        send("ping")
                except OSError:
                    self.gone.set()
                return
            send(
                "content_block_delta",
                index=first,
                delta={"type": "text_delta", "text": answer.text[half:]},
            )
            send("content_block_stop", index=first)
        for place, (name, given) in enumerate(answer.tools, first + bool(answer.text)):
            block = {"type": "tool_use", "id": f"toolu_{place}", "name": name, "input": {}}
            send("content_block_start", index=place, content_block=block)
            delta = {"type": "input_json_delta", "partial_json": json.dumps(given)}
            send("content_block_delta", index=place, delta=delta)
            send("content_block_stop", index=place)
        if answer.error:
            send("error", error={"type": answer.error, "message": answer.error})
            return
        send(
            "message_delta",
            delta={"stop_reason": answer.stop, "stop_sequence": None},
            usage={"output_tokens": answer.usage["output_tokens"]},
        )
        send("message_stop")
