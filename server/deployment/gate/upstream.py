"""The way from the gate to the SuperLink, on the same machine."""

import json
import ssl
from collections.abc import Mapping
from http import HTTPStatus

import httpx

from server.deployment.gate.requests import JSON, NO_RUN, PROTOBUF, Answer, flower_error

_CONNECT_S, _ANSWER_S, _QUEUE_S = 5.0, 25.0, 10.0
# Below the 5 s after which the SuperLink ends a connection that is not used.
_KEPT_S = 3.0
_MOST_CONNECTIONS = 64
_RETRY_S = 1
_AWAY = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})


class Upstream:
    """Passes requests to the SuperLink and takes from its answers what a site needs.

    Args:
        url: Where the SuperLink listens, such as ``https://localhost:8000``.
        context: TLS that trusts the federation's CA alone.
    """

    def __init__(self, *, url: str, context: ssl.SSLContext) -> None:
        self._client = httpx.AsyncClient(
            base_url=url,
            verify=context,
            # Proxies of the environment are for other machines.
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S, pool=_QUEUE_S),
            limits=httpx.Limits(
                max_connections=_MOST_CONNECTIONS,
                max_keepalive_connections=_MOST_CONNECTIONS,
                keepalive_expiry=_KEPT_S,
            ),
        )

    async def ask(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Pass a request on.

        Args:
            path: One of the paths of the closed table.
            headers: What of the site's headers is passed on.
            body: The body, already checked.

        Returns:
            What is answered to the site. Of a failure that is its status, and for "not running" the number that
            Flower's client looks for; never a word of the SuperLink's.
        """
        if self._client.is_closed:
            return _away("the coordinator ends")
        try:
            response = await self._client.post(path, headers=headers, content=body)
        except httpx.HTTPError as error:
            return _away(f"the SuperLink does not answer ({type(error).__name__})")
        if response.status_code == HTTPStatus.OK:
            if response.headers.get("content-type", "").partition(";")[0] != PROTOBUF:
                return Answer(status=HTTPStatus.BAD_GATEWAY, reason="the SuperLink's answer is of another type")
            return Answer(status=HTTPStatus.OK, body=response.content, media_type=PROTOBUF)
        return _failure(response)

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()


def _failure(response: httpx.Response) -> Answer:
    """Return what a site is told of an answer other than 200."""
    status = response.status_code
    reason = f"the SuperLink answered {status}"
    if status in _AWAY:
        return _away(reason)
    if status == HTTPStatus.FORBIDDEN:
        return Answer(status=status, body=flower_error(_code(response.content)), media_type=JSON, reason=reason)
    known = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    if known or status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return Answer(status=status, reason=reason)
    return Answer(status=HTTPStatus.BAD_GATEWAY, reason=reason)


def _away(reason: str) -> Answer:
    """Return what a site is told while the SuperLink is down: to come again."""
    return Answer(status=HTTPStatus.SERVICE_UNAVAILABLE, reason=reason, retry_s=_RETRY_S)


def _code(body: bytes) -> int:
    """Return the number of an error of Flower's."""
    try:
        found = json.loads(body)
    except ValueError:
        return NO_RUN
    code = found.get("code") if isinstance(found, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else NO_RUN
