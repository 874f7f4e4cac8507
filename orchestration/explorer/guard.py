"""Who may ask: this machine's own browser, and pages of the explorer alone.

A page of a stranger could have its name resolved to this machine (DNS rebinding), or send requests here from the
reader's browser. So the Host must be loopback, and an Origin, where there is one, the explorer's own.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from starlette.requests import Request

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
OF_THE_REPORT = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
}
"""The report is one page that carries its style and figures in itself."""


def refusal(request: Request) -> str | None:
    """The sentence for a request that is not answered, or None."""
    host = request.headers.get("host", "")
    if _parts(f"//{host}").hostname not in LOOPBACK:
        return f"this explorer answers at 127.0.0.1 alone, and the request named {host[:80] or 'no host'}"
    origin = request.headers.get("origin")
    if origin and _parts(origin).netloc != host:
        return f"the request comes from a page of {origin[:80]}, and only the explorer's own pages are answered"
    # What another site's page loads into itself has no Origin; a link that leads here from there is a document.
    if request.headers.get("sec-fetch-site") == "cross-site" and request.headers.get("sec-fetch-dest") != "document":
        return "the request comes from a page of another site, and only the explorer's own pages are answered"
    if request.method not in ("GET", "HEAD"):
        return f"the explorer only reads, and answers no {request.method}"
    return None


def _parts(address: str) -> SplitResult:
    """Empty for what is no address, such as `//[`."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")
