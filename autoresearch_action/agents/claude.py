"""Claude through the Messages API: one structured reply per experiment, one more where an edit does
not apply.

The long, stable part of the prompt is marked for the provider's cache. Calls stream, retry as the
SDK does (it honours retry-after) and end at once when the run is cancelled. Tokens are those the
reply reports; dollars come from genai-prices, or from `usd_per_call` for a model that it does not
know. The key goes to the SDK and nowhere else: every text that leaves this module has it taken out.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, ValidationError

from autoresearch_action.agents import AgentFailure, Context, Draft, Outage, prompt
from autoresearch_action.agents.edits import Edit, EditRefused, apply
from autoresearch_action.brief import Brief
from autoresearch_action.errors import InputError
from autoresearch_action.isolation.secrets import SHORTEST
from autoresearch_action.records import Experiment, Record, Usage

MODEL = "claude-sonnet-5-5"
# Tokens of one reply, thinking included
MAX_OUTPUT = 16_000
# Seconds for one call with all its retries
CALL_LIMIT = 900.0
# With the SDK's pauses of 0.5 to 8 s: about 40 s of overload
RETRIES = 8
# Seconds of time budget from which calls come too seldom for the cache's five minutes
LONG_CACHE = 150.0
# Bytes for schema and framing, in the worst case
ENVELOPE = 4_000
# By how much the prompt may grow from one call to the next, in the worst case
GROWTH = 1.25

ASK = (
    "Propose the next experiment. Each edit replaces `search`, copied exactly from a file to edit"
    " and occurring in it once, by"
    " `replace`; an empty `search` makes a new file. `description` is one line that says what"
    " changes; `comparable` is false where"
    " the training loss cannot be held against the present code's (another loss, context length,"
    " tokenizer or schedule)."
)


class Reply(Record):
    """What the model is asked for."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    hypothesis: str
    expected: str
    description: str
    comparable: bool
    edits: list[Edit]


SCHEMA: dict[str, object] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["hypothesis", "expected", "description", "comparable", "edits"],
    "properties": {
        "hypothesis": {
            "type": "string",
            "description": "why it should help, two sentences at most",
        },
        "expected": {"type": "string", "description": "the effect on the metric that you expect"},
        "description": {"type": "string", "description": "one line: what is changed"},
        "comparable": {"type": "boolean"},
        "edits": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["file", "search", "replace"],
                "properties": {name: {"type": "string"} for name in ("file", "search", "replace")},
            },
        },
    },
}

# For a server that takes no schema
IN_WORDS = f"Answer with one JSON object of this schema and nothing else: {json.dumps(SCHEMA)}"


@dataclass(frozen=True)
class _Wrong:
    """What went wrong with a call."""

    # "": nothing
    told: str
    # As in AgentFailure
    fatal: bool = False
    transient: bool = False
    # The request itself, as it was put
    refused: bool = False


