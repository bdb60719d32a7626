"""Claude through the Messages API: one structured reply where the code is small, else bounded turns
with read-only tools, edits that are applied at once, and a submit.

The long, stable part of the prompt is marked for the provider's cache. Turns and dollars are capped
before each turn, and what is reserved for a call follows what such calls have cost. How a request
is sent, priced and ended is api.py's.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_action.agents import AgentFailure, Context, Draft, prompt, replies
from autoresearch_action.agents.api import MAX_OUTPUT, RETRIES, Answer, Api, Refused, Request
from autoresearch_action.agents.digest import HISTORY, digest
from autoresearch_action.agents.edits import EditRefused, apply
from autoresearch_action.agents.numbers import one_line
from autoresearch_action.agents.tools import HOW, Workbench
from autoresearch_action.brief import Brief
from autoresearch_action.records import Experiment, Usage

MODEL = "claude-sonnet-5-5"
# Of one call
TURNS = 24
# Seconds of time budget from which calls come too seldom for the cache's five minutes
LONG_CACHE = 150.0
# Bytes for schema and framing, in the worst case
ENVELOPE = 6_000
# By how much the prompt may grow from one call to the next, in the worst case
GROWTH = 1.25
# Calls whose costs are remembered, and by how much one may pass the dearest and the mean of them
REMEMBERED, ABOVE_DEAREST, ABOVE_MEAN = 20, 2.0, 2.9
# Characters of a file's lines that are shown where an edit does not fit
MOST_NEAR = 3_000
# Tokens of a reply without which a turn is not worth asking for
LEAST_OUTPUT = 1_500

ASK = (
    "Propose experiment #{number}. Each edit replaces `search`, copied exactly from a file to edit"
    " and occurring in it once, by `replace`; an empty `search` makes a new file."
)
ASK_IN_TURNS = "Propose experiment #{number}."


class ClaudeAgent:
    """See the module's head. Raises InputError for a model without a price when `usd_per_call` is
    None.

    `worst_usd`: before the first call, a token for every byte of the prompt, none of it from the
    cache, and replies of full length; afterwards by what calls have cost.
    """

    reads_profiles = True

    def __init__(
        self,
        brief: Brief,
        key: str,
        model: str | None = None,
        usd_per_call: float | None = None,
        retries: int = RETRIES,
        effort: str | None = None,
    ) -> None:
        self.name = f"claude:{model}" if model else "claude"
        long_cache = brief.time_budget >= LONG_CACHE
        self.api = Api(model or MODEL, key, usd_per_call, retries, long_cache, effort)
        self._usd_per_call = usd_per_call
        self._lock = threading.Lock()
        # Until a server refuses to take tools
        self._in_turns = True
        self._costs: deque[float] = deque(maxlen=REMEMBERED)
        # Tokens that a byte of a prompt takes at most
        self._tokens_a_byte = 1.0
        task = prompt.task(brief, brief.directory)
        self._size = HISTORY + sum(
            len(part.encode()) for part in (task.rules, task.frozen, task.files)
        )
        self._small = task.small

    @property
    def worst_usd(self) -> float | None:
        """Most that one call is expected to cost; what it may cost is its context's allowance."""
        with self._lock:
            first = self._first_usd()
            if not self._costs:
                return first
            mean = math.fsum(self._costs) / len(self._costs)
            return min(first, ABOVE_DEAREST * max(self._costs), ABOVE_MEAN * mean)

    def _first_usd(self) -> float:
        """Of a call before anything is known of their costs: two requests with full replies."""
        tokens = math.ceil(GROWTH * self._size * self._tokens_a_byte) + ENVELOPE
        one = self.api.price(tokens, MAX_OUTPUT)
        requests = 2 if self._small else 4
        return requests * (self._usd_per_call or 0.0) if one is None else requests * one

    def propose(self, context: Context) -> Draft:
        told = "\n\n".join(filter(None, [digest(context), replies.notes(context, self.name)]))
        return self._made(context, told)

    def repair(self, context: Context, failed: Experiment) -> Draft | None:
        told = prompt.failure(failed)
        if told is None or failed.proposal is None:
            return None
        told = f"{told} Give no edits if the idea itself cannot work."
        draft = self._made(context, told, mending=True)
        return draft.model_copy(
            update={
                "description": one_line(f"{failed.proposal.description} (mended)", 260),
                "hypothesis": failed.proposal.hypothesis,
                "expected": failed.proposal.expected,
                "predicted": failed.proposal.predicted,
                "comparable": failed.proposal.comparable and draft.comparable,
            }
        )

    def _made(self, context: Context, told: str, mending: bool = False) -> Draft:
        call = _Call(self, context, prompt.place(context), mending)
        try:
            if call.task.small or not self._in_turns:
                return call.whole(told)
            try:
                return call.in_turns(told)
            except Refused:
                self._in_turns = False
                return call.whole(told)
        finally:
            self._paid(call.usage)

    def _paid(self, usage: Usage) -> None:
        with self._lock:
            if usage.calls:
                self._costs.append(usage.usd)

    def learn(self, request: Request, usage: Usage) -> None:
        """How many tokens a byte takes, from a reply's own count."""
        tokens = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        with self._lock:
            self._size = max(self._size, request.size)
            if tokens:
                self._tokens_a_byte = min(1.0, 1.2 * tokens / request.size + 0.02)

    def affordable(self, request: Request, left: float) -> int:
        """Tokens of a reply that `left` dollars pay for beside the prompt, at most MAX_OUTPUT; 0
        where they are too few to ask.
        """
        tokens = math.ceil(request.size * self._tokens_a_byte) + ENVELOPE // 3
        spent, each = self.api.price(tokens, 0), self.api.price(0, 1_000)
        if spent is None or each is None:
            return MAX_OUTPUT if (self._usd_per_call or 0.0) <= left else 0
        most = MAX_OUTPUT if left == math.inf else int((left - spent) / each * 1_000)
        return min(MAX_OUTPUT, most) if most >= LEAST_OUTPUT else 0


