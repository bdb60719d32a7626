"""One request to the Messages API: streamed, retried as the SDK does, ended when the run is
cancelled, priced.

Tokens are those the reply reports; dollars come from genai-prices, or from `usd_per_call` for a
model that it does not know. The key goes to the SDK and nowhere else: every text that leaves this
module has it taken out. What is asked, and what a reply means, is the caller's.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoresearch_action.agents import AgentFailure, Context, Outage
from autoresearch_action.agents.numbers import one_line
from autoresearch_action.errors import InputError
from autoresearch_action.isolation.secrets import SHORTEST
from autoresearch_action.records import Usage

# Tokens of one reply, thinking included
MAX_OUTPUT = 16_000
# Seconds for one call with all its retries
CALL_LIMIT = 900.0
# With the SDK's pauses of 0.5 to 8 s: about 40 s of overload
RETRIES = 8
# For a server that takes no schema
IN_WORDS = "Answer with one JSON object of this schema and nothing else: "


@dataclass(frozen=True)
class Request:
    """What is sent. `schema`: of the JSON that is wanted; `tools`: as the API takes them."""

    system: Sequence[dict[str, Any]]
    messages: Sequence[dict[str, Any]]
    schema: dict[str, object] | None = None
    tools: Sequence[dict[str, Any]] = ()
    # Tokens of the reply at most
    most: int = MAX_OUTPUT

    @property
    def size(self) -> int:
        """Bytes of what a model reads of it."""
        return len(
            json.dumps([self.system, self.messages, self.tools], ensure_ascii=False).encode()
        )


@dataclass(frozen=True)
class Answer:
    """A whole reply. `blocks`: as the API wants them back in the next request."""

    text: str
    blocks: list[dict[str, Any]]
    usage: Usage

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tools that it asks for."""
        return [block for block in self.blocks if block["type"] == "tool_use"]


class Refused(Exception):
    """The server does not take a request of this form; the text says why."""


@dataclass(frozen=True)
class _Wrong:
    """What went wrong with a request."""

    # "": nothing
    told: str
    # As in AgentFailure
    fatal: bool = False
    transient: bool = False
    # The request itself, as it was put
    refused: bool = False


@dataclass
class _Call:
    """One request on its way."""

    request: Request
    cancelled: threading.Event
    # What has come so far, as the SDK's snapshot
    message: Any = None
    # Told the text so far as it comes
    listen: Callable[[str], None] = field(default=lambda _: None)


