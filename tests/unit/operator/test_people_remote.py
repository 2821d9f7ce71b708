"""A cluster as the command line sees it, played by a small HTTP server: what it asks for, and what answers mean."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from flowstill_operator import cli
from tests.unit.operator.builders import distill_spec, resource, rollout_spec
from tests.unit.operator.phases import DISTILLJOBS, ROLLOUTS

API = "/apis/flowstill.dev/v1alpha1/namespaces/robots"


class Server(ThreadingHTTPServer):
    """Answers by path; a list of texts is an answer in chunks, a None in it breaks off there."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, object] | Callable[[dict], tuple[int, object]]] = {}
        self.asked = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.server.asked.append((self.command, parts.path, query, json.loads(body) if body else None))
        found = self.server.answers.get(parts.path, (404, {"message": f"no {parts.path}", "details": {"name": "x"}}))
        status, content = found(query) if callable(found) else found
        self.send_response(status)
        if isinstance(content, list):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for text in content:
                if text is None:
                    self.close_connection = True
                    return
                self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
            self.wfile.write(b"0\r\n\r\n")
            return
        raw = json.dumps(content).encode()
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PATCH = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def typed(server, tmp_path, capfd):
    """``flowstill`` with those words in that cluster: its exit code, its output, its errors."""
    path = tmp_path / "kubeconfig"
    context = {"cluster": "c", "user": "u", "namespace": "robots"}
    path.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": context}],
    }))  # fmt: skip

    def run(*words):
        code = cli.main([*words, "--kubeconfig", str(path)])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return run


def pod(name, index=0, state=None, created="1"):
    metadata = {
        "name": name, "namespace": "robots", "creationTimestamp": created,
        "labels": {"flowstill.dev/role": "train"},
        "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
    }  # fmt: skip
    return {
        "metadata": metadata,
        "status": {"phase": "x", "containerStatuses": [{"name": "child", "state": state or {}}]},
    }


RUNNING, ENDED = {"running": {}}, {"terminated": {"exitCode": 1, "reason": "Error"}}


@pytest.mark.parametrize(
    ("pods", "chosen"),
    [
        ([pod("old", state=ENDED), pod("new", state=RUNNING, created="2")], "new"),
        ([pod("first", state=ENDED), pod("second", state=ENDED, created="2")], "second"),
        ([pod("rank-1", 1, RUNNING), pod("rank-0", 0, RUNNING)], "rank-0"),
        ([pod("ended", state=ENDED), pod("waiting", created="2")], "ended"),
    ],
)
def test_logs_are_streamed_from_the_pod_that_runs(server, typed, pods, chosen):
    server.answers[f"{API}/distilljobs/dj"] = (
        200,
        resource("DistillJob", distill_spec(), DISTILLJOBS["Running"](), "dj"),
    )
    server.answers["/api/v1/namespaces/robots/pods"] = (200, {"items": pods})
    server.answers[f"/api/v1/namespaces/robots/pods/{chosen}/log"] = (200, ["one\n", "two\n"])
    assert typed("logs", "dj", "--follow", "--tail", "5") == (0, "one\ntwo\n", "")
    assert server.asked[-1][2] == {"container": "child", "follow": "true", "tailLines": "5"}


def test_a_log_that_breaks_off_is_not_taken_for_whole(server, typed):
    server.answers[f"{API}/distilljobs/dj"] = (
        200,
        resource("DistillJob", distill_spec(), DISTILLJOBS["Running"](), "dj"),
    )
    server.answers["/api/v1/namespaces/robots/pods"] = (200, {"items": [pod("p", state=RUNNING)]})
    server.answers["/api/v1/namespaces/robots/pods/p/log"] = (200, ["one\n", None])
    code, out, error = typed("logs", "dj", "--follow")
    assert (code, out, "broke off" in error, "Traceback" in error) == (2, "one\n", True, False)


def test_a_pod_that_has_not_begun_says_why(server, typed):
    server.answers[f"{API}/distilljobs/dj"] = (
        200,
        resource("DistillJob", distill_spec(), DISTILLJOBS["Queued"](), "dj"),
    )
    waiting = pod("p", state={"waiting": {"reason": "ImagePullBackOff"}})
    server.answers["/api/v1/namespaces/robots/pods"] = (200, {"items": [waiting]})
    code, _, error = typed("logs", "dj")
    assert (code, "ImagePullBackOff" in error) == (2, True)


