"""``flowstill distill --runtime kubernetes``: hand the DistillJob to the cluster's operator."""

import aiohttp

from flowstill.errors import UserError
from flowstill_operator.children import Document
from flowstill_operator.clusters.interface import Conflict, FieldOwned, Gone, Refused
from flowstill_operator.clusters.kubernetes import ApiError, KubernetesCluster, connect, own_namespace
from flowstill_operator.command.outcome import Applied

FLAG = "--runtime kubernetes"


def with_namespace(document: Document) -> Document:
    """The manifest with the kubeconfig's namespace when it names none.

    Raises:
        UserError: there is no kubeconfig.
    """
    if "namespace" in document["metadata"]:
        return document
    try:
        namespace = own_namespace()
    except Exception as error:  # the client raises many kinds for a kubeconfig that is missing, empty or broken
        raise _no_cluster(error) from error
    return {**document, "metadata": {**document["metadata"], "namespace": namespace}}


async def apply(document: Document) -> Applied:
    """Server-side apply through the user's kubeconfig; applying the same again changes nothing.

    Raises:
        UserError: the cluster cannot be reached, or says no; with the fix.
    """
    try:
        api = await connect()
    except Exception as error:  # as above
        raise _no_cluster(error) from error
    cluster = KubernetesCluster(api)
    server, namespace = str(api.configuration.host), document["metadata"]["namespace"]
    try:
        await cluster.apply_resource(document)
    except Refused as error:
        fix = "" if "immutable" not in str(error) else ": give another --name"
        raise UserError(f"{error}{fix}", field=FLAG) from error
    except (FieldOwned, Conflict) as error:
        raise UserError(f"{error}: somebody else manages it; give another --name", field=FLAG) from error
    except Gone as error:
        raise UserError(
            f"{error}: install Flowstill's CRDs (its chart does), or correct --namespace {namespace}", field=FLAG
        ) from error
    except ApiError as error:
        fix = ": your account may not do that there; correct --namespace, or ask for the right" if error.denied else ""
        raise UserError(f"{error}{fix}", field=FLAG) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        why = str(error) or type(error).__name__
        raise UserError(
            f"{server} cannot be reached ({why}): correct KUBECONFIG or its current context", field=FLAG
        ) from error
    finally:
        await cluster.close()
    return Applied(server=server, namespace=namespace, kind=document["kind"], name=document["metadata"]["name"])


def _no_cluster(error: Exception) -> UserError:
    why = str(error).rstrip(".") or type(error).__name__
    return UserError(f"no kubeconfig can be read ({why}): set KUBECONFIG, or write ~/.kube/config", field=FLAG)