class Api:
    """A model behind a key. Raises InputError for one without a price when `usd_per_call` is None.

    Thread-safe: each request has a client of its own.
    """

    def __init__(
        self,
        model: str,
        key: str,
        usd_per_call: float | None = None,
        retries: int = RETRIES,
        long_cache: bool = False,
        effort: str | None = None,
    ) -> None:
        self.model, self.long_cache = model, long_cache
        self._key, self._usd_per_call, self._retries = key, usd_per_call, retries
        self._effort = effort
        # Until a server refuses it
        self._structured = True
        self._outage = Outage()
        if self.price(1, 0) is None and usd_per_call is None:
            raise InputError(
                f"The price list does not know {model[:80]!r}: give --usd-per-call (0 if it"
                " costs nothing)."
            )

    def price(self, write: int, output: int, fresh: int = 0, read: int = 0) -> float | None:
        """Dollars for so many tokens: written to the cache, of the reply, fresh, read from the
        cache; None where no list knows the model.
        """
        return _price(self.model, fresh, output, read, write, self.long_cache)

    def ask(
        self,
        request: Request,
        context: Context,
        before: Usage,
        listen: Callable[[str], None] = lambda _: None,
    ) -> Answer:
        """The reply, once the model may be asked. Raises Refused, and AgentFailure, whose usage
        includes `before`.
        """
        if not self._outage.over(context):
            raise AgentFailure("", before)
        call = _Call(request, context.cancelled, listen=listen)
        wrong = asyncio.run(self._watched(call))
        usage, text = self._usage(call.message), _text(call.message)
        wrong = wrong or _Wrong(self._stopped(call.message, text, request.most))
        # Raised here, outside every except clause: the SDK's errors carry the request and so the
        # key
        if wrong.refused and not usage.calls and request.tools:
            raise Refused(self.clean(wrong.told))
        if wrong.told:
            told = self.clean(wrong.told)
            if wrong.transient:
                self._outage.begin()
                told += " It is asked again while there is time."
            raise AgentFailure(told, before + usage, wrong.fatal, wrong.transient)
        self._outage.end()
        return Answer(text, [*_blocks(call.message)], usage)

    def clean(self, text: str, limit: int = 500) -> str:
        """A line without the key."""
        # A shorter one is none, and would blot out ordinary words
        secret = len(self._key) >= SHORTEST
        return one_line(text.replace(self._key, "[key]") if secret else text, limit)

    async def _watched(self, call: _Call) -> _Wrong | None:
        """Run the call, and end it when the run is cancelled or the call takes too long."""
        task = asyncio.create_task(self._stream(call))
        end = asyncio.get_running_loop().time() + CALL_LIMIT
        while not task.done():
            await asyncio.wait({task}, timeout=0.1)
            late = asyncio.get_running_loop().time() > end
            if not task.done() and (call.cancelled.is_set() or late):
                task.cancel()
                await asyncio.wait({task}, timeout=5)
                slow = f"{self.model} did not answer within {CALL_LIMIT:.0f} s."
                return _Wrong(slow if late else "The run was cancelled.")
        return task.result()

    async def _stream(self, call: _Call) -> _Wrong | None:
        """What went wrong. A server that refuses schema and effort is given the schema in the
        prompt, from then on, and no effort.
        """
        configured = self._structured and bool(call.request.schema or self._effort)
        wrong = await self._sent(call, configured)
        if not configured or not wrong or not wrong.refused:
            return wrong
        again = await self._sent(call, configured=False)
        # It may be something else that it refuses
        self._structured = again is not None and again.refused
        return again

    def _body(self, request: Request, configured: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.most,
            "system": list(request.system),
            "messages": request.messages,
        }
        if request.tools:
            body["tools"] = request.tools
        if request.schema and not configured:
            words = f"{IN_WORDS}{json.dumps(request.schema)}"
            body["system"].append({"type": "text", "text": words})
        if configured:
            form = {"type": "json_schema", "schema": request.schema}
            config = {"format": form if request.schema else None, "effort": self._effort}
            body["output_config"] = {name: value for name, value in config.items() if value}
            if self._effort:
                body["thinking"] = {"type": "adaptive"}
        return body

    async def _sent(self, call: _Call, configured: bool) -> _Wrong | None:
        """One request, with the SDK's retries."""
        # 1 s: only where it is used
        import anthropic
        import httpx2

        try:
            async with (
                anthropic.AsyncAnthropic(
                    api_key=self._key, max_retries=self._retries, timeout=CALL_LIMIT
                ) as client,
                client.messages.stream(**self._body(call.request, configured)) as stream,
            ):
                async for _ in stream:
                    call.message = stream.current_message_snapshot
                    call.listen(_text(call.message))
        except anthropic.APIStatusError as error:
            return self._status(error.status_code, error.type or "", error.api_message or "")
        except (anthropic.AnthropicError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            if call.message is not None:
                return _Wrong(
                    f"The connection to {self.model} broke off in the middle of its reply."
                )
            return _Wrong(
                f"The model's API cannot be reached ({type(error).__name__}): check the network"
                " and ANTHROPIC_BASE_URL.",
                transient=True,
            )
        except (ValueError, LookupError, RuntimeError, AssertionError) as error:
            return _Wrong(
                f"The model's API sent something that is no reply ({type(error).__name__})."
            )
        return None

    def _status(self, code: int, kind: str, message: str) -> _Wrong:
        told = one_line(message, 200).rstrip(".")
        told = f": {told}" if told else ""
        if code in (401, 403):
            refused = f"The model's API refuses the key (HTTP {code}): check ANTHROPIC_API_KEY."
            return _Wrong(refused, fatal=True)
        if code == 404:
            return _Wrong(
                f"The model's API does not know {self.model} (HTTP 404): give another with --agent"
                " claude:MODEL.",
                fatal=True,
            )
        if code == 429 or kind == "rate_limit_error":
            return _Wrong(
                f"The model's API limits the rate, also after {self._retries} retries (HTTP 429).",
                transient=True,
            )
        # A stream that has begun reports its error under HTTP 200
        if code >= 500 or code < 400:
            return _Wrong(
                "The model's API is overloaded or failing (HTTP"
                f" {code}{f', {kind}' if kind else ''}).",
                transient=True,
            )
        return _Wrong(
            f"The model's API refuses the request (HTTP {code}){told}.",
            fatal=code in (400, 402, 413),
            refused=code in (400, 422),
        )

    def _stopped(self, message: Any, text: str, most: int) -> str:
        """What is wrong with a reply that came through, by the reason it ended for; "" when nothing
        is.
        """
        reason = message.stop_reason if message is not None else None
        if reason == "refusal":
            category = getattr(getattr(message, "stop_details", None), "category", None)
            return f"{self.model} declined to answer{f' ({category})' if category else ''}."
        if reason == "max_tokens":
            return f"{self.model}'s reply was cut off at {most:,} tokens."
        if reason == "model_context_window_exceeded":
            return f"The prompt is too long for {self.model}."
        if reason is None:
            return f"{self.model}'s reply broke off before its end."
        asked = any(block.type == "tool_use" for block in message.content)
        return "" if asked or text.strip() else f"{self.model}'s reply was empty."

    def _usage(self, message: Any) -> Usage:
        """Tokens as reported; of a reply that broke off, what had come by then."""
        if message is None or message.usage is None:
            return Usage()
        told = message.usage
        output = told.output_tokens or 0
        if message.stop_reason is None:
            output = max(
                output, sum(len(getattr(block, "text", "") or "") for block in message.content) // 3
            )
        read, write = told.cache_read_input_tokens or 0, told.cache_creation_input_tokens or 0
        usd = self.price(write, output, told.input_tokens or 0, read)
        return Usage(
            calls=1,
            input_tokens=told.input_tokens or 0,
            output_tokens=output,
            cache_read_tokens=read,
            cache_write_tokens=write,
            usd=(self._usd_per_call or 0.0) if usd is None else usd,
        )


def _text(message: Any) -> str:
    if message is None:
        return ""
    return "".join(block.text for block in message.content if block.type == "text")


# Of a block, what the API takes back
_FIELDS = {
    "text": ("text",),
    "tool_use": ("id", "name", "input"),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
}


def _blocks(message: Any) -> Iterator[dict[str, Any]]:
    for block in message.content:
        if block.type in _FIELDS and not (block.type == "text" and not block.text.strip()):
            yield {"type": block.type} | {
                name: getattr(block, name) for name in _FIELDS[block.type]
            }


def _price(
    model: str, fresh: int, output: int, read: int, write: int, long: bool = False
) -> float | None:
    """Dollars for `fresh` + `read` + `write` input tokens and `output` ones; None where the price
    list has no such model.
    """
    import genai_prices

    cache = {"cache_write_tokens": write} | ({"cache_write_1h_tokens": write} if long else {})
    try:
        usage = genai_prices.Usage(
            input_tokens=fresh + read + write, output_tokens=output, cache_read_tokens=read, **cache
        )
        return float(
            genai_prices.calc_price(usage, model_ref=model, provider_id="anthropic").total_price
        )
    except LookupError:
        return None