def test_who_follows_a_log_waits_for_the_pod(server, typed, monkeypatch):
    server.answers[f"{API}/distilljobs/dj"] = (
        200,
        resource("DistillJob", distill_spec(), DISTILLJOBS["Queued"](), "dj"),
    )
    looks = [[], [pod("p", state={"waiting": {"reason": "ContainerCreating"}})], [pod("p", state=RUNNING)]]
    server.answers["/api/v1/namespaces/robots/pods"] = lambda _: (200, {"items": looks.pop(0)})
    server.answers["/api/v1/namespaces/robots/pods/p/log"] = (200, ["one\n"])
    monkeypatch.setattr("flowstill_operator.command.describe.WAIT_SECONDS", 0.0)
    code, out, error = typed("logs", "dj", "--follow")
    assert (code, out) == (0, "one\n")
    first, second = error.splitlines()
    assert first.startswith("waiting: dj has no pod that can be read")
    assert second == "waiting: no log yet: p x (ContainerCreating)"


def test_long_lists_are_read_in_pages(server, typed):
    def page(query):
        name, following = ("b", "") if query.get("continue") else ("a", "more")
        found = resource("DistillJob", distill_spec(), DISTILLJOBS["Running"](), name)
        return 200, {"metadata": {"continue": following}, "items": [found]}

    server.answers["/apis/flowstill.dev/v1alpha1/distilljobs"] = page
    server.answers["/apis/flowstill.dev/v1alpha1/studentrollouts"] = (200, {"metadata": {}, "items": []})
    assert typed("get", "-A", "-o", "name") == (0, "dj/a\ndj/b\n", "")
    code, out, _ = typed("get", "-A")
    assert (code, [line.split()[:2] for line in out.splitlines()]) == (
        0, [["NAMESPACE", "NAME"], ["robots", "dj/a"], ["robots", "dj/b"]]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, {"message": "eve cannot list"}, "eve cannot list: ask for the right, or correct --namespace"),
        (401, {"message": "Unauthorized"}, "log in again"),
        (404, {"message": "the server could not find the requested resource"}, "install Flowstill's CRDs"),
        (500, {"message": "etcd is away"}, "etcd is away"),
        (503, "no JSON of ours", "no JSON of ours"),
    ],
)
def test_answers_that_are_none_name_the_fix(server, typed, status, body, words):
    server.answers[f"{API}/distilljobs"] = (status, body)
    code, _, error = typed("get")
    assert (code, words in error) == (2, True), error


def test_a_server_that_is_away_is_named(server, typed):
    server.shutdown()
    server.server_close()
    code, _, error = typed("get")
    assert (code, "cannot be reached" in error) == (2, True), error


def approved(server):
    """The operator's answer to an approval: it is recorded."""
    (body,) = [body for method, _, _, body in server.asked if method == "PATCH"]
    token, _, rest = body["metadata"]["annotations"]["flowstill.dev/approve"].partition(" ")
    by, _, reason = rest.partition(": ")
    return {"action": "approve", "token": token, "by": by, "reason": reason, "time": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(("refused", "code"), [(None, 0), ("it has ended: Superseded", 1)])
def test_an_approval_is_signed_by_the_clusters_own_name_and_its_answer_awaited(server, typed, refused, code):
    before = resource("StudentRollout", rollout_spec(approval="Manual"), ROLLOUTS["AwaitingApproval"](), "sr")

    def answer(_):
        if not any(method == "PATCH" for method, *_ in server.asked):
            return 200, before
        action = approved(server) | ({"refused": refused} if refused else {})
        return 200, {**before, "status": {**before["status"], "actions": [action]}}

    server.answers[f"{API}/studentrollouts/sr"] = answer
    server.answers["/apis/authentication.k8s.io/v1/selfsubjectreviews"] = (
        201, {"status": {"userInfo": {"username": "system:serviceaccount:robots:carol"}}}
    )  # fmt: skip
    assert typed("approve", "sr", "--reason", "saw  it", "--evidence", "sha256:other")[0] == 2
    found, out, error = typed("approve", "sr", "--reason", "saw  it")
    assert found == code, error
    assert "carol: saw it" in out
    assert (refused or "AwaitingApproval") in out
    (patch,) = [asked for asked in server.asked if asked[0] == "PATCH"]
    digest = before["status"]["evidence"]["digest"]
    assert patch[2:] == (
        {"fieldManager": "flowstill-cli"},
        {"metadata": {"uid": "uid-1", "annotations": {
            "flowstill.dev/approve": f"{digest} system:serviceaccount:robots:carol: saw it"}}},
    )  # fmt: skip
