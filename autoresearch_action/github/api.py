"""The connection to GitHub or a GitHub Enterprise Server: one repository, patient calls, failures
as sentences.

Retries what may pass (5xx, lost connections, short rate limits) and nothing else; every caller can
bear a request that is carried out twice, because a lost answer may belong to one that was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import requests
from github import Auth, Github, GithubException
from github.Repository import Repository

from autoresearch_action.errors import EnvironmentFault

T = TypeVar("T")
ATTEMPTS = 5
# Seconds, doubled every time
FIRST_PAUSE = 1.0
# Seconds; a rate limit that asks for more is reported
LONGEST_PAUSE = 60.0
# Seconds of one request
TIMEOUT = 30
LATER = (
    "Nothing is lost: the state folder (in a job, the artifact) holds everything, and"
    " `autoresearch publish --state DIR` does it later."
)
ALLOW = (
    "let Actions open pull requests: repository Settings > Actions > General > Workflow"
    " permissions >"
    " 'Allow GitHub Actions to create and approve pull requests' (an organisation may have to"
    " allow it first), or give an App token"
)
RULE = re.compile(
    r"rule violation|protected branch|force-push|creations being restricted", re.IGNORECASE
)


class Refused(EnvironmentFault):
    """GitHub says no (a 4xx): which permission, setting or rule to change, for whoever does not
    judge `status` or `words`.
    """

    def __init__(self, what: str, error: GithubException) -> None:
        self.status, self.words = error.status, said(error)
        super().__init__(f"Could not {what}: {self._advice()}. {LATER}")

    def _advice(self) -> str:
        if "not permitted to create" in self.words:
            return ALLOW
        if RULE.search(self.words):
            return (
                f"a rule of the repository refuses it ('{self.words}'): under Settings > Rules"
                " > Rulesets (or Branches) take the branches"
                " autoresearch* out of that rule, or let this job's token bypass it"
            )
        if self.status in (403, 404):
            needed = (
                "`permissions: contents: write`, `pull-requests: write` and, for queued"
                " checkpoints, `actions: read`"
            )
            return f"GitHub says '{self.words}'; give the job {needed}"
        return f"GitHub answers {self.status}: {self.words}"


@dataclass
class Api:
    """One repository and how patiently it is asked. `sleep` and `pause` are for tests."""

    server: str
    pause: float = FIRST_PAUSE
    sleep: Callable[[float], None] = time.sleep
    # Set by `connect`
    repository: Repository = field(init=False)

    def call(self, what: str, work: Callable[..., T], *words: Any, **more: Any) -> T:
        """`work(*words, **more)`, tried again where that can help. Raises EnvironmentFault; of a
        4xx, Refused.
        """
        pause = self.pause
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return work(*words, **more)
            except (requests.RequestException, OSError) as error:
                trouble = f"GitHub cannot be reached ({type(error).__name__})"
            except GithubException as error:
                wait = _wait(error)
                if error.status == 401:
                    raise EnvironmentFault(
                        f"Could not {what}: the token is not valid, or no longer. {LATER}"
                    ) from None
                if wait is None and error.status < 500:
                    raise Refused(what, error) from None
                trouble = f"GitHub answers {error.status}: {said(error)}"
                if wait is not None and wait > LONGEST_PAUSE:
                    raise EnvironmentFault(
                        f"Could not {what}: the rate limit is used up for {wait / 60:.0f}"
                        f" minutes. {LATER}"
                    ) from None
                pause = max(pause, wait or 0.0)
            if attempt < ATTEMPTS:
                self.sleep(min(pause, LONGEST_PAUSE))
                pause *= 2
        raise EnvironmentFault(f"Could not {what}: {trouble}, {ATTEMPTS} times. {LATER}")

    def ask(self, what: str, work: Callable[..., T], *words: Any, **more: Any) -> T | None:
        """`call`, with None where GitHub says that there is no such thing."""
        try:
            return self.call(what, work, *words, **more)
        except Refused as refused:
            if refused.status == 404 or (
                refused.status == 409 and "empty" in refused.words.lower()
            ):
                return None
            raise

    def web(self, path: str) -> str:
        """An address on the server's site."""
        return f"{self.server}/{self.repository.full_name}/{path}"


