"""A tiny child that follows the contract: reads its spec, writes result.json and its last words, fails on wish.

What it does is told by ``FAKE_<KIND>``, or ``FAKE_<KIND>_<SHARD>``: ok, user-error, crash, crash-once, mute, sleep.
``FAKE_ROUNDS``: in which round the judge comes to a verdict; each round before asks for twice the episodes.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

GATES = ("S1", "S2", "S3", "P1", "P2", "P3", "P4", "P5", "P6")


def ref(kind, letter):
    return {"uri": f"store://{kind}/{letter}", "digest": "sha256:" + letter * 64}


def result(kind, verdict, task):
    common = {"kind": kind, "outcome": "Succeeded", "reason": "Done"}
    if kind == "Train":
        return {**common, "student": ref("students", "a")}
    if kind == "Parity":
        return {
            **common,
            "difference": 1e-6,
            "threshold": 1e-3,
            "teacher": ref("teachers", "b"),
            "baseline": ref("teachers", "b"),
        }
    if kind == "Rollouts":
        return {**common, "rollouts": ref("evidence", "c")}
    verdicts = {"P1": verdict}
    gates = [
        {"name": g, "class": "safety" if g[0] == "S" else "performance", "verdict": verdicts.get(g, "Pass")}
        for g in GATES
    ]
    arms = [
        {"name": name, "success": 0.9, "episodes": 200, "interval": {"low": 0.8, "high": 1.0}}
        for name in ("teacher@10", "student-draws")
    ]
    if len(task.get("rounds", [1])) < int(os.environ.get("FAKE_ROUNDS", "1")):
        present = task.get("episodes") or task["evaluation"]["episodesPerTask"]
        gates[3]["verdict"] = "Inconclusive"
        return {**common, "wantedEpisodes": 2 * present, "gates": gates, "arms": arms}
    return {**common, "verdict": verdict, "gates": gates, "arms": arms, "evidence": ref("evidence", "d")}


class Progress(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"activity": "working", "step": 3, "totalSteps": 4}).encode())

    def log_message(self, *args):
        pass


def end(work, body, code, mute=False):
    text = json.dumps(body)
    (work / "result.json").write_text(text)
    if not mute:
        Path(os.environ["FLOWSTILL_TERMINATION_LOG"]).write_text(text)
    sys.exit(code)


def main():
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    task = json.loads(Path(arguments["--spec"]).read_text())
    work = Path(arguments["--output"])
    work.mkdir(parents=True, exist_ok=True)
    kind = task["kind"].removesuffix("Rounds")
    own = f"FAKE_{kind.upper()}_{os.environ.get('JOB_COMPLETION_INDEX')}"
    wish = os.environ.get(own, os.environ.get(f"FAKE_{kind.upper()}", "ok"))
    with (work / "attempts").open("a") as file:
        file.write(f"{os.getpid()} {os.environ['FLOWSTILL_STORE']}\n")
    attempts = len((work / "attempts").read_text().splitlines())
    if wish == "sleep":
        wait_for_sigterm(work)
    if wish == "user-error":
        end(
            work,
            {"kind": kind, "outcome": "UserError", "reason": "TeacherRejected", "message": "spec.teacher: no policy"},
            65,
        )
    if wish == "crash" or (wish == "crash-once" and attempts == 1):
        sys.exit(1)
    end(work, result(kind, os.environ.get("FAKE_VERDICT", "Pass"), task), 0, mute=wish == "mute")


def wait_for_sigterm(work):
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = HTTPServer(("127.0.0.1", int(os.environ["FLOWSTILL_PROGRESS_PORT"])), Progress)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (work / "ready").touch()
    until = time.monotonic() + 120
    while not stop.wait(0.05) and time.monotonic() < until:
        pass
    (work / "checkpoint").touch()
    sys.exit(143)


if __name__ == "__main__":
    main()