class ClaudeAgent:
    """See the module's head. Raises InputError for a model without a price when `usd_per_call` is
    None.

    `worst_usd` counts a token for every byte of the prompt, none of it from the cache, and two
    replies of full length.
    """

    worst_usd: float | None

    def __init__(
        self,
        brief: Brief,
        key: str,
        model: str | None = None,
        usd_per_call: float | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.model = model or MODEL
        self.name = f"claude:{model}" if model else "claude"
        self._key, self._usd_per_call, self._retries = key, usd_per_call, retries
        self._long_cache = brief.time_budget >= LONG_CACHE
        self._lock = threading.Lock()
        # Until a server refuses to
        self._structured = True
        self._outage = Outage()
        self._size = 0
        self._priced = _price(self.model, 1, 0, 0, 0) is not None
        if not self._priced and usd_per_call is None:
            raise InputError(
                f"The price list does not know {self.model[:80]!r}: give --usd-per-call (0 if it"
                " costs nothing)."
            )
        parts = prompt.task(brief, brief.directory)
        self._reckon(sum(len(part.encode()) for part in parts) + prompt.HISTORY)

    def propose(self, context: Context) -> Draft:
        reply, usage = self._edited(context, f"{prompt.history(context)}\n\n{ASK}")
        return self._draft(reply, usage)

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        told = prompt.failure(failed)
        if told is None or failed.proposal is None:
            return None
        reply, usage = self._edited(
            context, f"{told} Give no edits if the idea itself cannot work.\n\n{ASK}", mending=True
        )
        draft = self._draft(reply, usage)
        return draft.model_copy(
            update={
                "description": prompt.one_line(f"{failed.proposal.description} (mended)"),
                "hypothesis": failed.proposal.hypothesis,
                "expected": failed.proposal.expected,
                "comparable": failed.proposal.comparable and draft.comparable,
            }
        )

    def _edited(
        self, context: Context, question: str, mending: bool = False
    ) -> tuple[Reply, Usage]:
        """A reply whose edits are applied in the tree, after one more call where the first one's
        were not.
        """
        system, prefix = self._prefix(context)
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [*prefix, {"type": "text", "text": question}]}
        ]
        self._reckon(
            sum(len(block["text"].encode()) for block in [*system, *messages[0]["content"]])
        )
        total = Usage()
        for last in (False, True):
            text, usage = self._call(system, messages, context, total)
            total = total + usage
            try:
                reply = _read(text)
                if mending and not reply.edits:
                    # Nothing to mend: not a failure, but paid for
                    raise AgentFailure("", total)
                apply(context.directory, reply.edits, context.brief.edit)
                return reply, total
            except EditRefused as refused:
                wrong = self._clean(str(refused), 600)
            if last:
                raise AgentFailure(f"{self.name}'s edit does not apply: {wrong}", total)
            messages += [
                {"role": "assistant", "content": text},
                {
                    "role": "user",
                    "content": f"None of it was applied: {wrong}\n"
                    "Give the whole reply again with that mended.",
                },
            ]
        raise AssertionError("unreachable")

    def _prefix(self, context: Context) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(system blocks, first blocks of the user's message); the cache ends after the frozen part
        and after the files.
        """
        mark = {"type": "ephemeral", **({"ttl": "1h"} if self._long_cache else {})}
        rules, *parts = prompt.task(context.brief, context.directory)
        blocks = [{"type": "text", "text": part, "cache_control": mark} for part in parts]
        return [{"type": "text", "text": rules}], blocks

    def _call(
        self,
        system: list[dict[str, Any]],
        messages: Sequence[dict[str, Any]],
        context: Context,
        before: Usage,
    ) -> tuple[str, Usage]:
        """(text of the reply, what it cost), once it may be asked. Raises AgentFailure, whose usage
        includes `before`.
        """
        if not self._outage.over(context):
            raise AgentFailure("", before)
        got: dict[str, Any] = {}
        wrong = asyncio.run(self._watched(system, messages, context.cancelled, got))
        usage = self._usage(got.get("message"))
        text = (
            "".join(block.text for block in got["message"].content if block.type == "text")
            if "message" in got
            else ""
        )
        wrong = wrong or _Wrong(self._stopped(got.get("message"), text))
        # Raised here, outside every except clause: the SDK's errors carry the request and so the
        # key
        if wrong.told:
            told = self._clean(wrong.told)
            if wrong.transient:
                self._outage.begin()
                told += " It is asked again while there is time."
            raise AgentFailure(told, before + usage, wrong.fatal, wrong.transient)
        self._outage.end()
        return text, usage

    async def _watched(
        self,
        system: list[dict[str, Any]],
        messages: Sequence[dict[str, Any]],
        cancelled: threading.Event,
        got: dict[str, Any],
    ) -> _Wrong | None:
        """Run the call, and end it when the run is cancelled or the call takes too long."""
        call = asyncio.create_task(self._stream(system, messages, got))
        end = asyncio.get_running_loop().time() + CALL_LIMIT
        while not call.done():
            await asyncio.wait({call}, timeout=0.1)
            late = asyncio.get_running_loop().time() > end
            if not call.done() and (cancelled.is_set() or late):
                call.cancel()
                await asyncio.wait({call}, timeout=5)
                slow = f"{self.model} did not answer within {CALL_LIMIT:.0f} s."
                return _Wrong(slow if late else "The run was cancelled.")
        return call.result()

    async def _stream(
        self, system: list[dict[str, Any]], messages: Sequence[dict[str, Any]], got: dict[str, Any]
    ) -> _Wrong | None:
        """Fill `got["message"]` as it arrives; what went wrong. A server that refuses the schema is
        given it in the prompt, from then on.
        """
        structured = self._structured
        wrong = await self._sent(system, messages, got, structured)
        if not structured or not wrong or not wrong.refused:
            return wrong
        again = await self._sent(system, messages, got, structured=False)
        # It may be something else that it refuses
        self._structured = again is not None and again.refused
        return again

    async def _sent(
        self,
        system: list[dict[str, Any]],
        messages: Sequence[dict[str, Any]],
        got: dict[str, Any],
        structured: bool,
    ) -> _Wrong | None:
        """One request, with the SDK's retries."""
        # 1 s: only where it is used
        import anthropic
        import httpx2

        request: dict[str, Any] = {
            "model": self.model,
            "max_tokens": MAX_OUTPUT,
            "system": system if structured else [*system, {"type": "text", "text": IN_WORDS}],
            "messages": messages,
        }
        if structured:
            request["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
        try:
            async with (
                anthropic.AsyncAnthropic(
                    api_key=self._key, max_retries=self._retries, timeout=CALL_LIMIT
                ) as client,
                client.messages.stream(**request) as stream,
            ):
                async for _ in stream:
                    got["message"] = stream.current_message_snapshot
        except anthropic.APIStatusError as error:
            return self._status(error.status_code, error.type or "", error.api_message or "")
        except (anthropic.AnthropicError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            if "message" in got:
                return _Wrong(
                    f"The connection to {self.model} broke off in the middle of its reply."
                )
            return _Wrong(
                f"The model's API cannot be reached ({type(error).__name__}): check the network"
                " and ANTHROPIC_BASE_URL.",
                transient=True,
            )
        except (ValueError, AssertionError) as error:
            return _Wrong(
                f"The model's API sent something that is no reply ({type(error).__name__})."
            )
        return None

    def _status(self, code: int, kind: str, message: str) -> _Wrong:
        told = prompt.one_line(message, 200).rstrip(".")
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

    def _stopped(self, message: Any, text: str) -> str:
        """What is wrong with a reply that came through, by the reason it ended for; "" when nothing
        is.
        """
        reason = message.stop_reason if message is not None else None
        if reason == "refusal":
            category = getattr(getattr(message, "stop_details", None), "category", None)
            return f"{self.model} declined to answer{f' ({category})' if category else ''}."
        if reason == "max_tokens":
            return f"{self.model}'s reply was cut off at {MAX_OUTPUT:,} tokens."
        if reason == "model_context_window_exceeded":
            return f"The prompt is too long for {self.model}."
        if reason is None:
            return f"{self.model}'s reply broke off before its end."
        return "" if text.strip() else f"{self.model}'s reply was empty."

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
        usd = _price(self.model, told.input_tokens or 0, output, read, write, self._long_cache)
        return Usage(
            calls=1,
            input_tokens=told.input_tokens or 0,
            output_tokens=output,
            cache_read_tokens=read,
            cache_write_tokens=write,
            usd=(self._usd_per_call or 0.0) if usd is None else usd,
        )

    def _reckon(self, size: int) -> None:
        """Set `worst_usd` from the largest prompt so far (bytes)."""
        with self._lock:
            self._size = max(self._size, size)
            tokens = math.ceil(GROWTH * self._size) + ENVELOPE
            first = _price(self.model, 0, MAX_OUTPUT, 0, tokens, self._long_cache)
            second = _price(self.model, MAX_OUTPUT, MAX_OUTPUT, 0, tokens, self._long_cache)
            self.worst_usd = (
                2 * (self._usd_per_call or 0.0)
                if first is None or second is None
                else first + second
            )

    def _draft(self, reply: Reply, usage: Usage) -> Draft:
        return Draft(
            description=self._clean(reply.description, 200) or "an edit without a description",
            hypothesis=self._clean(reply.hypothesis, 1_000),
            expected=self._clean(reply.expected, 300),
            comparable=reply.comparable,
            usage=usage,
        )

    def _clean(self, text: str, limit: int = 500) -> str:
        # A shorter one is none, and would blot out ordinary words
        secret = len(self._key) >= SHORTEST
        return prompt.one_line(text.replace(self._key, "[key]") if secret else text, limit)


def _read(text: str) -> Reply:
    """The JSON of a reply; a fence or words around it, as from a server without structured output,
    are passed over.
    """
    try:
        return Reply.model_validate_json(text[text.index("{") : text.rindex("}") + 1])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the JSON"
        raise EditRefused(
            f"The reply is not the JSON that was asked for: {where}: {first['msg']}."
        ) from None
    except ValueError:
        raise EditRefused(
            "The reply is not the JSON that was asked for: give one JSON object."
        ) from None


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