class _Call:
    """One call of the agent: the requests that it makes until a draft is there."""

    def __init__(
        self, agent: ClaudeAgent, context: Context, task: prompt.Task, mending: bool
    ) -> None:
        self.agent, self.context, self.task, self.mending = agent, context, task, mending
        self.api, self.usage = agent.api, Usage()
        self.trains = prompt.trains(context.brief, context.history)

    def whole(self, told: str) -> Draft:
        """From one reply with everything in it, after one more where its edits are not taken."""
        ask = ASK.format(number=self.context.number)
        system, messages = self._opening([self.task.rules], f"{told}\n\n{ask}")
        schema = replies.schema(self.context.brief.metric, self.trains)
        for last in (False, True):
            answer = self._asked(Request(system, messages, schema))
            try:
                reply = replies.read(answer.text)
                if self.mending and not reply.edits:
                    # Nothing to mend: not a failure, but paid for
                    raise AgentFailure("", self.usage)
                self._taken(reply)
                return replies.draft(reply, self.api.clean, reply.analysis, self.usage)
            except EditRefused as refused:
                wrong, near = self.api.clean(str(refused), 600), refused.near[:MOST_NEAR]
            if last:
                raise AgentFailure(f"{self.agent.name}'s edit is not taken: {wrong}", self.usage)
            near = near.replace("</", "<\\/")
            told = f"None of it was applied: {wrong}\n"
            told += f"<file>\n{near}\n</file>\n" if near else ""
            told += "Give the whole reply again with that mended."
            messages += [
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": "\n".join([told, *self.context.others()])},
            ]
        raise AssertionError("unreachable")

    def _taken(self, reply: replies.Reply) -> None:
        """Apply the edits. Raises EditRefused, and leaves the tree as it was then."""
        directory, patterns = self.context.directory, self.context.brief.edit
        before = _contents(directory, [edit.file for edit in reply.edits])
        apply(directory, reply.edits, patterns)
        if refusal := self.context.refusal():
            _restore(before)
            raise EditRefused(refusal)
        self.context.intend(reply.description)

    def in_turns(self, told: str) -> Draft:
        """With tools. Raises Refused where the server does not take them."""
        bench = Workbench(self.context)
        ask = ASK_IN_TURNS.format(number=self.context.number)
        rules = [self.task.rules, HOW.format(turns=TURNS)]
        system, messages = self._opening(rules, f"{told}\n\n{ask}")
        tools = [*bench.schemas(), replies.submit_tool(self.context.brief.metric, self.trains)]
        thoughts, news = list[str](), _News(self.context.others)
        for turn in range(1, TURNS + 1):
            answer = self._asked(Request(system, messages, tools=tools))
            thoughts.append(answer.text)
            results = []
            for call in answer.calls:
                if call["name"] != "submit":
                    text, wrong = bench.run(call["name"], call["input"])
                else:
                    if self.mending and not bench.changed:
                        raise AgentFailure("", self.usage)
                    try:
                        return self._submitted(bench, call["input"], thoughts)
                    except EditRefused as refused:
                        text, wrong = self.api.clean(str(refused), 600), True
                results.append(_result(call["id"], text, wrong))
            _unmarked(messages)
            words = self._words(turn, bool(results), news())
            messages += [
                {"role": "assistant", "content": answer.blocks},
                {"role": "user", "content": [*results, *words]},
            ]
            messages[-1]["content"][-1]["cache_control"] = self._mark
        raise AgentFailure(
            f"{self.agent.name} did not submit within its {TURNS} turns.", self.usage
        )

    def _words(self, turn: int, asked: bool, news: Sequence[str]) -> list[dict[str, Any]]:
        """What is said beside the tools' answers."""
        left = TURNS - turn
        words = [*news]
        if not asked:
            words.append("Go on with the tools, and end with `submit`.")
        if left <= 3 or left == TURNS // 2:
            words.append(f"{left} turn{'s' * (left != 1)} left: what is not submitted is lost.")
        return [{"type": "text", "text": "\n".join(words)}] if words else []

    def _submitted(self, bench: Workbench, given: object, thoughts: Sequence[str]) -> Draft:
        said = replies.submitted(given)
        if not bench.changed:
            raise EditRefused("Nothing is edited yet: use `edit` first.")
        if refusal := self.context.refusal():
            raise EditRefused(f"Not taken: {refusal} Your edits stand in your tree: change them.")
        self.context.intend(said.description)
        return replies.draft(said, self.api.clean, "\n".join(thoughts), self.usage)

    @property
    def _mark(self) -> dict[str, str]:
        """The end of what the provider is to keep in its cache."""
        return {"type": "ephemeral", **({"ttl": "1h"} if self.api.long_cache else {})}

    def _opening(
        self, rules: Sequence[str], question: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(system blocks, messages); the cache ends after the frozen part and after the files."""
        blocks: list[dict[str, Any]] = [
            {"type": "text", "text": part, "cache_control": self._mark}
            for part in (self.task.frozen, self.task.files)
        ]
        content = [*blocks, {"type": "text", "text": question}]
        return [_block(part) for part in rules], [{"role": "user", "content": content}]

    def _asked(self, request: Request) -> Answer:
        """The reply to a request that the reserved dollars pay for. Raises AgentFailure."""
        context = self.context
        if self.usage.calls and (context.cancelled.is_set() or context.late()):
            # Nothing could be measured any more
            raise AgentFailure("", self.usage)
        most = self.agent.affordable(request, context.allowance - self.usage.usd)
        if not most:
            allowed = f"the {context.allowance:.3g} dollars that are left for a call"
            raise AgentFailure(
                f"{self.agent.name} was ended before it passed {allowed}.",
                self.usage,
                # Nothing was asked: the next call would fare no better
                fatal=not self.usage.calls,
            )
        request = Request(request.system, request.messages, request.schema, request.tools, most)
        answer = self.api.ask(request, context, self.usage, self._listen)
        self.usage = self.usage + answer.usage
        self.agent.learn(request, answer.usage)
        return answer

    def _listen(self, text: str) -> None:
        """Tell the other calls of the idea as soon as it is known."""
        if line := replies.intended(text):
            self.context.intend(line)


class _News:
    """Lines that were not there before."""

    def __init__(self, lines: Callable[[], Sequence[str]]) -> None:
        self._lines, self._told = lines, {*lines()}

    def __call__(self) -> list[str]:
        new = [line for line in self._lines() if line not in self._told]
        self._told |= {*new}
        return new


def _block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _result(call: str, text: str, wrong: bool) -> dict[str, Any]:
    error = {"is_error": True} if wrong else {}
    return {"type": "tool_result", "tool_use_id": call, "content": text, **error}


def _unmarked(messages: Sequence[Mapping[str, Any]]) -> None:
    """The cache takes four marks at most: of the turns the latest alone has one."""
    for message in messages[1:]:
        for block in message["content"]:
            block.pop("cache_control", None)


def _contents(directory: Path, files: Sequence[str]) -> dict[Path, bytes | None]:
    paths = [directory / file.strip() for file in files]
    inside = [path for path in paths if path.resolve().is_relative_to(directory.resolve())]
    return {path: path.read_bytes() if path.is_file() else None for path in inside}


def _restore(contents: Mapping[Path, bytes | None]) -> None:
    for path, content in contents.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)
