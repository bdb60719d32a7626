"""GitHub's REST API on loopback: stateful, on top of a real bare git repository, checked against GitHub's own OpenAPI text.

    with FakeGitHub(tmp_path / "origin.git") as fake:            # made, with one commit on main, where it does not exist
        monkeypatch.setenv("GITHUB_API_URL", fake.url)           # or fake.url + "/api/v3"; the token is fake.token
        fake.fault("POST", r"/pulls$", status=502, after=True)   # done, but the answer is lost
        ...
        fake.check()                                             # no violations, nothing asked that is not covered here

Covers the operations in OPERATIONS for one repository. Blobs, trees, commits and refs are real git objects; pull requests follow
pushes, merges and deleted branches. Requests and answers are held against the description that Octokit publishes (npm, pinned
below; TOLERATED lists what may differ). Required fields of an answer that nothing here depends on are filled with placeholders.

Does not cover: forks, GraphQL beyond updateRefs (held against no description), merging by API, giving reviews, checks, tag
objects, submodules, symbolic links, empty repositories, ETags, rulesets beyond "may not be written", a token's scopes and rate
limits (inject the last two as faults). A commit that GitHub would have signed says so in `verification`; the git object carries no signature.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from fake_repository import Ask, Problem, Repository, found, invalid, now
from github_openapi import OPERATIONS, REPO, Checker

WIDE = {"ref", "base", "head", "branch", "path"}  # parameters that may hold a slash
OTHERS = re.compile(
    r"/(commits|branches)/.+/(pulls|status|statuses|check-runs|check-suites|comments|protection|rename)$"
)  # not covered


@dataclass
class Fault:
    method: str  # or *
    path: str
    times: int = 1
    status: int = 502
    message: str = "Server Error"
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False  # the operation is carried out all the same
    drop: bool = False  # the connection is closed without an answer
    call: Callable[[], Any] | None = None  # a hook: nothing else happens


class FakeGitHub(Repository):
    def __init__(
        self,
        bare: Path,
        repository: str = "octo/repo",
        *,
        validate: bool = True,
        token: str = "ghs_test",
    ) -> None:
        super().__init__(bare, repository)
        self.token = token
        self.faults: list[Fault] = []
        self.checker = Checker() if validate else None

    def __enter__(self) -> FakeGitHub:
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self})
        )
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def writes(self) -> list[tuple[str, str, int, Any]]:
        return [request for request in self.requests if request[0] != "GET"]

    def check(self) -> None:
        assert not self.violations, "\n".join(self.violations)
        assert not self.unknown, f"not covered by the fake: {self.unknown}"

    def fault(self, method: str, path: str, **more: Any) -> None:
        """Answer the next requests whose path (with query, without prefix) matches otherwise; `more` as in Fault."""
        self.faults.append(Fault(method, path, **more))

    def hook(self, method: str, path: str, call: Callable[[], Any]) -> None:
        """Call once, just before a matching request is served."""
        self.faults.append(Fault(method, path, call=call))

    # What people do behind our back, and looks into the repository

    def answer(self, ask: Ask) -> Any:
        at = ask.at
        if (
            f"{at.get('owner', self.owner)}/{at.get('repo', self.repository.split('/')[1])}".lower()
            != self.repository.lower()
        ):
            raise Problem(404, "Not Found")
        self._sync()
        part = ask.operation.partition(" ~/")[2].split("/")[0]
        serve = {
            "git": self._serve_git,
            "labels": self._serve_issues,
            "issues": self._serve_issues,
            "pulls": self._serve_pulls,
        }
        return serve.get(part, self._serve_repository)(ask)

    def _serve_repository(self, ask: Ask) -> Any:
        at, query = ask.at, ask.query
        match ask.operation:
            case "GET /user":
                if self.settings["app_token"]:
                    raise Problem(403, "Resource not accessible by integration")
                return self._user(self.settings["login"])
            case "GET /rate_limit":
                rate = {
                    "limit": 5000,
                    "remaining": 4999,
                    "used": 1,
                    "reset": int(time.time()) + 3600,
                }
                return {"rate": rate, "resources": {"core": rate, "search": rate}}
            case "GET ~":
                return self._repository()
            case "GET ~/actions/runs/{run_id}":
                return {"id": int(at["run_id"]), "status": found(self.runs.get(at["run_id"]))}
            case "POST ~/dispatches":
                self.dispatched.append(ask.body)
                return 204, None
            case "GET ~/actions/permissions/workflow":
                if not self.settings["admin"]:
                    raise Problem(403, "Resource not accessible by integration")
                allowed = self.settings["actions_may_create_pulls"]
                return {
                    "default_workflow_permissions": "read",
                    "can_approve_pull_request_reviews": allowed,
                }
            case "GET ~/branches/{branch}":
                sha = found(self.sha(f"heads/{at['branch']}"), 404, "Branch not found")
                return {"name": at["branch"], "commit": self._full_commit(sha), "protected": False}
            case "GET ~/commits":
                sha = found(self.sha(query.get("sha", "HEAD")))
                paths = ["--", query["path"]] if "path" in query else []
                return [self._full_commit(one) for one in self._revisions(sha, *paths)]
            case "GET ~/commits/{ref}":
                sha = found(self.sha(at["ref"]), 422, f"No commit found for SHA: {at['ref']}")
                before = self.attempt("rev-parse", "--verify", "--quiet", f"{sha}^") or self._tree(
                    None, []
                )
                return self._full_commit(sha) | {"files": self._files(before, sha)}
            case "GET ~/compare/{base}...{head}":
                base, head = (
                    found(self.sha(at[side].removeprefix(f"{self.owner}:")))
                    for side in ("base", "head")
                )
                fork = found(
                    self.attempt("merge-base", base, head),
                    404,
                    f"No common ancestor between {at['base']} and {at['head']}.",
                )
                ahead, behind = (
                    self._revisions("--reverse", head, f"^{base}"),
                    self._revisions(base, f"^{head}"),
                )
                status = (
                    ("diverged" if behind else "ahead")
                    if ahead
                    else ("behind" if behind else "identical")
                )
                facts = {
                    "status": status,
                    "ahead_by": len(ahead),
                    "behind_by": len(behind),
                    "total_commits": len(ahead),
                }
                facts |= {
                    "base_commit": self._full_commit(base),
                    "merge_base_commit": self._full_commit(fork),
                }
                return facts | {
                    "commits": [self._full_commit(one) for one in ahead],
                    "files": self._files(fork, head),
                }
            case "GET ~/contents/{path}":
                return self._content(query.get("ref", self.settings["default_branch"]), at["path"])
        branch, path = (
            ask.body.get("branch", self.settings["default_branch"]),
            at["path"],
        )  # PUT, DELETE ~/contents/{path}
        parent = found(self.sha(f"heads/{branch}"), 404, f"Branch {branch} not found")
        old, write = (
            self.attempt("rev-parse", "--verify", "--quiet", f"{parent}:{path}"),
            ask.operation.startswith("PUT"),
        )
        if (old or not write) and ask["sha"] != found(old):
            raise Problem(409, f"{path} does not match {ask['sha']}")
        data = base64.b64decode(ask["content"]) if write else b""
        blob = self.git("hash-object", "-w", "--stdin", data=data).strip() if write else None
        tree = self._tree(parent, [{"path": path, "mode": "100644", "sha": blob}])
        commit = self._commit_asked(ask, tree, [parent], branch)
        return 200 if old else 201, {
            "content": self._content(branch, path) if write else None,
            "commit": commit,
        }

    def _serve_git(self, ask: Ask) -> Any:
        at = ask.at
        match ask.operation.replace("~/git/", ""):
            case "POST blobs":
                data = (
                    ask["content"].encode()
                    if ask.body.get("encoding", "utf-8") == "utf-8"
                    else base64.b64decode(ask["content"])
                )
                sha = self.git("hash-object", "-w", "--stdin", data=data).strip()
                return 201, {"sha": sha, "url": f"{self._at}/git/blobs/{sha}"}
            case "GET blobs/{file_sha}":
                sha = at["file_sha"]
                data = found(self.sha(sha, "blob")) and self.git("cat-file", "blob", sha).encode(
                    errors="surrogateescape"
                )
                facts = {
                    "sha": sha,
                    "size": len(data),
                    "encoding": "base64",
                    "content": base64.encodebytes(data).decode(),
                }
                return facts | {"url": f"{self._at}/git/blobs/{sha}"}
            case "POST trees" | "GET trees/{tree_sha}" as call:
                sha = ask.body.get("base_tree") if call == "POST trees" else at["tree_sha"]
                sha = found(self.sha(sha, "tree")) if sha else None
                if call == "POST trees":
                    sha = self._tree(sha, ask["tree"])
                deep = ["-r", "-t"] if ask.query.get("recursive") else []
                entries = []
                for line in self.git("ls-tree", "-z", "-l", *deep, found(sha)).split("\0")[:-1]:
                    (mode, kind, blob, size), path = (
                        line.partition("\t")[0].split(),
                        line.partition("\t")[2],
                    )
                    facts = {
                        "path": path,
                        "mode": mode,
                        "type": kind,
                        "sha": blob,
                        "url": f"{self._at}/git/{kind}s/{blob}",
                    }
                    entries.append(facts | ({} if size == "-" else {"size": int(size)}))
                tree = {
                    "sha": sha,
                    "url": f"{self._at}/git/trees/{sha}",
                    "tree": entries,
                    "truncated": self.settings.get("truncated", False),
                }
                return 201 if call == "POST trees" else 200, tree
            case "POST commits":
                tree = found(self.sha(ask["tree"], "tree"), 422, "Tree SHA does not exist")
                missing = "Parent SHA does not exist or is not a commit object"
                return 201, self._commit_asked(
                    ask,
                    tree,
                    [found(self.sha(one), 422, missing) for one in ask.body.get("parents", [])],
                )
            case "GET commits/{commit_sha}":
                return self._git_commit(found(self.sha(at["commit_sha"])))
            case "GET ref/{ref}":
                return self._ref(f"refs/{at['ref']}")
            case "GET matching-refs/{ref}":
                refs = self.git("for-each-ref", "--format=%(refname)").split()
                return [self._ref(ref) for ref in refs if ref.startswith(f"refs/{at['ref']}")]
            case "POST refs":
                ref = ask["ref"]
                if (
                    not re.match("refs/[^/]+/.", ref)
                    or self.attempt("check-ref-format", ref) is None
                ):
                    raise Problem(
                        422,
                        "Reference name must start with 'refs/' and contain at least three components.",
                    )
                if self.attempt("show-ref", "--verify", ref):
                    raise Problem(422, "Reference already exists")
                if rule := self._rule(ref):
                    raise Problem(422, rule)
                self.git(
                    "update-ref", ref, found(self.sha(ask["sha"]), 422, "Object does not exist")
                )
                return 201, self._ref(ref)
        ref = f"refs/{at['ref']}"  # PATCH, DELETE refs/{ref}
        old = found(
            self.attempt("rev-parse", "--verify", "--quiet", ref), 422, "Reference does not exist"
        )
        if ask.operation.startswith("DELETE"):
            self.git("update-ref", "-d", ref)
            self._sync()
            return 204, None
        new = found(self.sha(ask["sha"]), 422, "Object does not exist")
        if rule := self._rule(ref):
            raise Problem(422, rule)
        if not ask.body.get("force") and self.attempt("merge-base", old, new) != old:
            raise Problem(422, "Update is not a fast forward")
        self.git("update-ref", ref, new)
        self._sync()
        return self._ref(ref)

    def _serve_issues(self, ask: Ask) -> Any:
        at = ask.at
        match ask.operation:
            case "GET ~/labels":
                return [self._label(name) for name in self.labels]
            case "POST ~/labels":
                if any(label.lower() == ask["name"].lower() for label in self.labels):
                    raise invalid("Label", "already_exists", field="name")
                return 201, self._label(
                    ask["name"], ask.body.get("color", "ededed"), ask.body.get("description")
                )
            case "GET ~/labels/{name}":
                name = next(
                    (label for label in self.labels if label.lower() == at["name"].lower()), None
                )
                return self._label(found(name))
        pull = found(self.pulls.get(int(at["issue_number"])))
        form = self._pull(pull)
        match ask.operation.split("/")[-1], ask.operation.split()[0]:
            case "labels", method:
                if method == "POST":
                    names = [
                        self._label(name)["name"]
                        for name in (ask.body if isinstance(ask.body, list) else ask["labels"])
                    ]
                    self._touch(pull, labels=list(dict.fromkeys([*pull["labels"], *names])))
                return [self._label(name) for name in pull["labels"]]
            case "comments", "GET":
                return pull["comments"]
            case "comments", _:
                self._text(ask["body"], "IssueComment")
                number, stamps = (
                    5000 + 100 * pull["number"] + len(pull["comments"]),
                    ("created_at", "updated_at"),
                )
                facts = {
                    "id": number,
                    "body": ask["body"],
                    "user": self._user(self.settings["login"]),
                } | dict.fromkeys(stamps, now())
                facts |= {
                    "url": f"{self._at}/issues/comments/{number}",
                    "html_url": f"{form['html_url']}#issuecomment-{number}",
                }
                self._touch(pull, comments=[*pull["comments"], facts])
                return 201, facts
        facts = {
            key: value
            for key, value in form.items()
            if key not in ("head", "base", "issue_url", "requested_reviewers")
        }
        link = {"pull_request": {"url": form["url"], "html_url": form["html_url"]}}
        return (
            facts
            | link
            | {
                "comments": len(pull["comments"]),
                "url": form["issue_url"],
                "repository_url": self._at,
            }
        )

    def _serve_pulls(self, ask: Ask) -> Any:
        at, query, given = ask.at, ask.query, ask.body
        match ask.operation:
            case "GET ~/pulls":
                state, sort = (
                    query.get("state", "open"),
                    "updated" if query.get("sort") == "updated" else "number",
                )
                pulls = [pull for pull in self.pulls.values() if state in ("all", pull["state"])]
                pulls = [pull for pull in pulls if query.get("base", pull["base"]) == pull["base"]]
                if ":" in query.get("head", ""):  # GitHub ignores a head without its owner
                    pulls = [
                        pull for pull in pulls if f"{self.owner}:{pull['head']}" == query["head"]
                    ]
                down = (
                    query.get(
                        "direction", "desc" if query.get("sort", "created") == "created" else "asc"
                    )
                    == "desc"
                )
                return [
                    self._pull(pull)
                    for pull in sorted(pulls, key=lambda pull: pull[sort], reverse=down)
                ]
            case "POST ~/pulls":
                return 201, self._open(ask, ask["head"].removeprefix(f"{self.owner}:"), ask["base"])
        pull = found(self.pulls.get(int(at["pull_number"])))
        match ask.operation:
            case "GET ~/pulls/{pull_number}/reviews":
                facts = {"state": "COMMENTED", "body": "", "commit_id": pull["head_sha"]}
                return [
                    facts | {"id": place, "user": self._user(name)}
                    for place, name in enumerate(pull["reviewed"], 1)
                ]
            case "GET ~/pulls/{pull_number}/commits":
                return [self._full_commit(one) for one in self._pull_commits(pull)]
            case "POST ~/pulls/{pull_number}/requested_reviewers":
                if not set(given.get("reviewers", [])) <= set(
                    self.settings["collaborators"]
                ) or given.get("team_reviewers"):
                    who = "One or more of the users or teams you specified is not a collaborator of the"
                    raise Problem(
                        422,
                        f"Reviews may only be requested from collaborators. {who} {self.repository} repository.",
                    )
                self._touch(
                    pull,
                    reviewers=list(
                        dict.fromkeys([*pull["reviewers"], *given.get("reviewers", [])])
                    ),
                )
                return 201, self._pull(pull)
            case "PATCH ~/pulls/{pull_number}":
                self._text(given.get("body"), "PullRequest")
                if "base" in given and not self.sha(f"heads/{given['base']}"):
                    raise invalid("PullRequest", "invalid", field="base")
                if given.get("state") == "open" and pull["state"] == "closed":
                    why = (
                        "There is already an open pull request."
                        if self._twin(pull["head"], pull["base"])
                        else ""
                    )
                    head = self.sha(f"heads/{pull['head']}")
                    if (
                        not head
                        or pull["merged"]
                        or self.attempt("merge-base", head, pull["head_sha"]) != pull["head_sha"]
                    ):
                        why = f"The {pull['head']} branch was merged, deleted, force-pushed or recreated."
                    if why:
                        raise invalid(
                            "PullRequest",
                            "invalid",
                            field="state",
                            message=f"state cannot be changed. {why}",
                        )
                self._touch(
                    pull,
                    **{
                        key: given[key]
                        for key in ("title", "body", "state", "base")
                        if key in given
                    },
                )
                if "base" in given:
                    self._touch(pull, base_sha=self.sha(f"heads/{given['base']}"))
                self._sync()
        return self._full_pull(pull)

    def _open(self, ask: Ask, head: str, base: str) -> dict[str, Any]:
        head_sha, base_sha = self.sha(f"heads/{head}"), self.sha(f"heads/{base}")
        if not self.settings["actions_may_create_pulls"]:
            raise Problem(
                403, "GitHub Actions is not permitted to create or approve pull requests."
            )
        if ask.body.get("draft") and not self.settings["drafts_allowed"]:
            raise Problem(422, "Draft pull requests are not supported in this repository.")
        self._text(ask.body.get("body"), "PullRequest")
        if not head_sha or not base_sha:
            raise invalid("PullRequest", "invalid", field="base" if head_sha else "head")
        if not self._revisions(head_sha, f"^{base_sha}"):
            raise invalid("PullRequest", "custom", message=f"No commits between {base} and {head}")
        if not self.attempt("merge-base", base_sha, head_sha):
            raise invalid(
                "PullRequest",
                "custom",
                message=f"The {head} branch has no history in common with {base}",
            )
        if self._twin(head, base):
            raise invalid(
                "PullRequest",
                "custom",
                message=f"A pull request already exists for {self.owner}:{head}.",
            )
        if not ask.body.get("title"):
            raise invalid("PullRequest", "missing_field", field="title")
        pull = {
            "number": len(self.pulls) + 1,
            "state": "open",
            "title": ask["title"],
            "body": ask.body.get("body"),
            "merged": False,
        }
        pull |= {
            "head": head,
            "base": base,
            "head_sha": head_sha,
            "base_sha": base_sha,
            "draft": bool(ask.body.get("draft")),
        }
        pull |= {
            "labels": [],
            "comments": [],
            "reviewers": [],
            "reviewed": [],
            "login": self.settings["login"],
            "created_at": now(),
        }
        self._touch(pull)
        self.pulls[pull["number"]] = pull
        return self._full_pull(pull)


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template.replace("~", REPO, 1))
    names = [
        f"(?P<{part}>{'.*' if part == 'path' else '.+' if part in WIDE else '[^/]+'})"
        for part in parts[1::2]
    ]
    return re.compile(
        "".join(map("".join, zip(map(re.escape, parts[::2]), [*names, ""], strict=True)))
    )


ROUTES = [
    (operation, operation.split()[0], _pattern(operation.split()[1])) for operation in OPERATIONS
]


class _Handler(BaseHTTPRequestHandler):
    fake: FakeGitHub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for head and body

    def log_message(self, *_: object) -> None: ...

    def _handle(self) -> None:
        fake, text = self.fake, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        prefix = "/api/v3" if self.path.startswith("/api/v3/") else ""
        path = (
            "/graphql"
            if self.path in ("/graphql", "/api/graphql")
            else self.path.removeprefix(prefix)
        )
        due = [
            one
            for one in fake.faults
            if one.times > 0 and one.method in ("*", self.command) and re.search(one.path, path)
        ]
        fault = next((one for one in due if not one.call), None)
        for one in due:
            one.times -= one is fault or one.call is not None
            if one.call:
                one.call()
        with fake.lock:
            fake.api, body, status, payload, headers = fake.url + prefix, None, 0, None, {}
            try:
                body = json.loads(text) if text else None
                if not fault or fault.after:
                    status, payload, headers = self._serve(path, body)
            except ValueError:
                status, payload = 400, Problem(400, "Problems parsing JSON").payload
            if fault:
                status, payload, headers = (
                    fault.status,
                    Problem(fault.status, fault.message).payload,
                    fault.headers,
                )
            fake.requests.append((self.command, path, 0 if fault and fault.drop else status, body))
        if fault and fault.drop:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = b"" if status == 204 else json.dumps(payload).encode()
        self.send_response(status)
        standard = {
            "Content-Type": "application/json; charset=utf-8",
            "Content-Length": str(len(data)),
            "X-GitHub-Request-Id": "FA4E",
        }
        for name, value in (standard | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _serve(self, path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        fake, parts = self.fake, urlsplit(path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if path == "/graphql":
            return 200, fake.update_refs(body), {}
        known = (
            (operation, pattern.fullmatch(parts.path))
            for operation, method, pattern in ROUTES
            if method == self.command
        )
        operation, hit = next(((operation, hit) for operation, hit in known if hit), ("", None))
        if not hit or OTHERS.search(parts.path):
            fake.unknown.append(f"{self.command} {path}")
            return 404, Problem(404, "Not Found").payload, {}
        ask = Ask(
            operation,
            {name: unquote(value) for name, value in hit.groupdict().items()},
            query,
            body,
        )
        ask.body = {} if body is None and self.command != "GET" else body
        try:
            if (self.headers.get("Authorization") or "").split(" ")[-1] != fake.token:
                raise Problem(401, "Bad credentials")
            answer = fake.answer(ask)
            status, payload = answer if isinstance(answer, tuple) else (200, answer)
        except Problem as problem:
            status, payload = problem.status, problem.payload
        except Exception as error:
            fake.violations.append(f"{operation}: the fake broke: {error!r}")
            status, payload = 500, Problem(500, repr(error)).payload
        headers: dict[str, str] = {}
        if (
            isinstance(payload, list)
            and self.command == "GET"
            and not {"path", "ref"} & set(ask.at)
        ):
            size, page = min(int(query.get("per_page", 30)), 100), int(query.get("page", 1))
            last = max(1, -(-len(payload) // size))
            steps = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
            links = [
                (name, step) for name, step in steps.items() if 1 <= step <= last and step != page
            ]
            here = f"{fake.api}{parts.path}?"
            headers["Link"] = ", ".join(
                f'<{here}{urlencode(query | {"page": str(step)})}>; rel="{name}"'
                for name, step in links
            )
            payload = payload[(page - 1) * size : page * size]
        if fake.checker:
            payload = fake.checker.fill(operation, status, payload)
            fake.violations += fake.checker.violations(operation, query, body, status, payload)
        return status, payload, {name: value for name, value in headers.items() if value}
