"""What the loopback GitHub holds: a real bare git repository, pull requests, labels, and the API's forms of them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

T = TypeVar("T")
LIMIT = 65_536  # characters in a body
BOT = ("github-actions[bot]", "41898282+github-actions[bot]@users.noreply.github.com")
HUMAN = ("Mona Lisa", "mona@example.org")


class Problem(Exception):
    def __init__(self, status: int, message: str, /, **error: str) -> None:
        super().__init__(message)
        self.status, self.payload = (
            status,
            {
                "message": message,
                "documentation_url": "https://docs.github.com/rest",
                "status": str(status),
            },
        )
        self.payload |= {"errors": [error]} if error else {}


def invalid(resource: str, code: str, **more: str) -> Problem:
    return Problem(422, "Validation Failed", resource=resource, code=code, **more)


def found(value: T | None, status: int = 404, message: str = "Not Found") -> T:
    if value is None:
        raise Problem(status, message)
    return value


def now(seconds: float | None = None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@dataclass
class Ask:
    operation: str
    at: dict[str, str]
    query: dict[str, str]
    body: Any

    def __getitem__(self, name: str) -> Any:
        value = self.body.get(name) if isinstance(self.body, dict) else None
        return found(value, 422, f'Invalid request.\n\n"{name}" wasn\'t supplied.')


class Repository:
    def __init__(self, bare: Path, repository: str = "octo/repo") -> None:
        self.bare, self.repository = Path(bare), repository
        self.owner = repository.split("/")[0]
        self.settings: dict[str, Any] = {
            "default_branch": "main",
            "login": BOT[0],
            "private": False,
            "admin": False,
            "app_token": True,
        }
        self.runs: dict[str, str] = {}  # status of workflow runs by id
        self.dispatched: list[dict[str, Any]] = []  # repository_dispatch events
        self.settings |= {
            "drafts_allowed": True,
            "actions_may_create_pulls": True,
            "collaborators": ["mona"],
        }
        self.requests: list[
            tuple[str, str, int, Any]
        ] = []  # method, path with query, status (0: no answer), body
        self.pulls: dict[
            int, dict[str, Any]
        ] = {}  # what is stored, not the API's form; a test may change it
        self.labels: dict[str, dict[str, Any]] = {}  # by name
        self.unknown: list[str] = []
        self.violations: list[str] = []
        self.signed: set[str] = set()  # commits that GitHub would have signed
        self.lock, self.api, self.clock = threading.RLock(), "", 0
        if not self.bare.exists():
            subprocess.run(
                ["git", "init", "--quiet", "--bare", "--initial-branch=main", str(self.bare)],
                check=True,
            )
            self.human_commit("main", "README.md", "# A repository\n")

    def git(self, *arguments: str, data: bytes = b"", **environment: str) -> str:
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith("GIT_")
        } | environment
        clean |= {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_DIR": str(self.bare),
            "GIT_LITERAL_PATHSPECS": "1",
        }
        done = subprocess.run(
            ["git", *arguments], input=data, capture_output=True, env=clean, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}"
            )
        return done.stdout.decode(errors="surrogateescape")

    def attempt(self, *arguments: str) -> str | None:
        with contextlib.suppress(RuntimeError):
            return self.git(*arguments).removesuffix("\n")
        return None

    def sha(self, name: str, kind: str = "commit") -> str | None:
        """The object behind a branch, a tag, a full ref or an object's own name."""
        name = self.settings["default_branch"] if name == "HEAD" else name.removeprefix("refs/")
        names = [
            f"refs/heads/{name}",
            f"refs/{name}",
            f"refs/tags/{name}",
            *([name] if re.fullmatch("[0-9a-f]{7,40}", name) else []),
        ]
        known = (
            self.attempt("rev-parse", "--verify", "--quiet", f"{name}^{{{kind}}}") for name in names
        )
        return next((sha for sha in known if sha), None)

    def read(self, branch: str, path: str) -> str | None:
        with contextlib.suppress(RuntimeError):
            return self.git("cat-file", "blob", f"{self.sha(branch)}:{path}")
        return None

    def human_commit(self, branch: str, path: str, text: str | None) -> str:
        """A human's commit on a branch (made from the default branch where it does not exist); None removes the file."""
        parent = self.sha(branch) or self.sha("HEAD")
        tree = self._tree(
            parent,
            [
                {"path": path, "mode": "100644"}
                | ({"sha": None} if text is None else {"content": text})
            ],
        )
        return self._commit(
            f"Edit {path}\n", tree, [parent] if parent else [], HUMAN, HUMAN, branch
        )

    advance = human_commit

    def merge(self, number: int) -> str:
        """A human presses the button: a merge commit on the base."""
        base, head = found(self.sha(self.pulls[number]["base"])), self.pulls[number]["head_sha"]
        tree = self.git("merge-tree", "--write-tree", base, head).split()[0]
        return self._commit(
            f"Merge pull request #{number}\n",
            tree,
            [base, head],
            HUMAN,
            HUMAN,
            self.pulls[number]["base"],
        )

    def delete_branch(self, name: str) -> None:
        self.git("update-ref", "-d", f"refs/heads/{name}")
        self._sync()

    # Git

    def _tree(self, base: str | None, entries: list[dict[str, Any]]) -> str:
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
            self.git("read-tree", *([base] if base else ["--empty"]), **index)
            for entry in entries:
                path, kind, blob = entry["path"], entry.get("type") or "blob", entry.get("sha")
                if "content" in entry:
                    blob = self.git(
                        "hash-object", "-w", "--stdin", data=entry["content"].encode()
                    ).strip()
                elif blob and self.attempt("cat-file", "-t", blob) != kind:
                    raise Problem(422, f"tree.sha {blob} is not a valid {kind}")
                old = self.git("ls-files", "-z", "--", path, **index).split("\0")[:-1]
                if not blob and not old:
                    raise Problem(422, "GitRPC::BadObjectState")
                lines = [f"0 {'0' * 40}\t{one}\0" for one in old]
                if blob and kind == "tree":
                    inside = [
                        one.partition("\t")[::2]
                        for one in self.git("ls-tree", "-r", "-z", blob).split("\0")[:-1]
                    ]
                    lines += [f"{facts}\t{path}/{name}\0" for facts, name in inside]
                elif blob:
                    lines.append(f"{entry['mode']} {blob}\t{path}\0")
                self.git(
                    "update-index", "-z", "--index-info", data="".join(lines).encode(), **index
                )
            return self.git("write-tree", **index).strip()

    def _commit(
        self,
        message: str,
        tree: str,
        parents: list[str],
        author: Any,
        committer: Any,
        branch: str = "",
    ) -> str:
        who = {}
        for role, (name, email, *date) in (("AUTHOR", author), ("COMMITTER", committer)):
            when = date[0] if date and date[0] else f"{int(time.time())} +0000"
            who |= {f"GIT_{role}_NAME": name, f"GIT_{role}_EMAIL": email, f"GIT_{role}_DATE": when}
        flags = [part for parent in parents for part in ("-p", parent)]
        sha = self.git("commit-tree", tree, *flags, data=message.encode(), **who).strip()
        if branch:
            self.git("update-ref", f"refs/heads/{branch}", sha)
            self._sync()
        return sha

    def _commit_asked(
        self, ask: Ask, tree: str, parents: list[str], branch: str = ""
    ) -> dict[str, Any]:
        given = [ask.body.get(role) for role in ("author", "committer")]
        people = [(one["name"], one["email"], one.get("date")) if one else None for one in given]
        author = people[0] or BOT
        sha = self._commit(ask["message"], tree, parents, author, people[1] or author, branch)
        self.signed |= set() if any(given) else {sha}
        return self._git_commit(sha)

    def _revisions(self, *arguments: str) -> list[str]:
        return self.git("rev-list", *arguments).split()

    def _files(self, old: str, new: str) -> list[dict[str, Any]]:
        raw = self.git("diff-tree", "-r", "-z", "--no-renames", old, new).split("\0")[:-1]
        sizes = self.git("diff-tree", "-r", "-z", "--no-renames", "--numstat", old, new).split(
            "\0"
        )[:-1]
        files = []
        for head, path, size in zip(raw[::2], raw[1::2], sizes, strict=True):
            _, _, before, after, letter = head.split()
            added, removed = (0 if count == "-" else int(count) for count in size.split("\t")[:2])
            status = {"A": "added", "D": "removed"}.get(letter, "modified")
            facts = {
                "sha": before if letter == "D" else after,
                "filename": path,
                "status": status,
                "changes": added + removed,
            }
            files.append(facts | {"additions": added, "deletions": removed})
        return files

    def update_refs(self, body: Any) -> dict[str, Any]:
        """GraphQL's updateRefs with one ref: compare and swap."""
        told = body["variables"]
        if "updateRefs" not in body["query"] or not self.settings.get("graphql", True):
            return {"errors": [{"message": "Field 'updateRefs' doesn't exist on type 'Mutation'"}]}
        if rule := self._rule(told["name"]):
            return {
                "data": {"updateRefs": None},
                "errors": [{"type": "UNPROCESSABLE", "message": rule}],
            }
        if self.attempt("update-ref", told["name"], told["after"], told["before"]) is None:
            return {
                "data": {"updateRefs": None},
                "errors": [
                    {"type": "UNPROCESSABLE", "message": f"Reference {told['name']} has moved"}
                ],
            }
        self._sync()
        return {"data": {"updateRefs": {"clientMutationId": None}}}

    def _rule(self, ref: str) -> str:
        """What a ruleset says where it protects the branch: settings["protected"] is a pattern."""
        protected = self.settings.get("protected")
        return (
            "Repository rule violations found\n\nCannot update this protected ref."
            if protected and re.search(protected, ref)
            else ""
        )

    def _sync(self) -> None:
        """What pushes do to open pull requests."""
        refs = self.git("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads")
        tips = {line.partition(" refs/heads/")[2]: line[:40] for line in refs.splitlines()}
        for pull in self.pulls.values():
            head, base = tips.get(pull["head"]), tips.get(pull["base"])
            if pull["state"] == "closed" or pull.get("seen") == (head, base):
                continue
            pull["seen"] = (head, base)
            if not head or not base:
                self._touch(pull, state="closed")
            elif (
                self.attempt("merge-base", head, base) == head
            ):  # the base took it in, or the branch was set back
                self._touch(pull, state="closed", merged=head == pull["head_sha"], head_sha=head)
            elif head != pull["head_sha"]:
                self._touch(pull, head_sha=head, base_sha=base)

    def _touch(self, pull: dict[str, Any], **changes: Any) -> None:
        self.clock += 1
        pull.update(changes, updated=self.clock, updated_at=now())
        pull["closed_at"] = (pull.get("closed_at") or now()) if pull["state"] == "closed" else None

    # The API's forms of things, as far as they matter; Checker.fill adds the rest

    @property
    def _at(self) -> str:
        return f"{self.api}/repos/{self.repository}"

    def _page(self, *parts: object) -> str:
        return "/".join(["https://github.com", self.repository, *map(str, parts)])

    def _user(self, login: str) -> dict[str, Any]:
        number = int(hashlib.sha256(login.encode()).hexdigest()[:6], 16)
        kind = "Bot" if login.endswith("[bot]") else "User"
        return {
            "login": login,
            "id": number,
            "type": kind,
            "url": f"{self.api}/users/{quote(login)}",
        }

    def _repository(self) -> dict[str, Any]:
        facts = {key: self.settings[key] for key in ("private", "default_branch")} | {
            "id": 1,
            "full_name": self.repository,
        }
        facts |= {
            "name": self.repository.split("/")[1],
            "owner": self._user(self.owner),
            "url": self._at,
            "html_url": self._page(),
        }
        rights = {"admin": self.settings["admin"], "push": True, "pull": True}
        return facts | {
            "permissions": rights,
            "clone_url": self._page() + ".git",
            "has_issues": True,
        }

    def _git_commit(self, sha: str) -> dict[str, Any]:
        head, _, message = self.git("cat-file", "commit", sha).partition("\n\n")
        lines = [line.partition(" ")[::2] for line in head.split("\n")]
        facts: dict[str, Any] = {
            "sha": sha,
            "node_id": f"C_{sha}",
            "url": f"{self._at}/git/commits/{sha}",
            "message": message,
        }
        for role, text in lines:
            if role in ("author", "committer"):
                name, email, stamp = re.split(" <|> ", text)
                facts[role] = {"name": name, "email": email, "date": now(int(stamp.split()[0]))}
        tree, signed = dict(lines)["tree"], sha in self.signed
        parents = [
            {"sha": one, "url": f"{self._at}/git/commits/{one}"}
            for key, one in lines
            if key == "parent"
        ]
        facts |= {
            "tree": {"sha": tree, "url": f"{self._at}/git/trees/{tree}"},
            "parents": parents,
            "html_url": self._page("commit", sha),
        }
        return facts | {
            "verification": {"verified": signed, "reason": "valid" if signed else "unsigned"}
        }

    def _full_commit(self, sha: str) -> dict[str, Any]:
        inner = self._git_commit(sha)
        outer = {key: inner[key] for key in ("sha", "node_id", "html_url")} | {
            "url": f"{self._at}/commits/{sha}",
            "commit": inner,
        }
        for role in ("author", "committer"):
            known = re.fullmatch(r"\d+\+(.+)@users\.noreply\.github\.com", inner[role]["email"])
            outer[role] = self._user(known[1]) if known else None
        return outer | {
            "parents": [
                one | {"url": f"{self._at}/commits/{one['sha']}"} for one in inner["parents"]
            ]
        }

    def _ref(self, ref: str) -> dict[str, Any]:
        sha = found(self.attempt("rev-parse", "--verify", "--quiet", ref))
        kind = found(self.attempt("cat-file", "-t", sha))
        return {
            "ref": ref,
            "url": f"{self._at}/git/{ref}",
            "object": {"type": kind, "sha": sha, "url": f"{self._at}/git/{kind}s/{sha}"},
        }

    def _label(
        self, name: str, color: str = "ededed", description: str | None = None
    ) -> dict[str, Any]:
        """The label of that name, made where it does not exist."""
        name = next((label for label in self.labels if label.lower() == name.lower()), name)
        fresh = {
            "id": len(self.labels) + 1,
            "name": name,
            "color": color,
            "description": description,
            "default": False,
        }
        return self.labels.setdefault(name, fresh) | {"url": f"{self._at}/labels/{quote(name)}"}

    def _content(self, ref: str, path: str) -> Any:
        sha = found(self.sha(ref), 404, f"No commit found for the ref {ref}")
        kind = found(self.attempt("cat-file", "-t", f"{sha}:{path}"))
        lines = self.git(
            "ls-tree", "-z", "-l", sha, f"{path}/" if path and kind == "tree" else path or "./"
        ).split("\0")[:-1]
        entries = []
        for (_, form, blob, size), name in (
            (line.partition("\t")[0].split(), line.partition("\t")[2]) for line in lines
        ):
            facts = {
                "name": name.rpartition("/")[2],
                "path": name,
                "sha": blob,
                "size": 0 if size == "-" else int(size),
            }
            facts |= {
                "type": "dir" if form == "tree" else "file",
                "url": f"{self._at}/contents/{quote(name)}?ref={ref}",
            }
            entries.append(facts | {"html_url": self._page("blob", ref, quote(name))})
        if kind == "tree":
            return entries
        data = self.git("cat-file", "blob", f"{sha}:{path}").encode(errors="surrogateescape")
        return entries[0] | {"encoding": "base64", "content": base64.encodebytes(data).decode()}

    def _side(self, branch: str, sha: str) -> dict[str, Any]:
        return {
            "label": f"{self.owner}:{branch}",
            "ref": branch,
            "sha": sha,
            "user": self._user(self.owner),
            "repo": self._repository(),
        }

    def _pull(self, pull: dict[str, Any]) -> dict[str, Any]:
        number, issue = pull["number"], f"{self._at}/issues/{pull['number']}"
        facts = {
            key: pull[key]
            for key in (
                "number",
                "state",
                "title",
                "body",
                "draft",
                "created_at",
                "updated_at",
                "closed_at",
            )
        }
        facts |= {
            "id": 1000 + number,
            "url": f"{self._at}/pulls/{number}",
            "html_url": self._page("pull", number),
            "issue_url": issue,
        }
        facts |= {
            "node_id": f"PR_{number}",
            "user": self._user(pull["login"]),
            "labels": [self._label(name) for name in pull["labels"]],
        }
        facts |= {
            "comments_url": f"{issue}/comments",
            "merged_at": pull["closed_at"] if pull["merged"] else None,
        }
        facts |= {
            "requested_reviewers": [self._user(login) for login in pull["reviewers"]],
            "author_association": "CONTRIBUTOR",
        }
        return facts | {
            "head": self._side(pull["head"], pull["head_sha"]),
            "base": self._side(pull["base"], pull["base_sha"]),
        }

    def _full_pull(self, pull: dict[str, Any]) -> dict[str, Any]:
        head, commits = pull["head_sha"], self._pull_commits(pull)
        base = found(self.attempt("merge-base", pull["base_sha"], head))
        files = self._files(base, head)
        sums = {key: sum(file[key] for file in files) for key in ("additions", "deletions")} | {
            "changed_files": len(files)
        }
        is_open, target = pull["state"] == "open", f"refs/heads/{pull['base']}"
        able = (
            self.attempt("merge-tree", "--write-tree", target, head) is not None
            if is_open
            else None
        )
        sums |= {
            "commits": len(commits),
            "comments": len(pull["comments"]),
            "merged": pull["merged"],
            "mergeable": able,
        }
        return (
            self._pull(pull)
            | sums
            | {"mergeable_state": {None: "unknown", True: "clean", False: "dirty"}[able]}
        )

    def _pull_commits(self, pull: dict[str, Any]) -> list[str]:
        return self._revisions("--reverse", pull["head_sha"], f"^{pull['base_sha']}")

    def _text(self, body: Any, resource: str) -> None:
        if isinstance(body, str) and len(body) > LIMIT:
            raise invalid(
                resource,
                "custom",
                field="body",
                message=f"body is too long (maximum is {LIMIT} characters)",
            )

    def _twin(self, head: str, base: str) -> bool:
        return any(
            (pull["state"], pull["head"], pull["base"]) == ("open", head, base)
            for pull in self.pulls.values()
        )

    # The operations: one function for each part of the API; an answer is a payload or (status, payload)
