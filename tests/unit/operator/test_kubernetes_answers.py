"""What an answer of the API server means for the loop."""

from typing import Any

import pytest
from kubernetes.aio import client

from flowstill_operator.clusters.interface import JOB_NAME_LABEL, Conflict, Gone, Refused
from flowstill_operator.clusters.kubernetes import JOB_UID_LABEL, ApiError, KubernetesCluster, _check
from flowstill_operator.jobs import OWNER_KIND, OWNER_NAME


def answer(reason: str, *causes: str) -> dict[str, Any]:
    return {"message": "no", "reason": reason, "details": {"causes": [{"reason": cause} for cause in causes]}}


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (404, answer("NotFound"), Gone),
        (403, answer("Forbidden", "NamespaceTerminating"), Gone),
        (403, answer("Forbidden"), ApiError),
        (409, answer("Conflict"), Conflict),
        (400, answer("BadRequest"), Refused),
        (422, answer("Invalid", "FieldValueInvalid"), Refused),
        (429, answer("TooManyRequests"), ApiError),
        (500, {}, ApiError),
    ],
)
def test_an_answer_that_is_no_success_says_what_to_do(
    status: int, body: dict[str, Any], meaning: type[Exception]
) -> None:
    with pytest.raises(meaning):
        _check(status, body)


async def test_a_job_of_the_same_name_has_no_pods_of_the_one_before() -> None:
    cluster = KubernetesCluster(api=client.ApiClient())
    metadata = {"name": "p", "namespace": "ns", "labels": {JOB_NAME_LABEL: "j", JOB_UID_LABEL: "old"}}
    cluster.note_pod({"metadata": metadata, "status": {"phase": "Running"}}, deleted=False)
    job: dict[str, Any] = {"metadata": {"name": "j", "namespace": "ns", "uid": "old"}}
    assert [pod["metadata"]["name"] for pod in await cluster.pods(job)] == ["p"]
    job["metadata"]["uid"] = "new"
    assert await cluster.pods(job) == []
    await cluster.close()


async def test_jobs_are_known_by_their_owner_without_asking() -> None:
    cluster = KubernetesCluster(api=client.ApiClient())
    owner = {OWNER_KIND: "DistillJob", OWNER_NAME: "dj"}
    metadata = {"name": "j", "namespace": "ns", "uid": "1", "labels": owner, "managedFields": ["much"]}
    cluster.note_job({"metadata": metadata, "spec": {"large": True}}, deleted=False)
    [known] = await cluster.known_jobs("ns", owner)
    kept = {key: metadata[key] for key in ("name", "namespace", "uid", "labels")}
    assert known == {"metadata": kept, "status": {"conditions": []}}
    assert await cluster.known_jobs("other", owner) == []
    assert await cluster.known_jobs("ns", {**owner, OWNER_NAME: "other"}) == []
    cluster.note_job({"metadata": metadata}, deleted=True)
    assert await cluster.known_jobs("ns", owner) == []
    await cluster.close()


def test_a_success_is_one() -> None:
    _check(201, {})
