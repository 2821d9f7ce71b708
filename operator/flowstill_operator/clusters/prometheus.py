"""Prometheus: one number by one instant query. Whatever is no number is no number, and says why."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from flowstill_operator.clusters.interface import Sample

TIMEOUT = aiohttp.ClientTimeout(total=5.0, connect=3.0)
PAUSE_SECONDS = 30.0
"""Not asked for so long after it did not answer: each question would hold up a worker until its time is over."""
MAX_ANSWER = 262_144
"""Bytes. A query with one number as its answer needs a few hundred."""
BAD_DATA = "bad_data"
"""What Prometheus calls a query that it cannot parse."""
UNREACHABLE = "Prometheus does not answer: {why}"


@dataclass(frozen=True)
class Silence:
    """It did not answer, and why; it is asked again from then on (monotonic clock, s)."""

    until: float
    why: str


class Prometheus:
    """A Prometheus, or what speaks its ``/api/v1/query``, at the address that the operator was given."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._clock = clock
        self._http: aiohttp.ClientSession | None = None
        self._silent: Silence | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._http is not None:
            await self._http.close()

    async def ask(self, query: str) -> Sample:
        """The query's value now."""
        if self._silent is not None and self._clock() < self._silent.until:
            return Sample(None, self._silent.why)
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=TIMEOUT, trust_env=False)
        try:
            # A redirect could lead anywhere; the address is the administrator's.
            async with self._http.post(self._url, data={"query": query}, allow_redirects=False) as response:
                body = await _read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = UNREACHABLE.format(why=str(error) or type(error).__name__)
            self._silent = Silence(self._clock() + PAUSE_SECONDS, why)
            return Sample(None, why)
        self._silent = None
        return parse_answer(response.status, body)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The answer, and one byte more than may be when it is longer."""
    body = b""
    async for chunk in response.content.iter_chunked(65_536):
        body += chunk
        if len(body) > MAX_ANSWER:
            break
    return body[: MAX_ANSWER + 1]


def parse_answer(status: int, body: bytes) -> Sample:
    """The one number in the answer, or why there is none."""
    if len(body) > MAX_ANSWER:
        return Sample(None, f"the answer is longer than {MAX_ANSWER} bytes; aggregate the query to one series")
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return Sample(None, UNREACHABLE.format(why=f"HTTP {status} without JSON"))
    if not isinstance(answer, dict) or answer.get("status") != "success":
        found = answer if isinstance(answer, dict) else {}
        why = f"Prometheus refuses the query: {found.get('error') or f'HTTP {status}'}"
        return Sample(None, why, refused=status == 400 and found.get("errorType") == BAD_DATA)
    data = answer.get("data")
    kind, result = (data.get("resultType"), data.get("result")) if isinstance(data, dict) else (None, None)
    if kind == "vector" and isinstance(result, list):
        if len(result) != 1:
            fix = "there are no data" if not result else "aggregate it to one, by sum, max or avg"
            return Sample(None, f"the query gives {len(result)} series: {fix}")
        result = result[0].get("value") if isinstance(result[0], dict) else None
    elif kind != "scalar":
        return Sample(None, f"the query gives {kind or 'nothing'}, and not an instant vector or a scalar")
    return _number(result)


def _number(pair: Any) -> Sample:
    try:
        _, text = pair
        value = float(text)
    except (TypeError, ValueError):
        return Sample(None, "Prometheus's answer holds no number")
    return Sample(value) if math.isfinite(value) else Sample(None, f"the query gives {text}, which is no number")