def connect(environ: Mapping[str, str]) -> Api:
    """The repository of the job. Raises EnvironmentFault naming what is missing."""
    token = environ.get("GITHUB_TOKEN") or environ.get("GH_TOKEN") or ""
    name = environ.get("GITHUB_REPOSITORY", "")
    if not token.strip():
        raise EnvironmentFault(
            "Set GITHUB_TOKEN to a token with `contents: write` and `pull-requests: write`."
            f" {LATER}"
        )
    if not re.fullmatch(r"[!-~]+", token.strip()):
        raise EnvironmentFault("GITHUB_TOKEN holds characters that no token has: set it anew.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise EnvironmentFault(
            "Set GITHUB_REPOSITORY to owner/name: no checkout of it with an origin there was found."
        )
    base = environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", base):
        raise EnvironmentFault(f"GITHUB_API_URL: {base[:100]!r} is no address of a server.")
    # A server on this machine needs no manners
    quick = base.startswith("http://127.")
    github = Github(
        auth=Auth.Token(token.strip()),
        base_url=base,
        timeout=TIMEOUT,
        retry=None,
        seconds_between_requests=None,
        seconds_between_writes=None if quick else 1.0,
    )
    server = environ.get("GITHUB_SERVER_URL", "https://github.com").rstrip("/")
    api = Api(server, pause=0.01 if quick else FIRST_PAUSE)
    found = api.ask("read the repository", github.get_repo, name)
    if found is None:
        raise EnvironmentFault(
            f"{name} is not there, or the token may not see it: give it `contents: write` on"
            " this repository."
        )
    api.repository = found
    return api


def said(error: GithubException) -> str:
    """GitHub's own words."""
    data: Any = error.data
    if not isinstance(data, Mapping):
        return str(data or error.message or "no message")[:200]
    details = [
        str(e.get("message") or f"{e.get('field', '')} {e.get('code', '')}")
        if isinstance(e, Mapping)
        else str(e)
        for e in data.get("errors") or []
    ]
    return " ".join("; ".join(filter(None, [str(data.get("message") or ""), *details])).split())[
        :400
    ]


def _wait(error: GithubException) -> float | None:
    """Seconds that a rate limit asks for; None where the error is none."""
    headers = {key.lower(): value for key, value in (error.headers or {}).items()}
    if error.status not in (403, 429):
        return None
    if headers.get("retry-after", "").isdigit():
        return float(headers["retry-after"])
    if (
        headers.get("x-ratelimit-remaining") == "0"
        and headers.get("x-ratelimit-reset", "").isdigit()
    ):
        return max(0.0, float(headers["x-ratelimit-reset"]) - time.time())
    return FIRST_PAUSE if "rate limit" in said(error).lower() else None


def allowed(
    token: str, repository: str, environ: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    """What the token may do here, for `doctor`: (name, finding, advice or "")."""
    try:
        api = connect({**environ, "GITHUB_TOKEN": token, "GITHUB_REPOSITORY": repository})
    except EnvironmentFault as error:
        yield "github", str(error), "Check GITHUB_TOKEN and GITHUB_REPOSITORY."
        return
    rights = api.repository.permissions
    if rights is not None and rights.push:
        yield "github", f"the token may write to {repository}", ""
    else:
        yield (
            "github",
            f"the token may only read {repository}",
            "Publishing needs `permissions: contents: write, pull-requests: write`.",
        )
    try:
        api.call("list pull requests", lambda: list(islice(api.repository.get_pulls(), 1)))
    except EnvironmentFault as error:
        yield "pull requests", str(error), "Publishing needs `permissions: pull-requests: write`."
    try:
        _, answer = api.repository.requester.requestJsonAndCheck(
            "GET", f"{api.repository.url}/actions/permissions/workflow"
        )
    except (GithubException, requests.RequestException):
        yield (
            "pull requests",
            "whether Actions may open pull requests is only shown to administrators",
            "",
        )
        return
    if answer.get("can_approve_pull_request_reviews"):
        yield "pull requests", "Actions may open pull requests", ""
    else:
        yield (
            "pull requests",
            "Actions may not open pull requests",
            f"An administrator must {ALLOW}.",
        )
