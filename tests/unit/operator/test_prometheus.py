"""What Prometheus answers, and what of it is a number."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web

from flowstill_operator.clusters.prometheus import MAX_ANSWER, Prometheus, parse_answer
from flowstill_operator.main import arguments


def vector(*values):
    series = [{"metric": {}, "value": [1700000000.0, value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": series}}


@pytest.mark.parametrize(
    ("status", "answer", "value", "why"),
    [
        (200, vector("0.25"), 0.25, ""),
        (200, {"status": "success", "data": {"resultType": "scalar", "result": [1700000000, "3"]}}, 3.0, ""),
        (200, vector(), None, "0 series: there are no data"),
        (200, vector("1", "2"), None, "2 series: aggregate it to one"),
        (200, vector("NaN"), None, "NaN, which is no number"),
        (200, vector("+Inf"), None, "+Inf, which is no number"),
        (200, vector("many"), None, "holds no number"),
        (200, {"status": "success", "data": {"resultType": "vector", "result": ["x"]}}, None, "holds no number"),
        (200, {"status": "success", "data": {"resultType": "matrix", "result": []}}, None, "gives matrix"),
        (200, {"status": "success"}, None, "gives nothing"),
        (400, {"status": "error", "error": "parse error"}, None, "refuses the query: parse error"),
        (503, {"status": "error"}, None, "refuses the query: HTTP 503"),
        (200, ["success"], None, "refuses the query: HTTP 200"),
    ],
)
def test_only_one_finite_number_is_a_number(status, answer, value, why):
    found = parse_answer(status, json.dumps(answer).encode())
    assert found.value == value
    assert why in found.why
    assert bool(found.why) == (value is None)


@pytest.mark.parametrize(
    ("status", "kind", "refused"),
    [(400, "bad_data", True), (422, "execution", False), (503, "bad_data", False), (400, None, False)],
)
def test_only_what_cannot_be_parsed_is_refused(status, kind, refused):
    answer = {"status": "error", "errorType": kind, "error": "1:4: parse error"}
    assert parse_answer(status, json.dumps(answer).encode()).refused is refused


def test_what_is_no_json_or_too_long_is_no_number():
    assert "HTTP 502 without JSON" in parse_answer(502, b"<html>").why
    assert "longer than" in parse_answer(200, b" " * (MAX_ANSWER + 1)).why


@pytest.fixture
async def server():
    """One that answers as it is told by the query."""
    seen = []

    async def query(request):
        text = (await request.post())["query"]
        seen.append(text)
        if text == "away":
            raise web.HTTPFound("/elsewhere")
        if text == "silent":
            await asyncio.sleep(60)
        if text == "long":
            return web.Response(body=b"x" * (MAX_ANSWER * 2))
        return web.json_response(vector("0.5"))

    app = web.Application()
    app.router.add_post("/prefix/api/v1/query", query)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/prefix/", seen
    await runner.cleanup()


async def test_a_server_is_asked(server):
    url, seen = server
    prometheus = Prometheus(url)
    assert (await prometheus.ask('sum(rate(x{a="b"}[5m]))')).value == 0.5
    assert seen == ['sum(rate(x{a="b"}[5m]))']
    assert "without JSON" in (await prometheus.ask("away")).why
    assert "longer than" in (await prometheus.ask("long")).why
    await prometheus.close()


async def test_a_server_that_is_not_there_gives_no_number_and_no_error():
    prometheus = Prometheus("http://127.0.0.1:9")
    assert "does not answer" in (await prometheus.ask("up")).why
    await prometheus.close()


async def test_one_that_never_answers_is_given_up(server, monkeypatch):
    monkeypatch.setattr("flowstill_operator.clusters.prometheus.TIMEOUT", aiohttp.ClientTimeout(total=0.2))
    prometheus = Prometheus(server[0])
    found = await asyncio.wait_for(prometheus.ask("silent"), 5)
    assert (found.value, found.refused) == (None, False)
    assert "does not answer" in found.why
    await prometheus.close()


async def test_one_that_did_not_answer_is_left_alone_for_a_while(server):
    url, seen = server
    now = [100.0]
    prometheus = Prometheus("http://127.0.0.1:9", clock=lambda: now[0])
    assert "does not answer" in (await prometheus.ask("up")).why
    prometheus._url = f"{url}api/v1/query"
    now[0] += 29.9
    assert "does not answer" in (await prometheus.ask("up")).why
    assert seen == []
    now[0] += 0.2
    assert (await prometheus.ask("up")).value == 0.5
    assert (await prometheus.ask("up")).value == 0.5
    await prometheus.close()


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://x", "http://", "http://x/?a=b", "http://user:secret@x"])
def test_an_address_that_is_none_is_refused(url, capsys):
    with pytest.raises(SystemExit):
        arguments(["--trainer-image=t", "--evaluator-image=e", f"--prometheus-url={url}"])
    assert "http(s)://HOST[:PORT][/PATH]" in capsys.readouterr().err
