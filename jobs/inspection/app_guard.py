"""Who may talk to the app, and what a browser may do with its answers.

The app shows whatever its user can read. A page of the Internet that is open in the same browser
must not reach it: not by a name of its own that it points at this machine (the Host header), not
by sending requests (only GET, which changes nothing), not by showing the app inside of itself
(frame-ancestors). Where others can reach the port, a secret is needed.
"""

import hashlib
import html
import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer."""

_ENTRANCE: Final = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={place}">
<title>gopstream view</title>
<p><a href="{place}">Go on to the app</a></p>
"""


class Guard:
    """ASGI middleware before the app."""

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        """Name the app behind.

        Args:
            app: It.
            token: The secret; None where only this machine reaches the port: then requests must
                name this machine as their host, or its own address.
        """
        self._app = app
        self._token = token
        # Cookies are of a host, whatever the port: two apps must not take each other's.
        digest = hashlib.sha256((token or "").encode()).hexdigest()
        self._cookie = f"gopstream_{digest[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the server closes what nobody has accepted

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        answer = self._app if refusal is None else refusal
        await answer(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that is not passed on."""
        if scope["method"] not in ("GET", "HEAD"):
            return refuse(405, "only GET is answered here")
        headers = Headers(scope=scope)
        if self._token is None:
            if not is_loopback(_without_port(headers.get("host", ""))):
                return refuse(
                    421,
                    "this app answers to 127.0.0.1 and localhost alone; to reach it by another "
                    "name, start it with --host",
                )
            return None
        return self._refusal_of_token(scope, headers)

    def _refusal_of_token(self, scope: Scope, headers: Headers) -> Response | None:
        assert self._token is not None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if given and self._is_token(given[-1]):
            # The address with the secret in it is left at once: people share addresses. By a page,
            # since after a redirect browsers withhold a strict cookie from whoever came by a link
            # in another page, such as a terminal in the browser. No path leads to another server.
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            place = html.escape("./" + (f"?{rest}" if rest else ""))
            answer = HTMLResponse(_ENTRANCE.format(place=place))
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
            return answer
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            cookies.clear()
        held = cookies.get(self._cookie)
        if held is None or not self._is_token(held.value):
            return refuse(
                403, "open the address that 'gopstream view' printed, with ?token=... at its end"
            )
        return None

    def _is_token(self, text: str) -> bool:
        assert self._token is not None
        return secrets.compare_digest(text.encode(), self._token.encode())


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _without_port(host: str) -> str:
    """Return a Host header's name, in lower case."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def refuse(status: int, why: str) -> Response:
    """Return an answer that says what is wrong."""
    return JSONResponse({"error": why}, status_code=status)
