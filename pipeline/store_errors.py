"""What an error of object storage means, and what the person who waits can do.

obstore's errors are told apart by their text: it gives no status codes.
"""

import re
from typing import TYPE_CHECKING, Final

from gopstream.pipeline.errors import StoreError
from gopstream.pipeline.store_credentials import WAYS_TO_CREDENTIALS

if TYPE_CHECKING:
    from gopstream.pipeline.object_store import Place

_METADATA_SERVER: Final = "169.254.169.254"
# Answers of S3 that new credentials can help.
_REFUSED: Final = re.compile(r"ExpiredToken|TokenRefreshRequired|InvalidAccessKeyId|InvalidToken")
# How obstore's debug text tells that there was no connection, or not a word through it.
_UNREACHED: Final = re.compile(r"kind: (?:Connect|Timeout),")
_SERVER: Final = re.compile(r"Error performing \w+ (\w+://[^/\s?]+)")
_REASON: Final = re.compile(r'(?:message|error): "([^"]+)"')
_CERTIFICATE: Final = re.compile(r"InvalidCertificate\(\s*(?:Other\(\s*OtherError\(\s*)?(\w+)")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")


def status_of(error: Exception) -> int | None:
    """Return the HTTP status behind an error of obstore, None if there was no answer."""
    found = _STATUS.search(_text(error))
    return None if found is None else int(found[1])


def is_refused(error: Exception) -> bool:
    """Tell whether a store did not accept the credentials."""
    return status_of(error) in (401, 403) or _REFUSED.search(_text(error)) is not None


def is_unreached(error: Exception) -> bool:
    """Tell whether a server could not be reached, or was and said nothing."""
    return status_of(error) is None and _UNREACHED.search(str(error)) is not None


def cause_of(error: Exception) -> str:
    """Return why a request failed, in a few words."""
    whole = str(error)
    if (status := status_of(error)) is not None:
        return f"status {status}"
    if (certificate := _CERTIFICATE.search(whole)) is not None:
        return f"its certificate is not accepted: {certificate[1]}"
    if "InvalidContentType" in whole:
        return "it does not speak TLS: perhaps http:// is meant"
    if "kind: Timeout," in whole:
        return "it does not answer"
    if is_unreached(error):
        reason = _REASON.search(whole)
        return "no connection" if reason is None else reason[1]
    return describe(error)


def describe(error: Exception) -> str:
    """Return an error of obstore in one line, without queries, which may hold signatures."""
    text = re.sub(r"\?[^\s,)]*", "", _text(error))
    return " ".join(text.split())[:400]


def explain(
    error: Exception, *, place: "Place", what: str, seconds: float, was_reached: bool = True
) -> OSError:
    """Return what an error of obstore means for the person who waits.

    Args:
        error: The error.
        place: Where it happened.
        what: What was tried.
        seconds: For how long.
        was_reached: Whether the store has ever answered.
    """
    address, text = place.address, _text(error)
    if place.credentials is not None and place.credentials.error is not None:
        return place.credentials.error
    if place.is_link:
        return _explain_web(error, address=address, what=what, seconds=seconds)
    if "NoSuchBucket" in text:
        return StoreError(f"{address}: there is no such bucket; make it, or correct the address")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{address}: not there")
    if _METADATA_SERVER in text:
        return StoreError(
            f"{address}: no credentials were found; {WAYS_TO_CREDENTIALS}, or give --anonymous "
            "if it is public"
        )
    if is_refused(error):
        code = _CODE.search(text)
        why = (
            "the web server does not give it to everyone"
            if address.lower().startswith(("http://", "https://"))
            else "the place does not allow anonymous access: leave --anonymous out, and "
            f"{WAYS_TO_CREDENTIALS}"
            if place.is_anonymous
            else "the credentials are wrong, have expired, or do not allow it"
            + _advice(place, "run the same command again with good ones")
        )
        return StoreError(
            f"{address}: {what} was refused ({code[1] if code else status_of(error)}); {why}"
        )
    if "redirect" in text:
        return StoreError(f"{address}: {what} was sent elsewhere; name the bucket's region")
    if not was_reached:
        return _explain_unreached(error, address=address, seconds=seconds)
    return StoreError(
        f"{address}: {what} failed for {seconds:.0f} seconds: {describe(error)}"
        + _advice(place, "run the same command again when the store answers")
    )


def _advice(place: "Place", what: str) -> str:
    """Return how a message goes on where work is kept."""
    return "" if place.is_for_reading else f". What is finished is kept: {what}"


def _explain_unreached(error: Exception, *, address: str, seconds: float) -> OSError:
    found = _SERVER.search(_text(error))
    is_web = address.lower().startswith(("http://", "https://"))
    server = "the server" if is_web or found is None else found[1]
    check = "the address" if is_web else "the address, the endpoint (--endpoint)"
    return StoreError(
        f"{address}: {server} cannot be reached ({cause_of(error)}), tried for {seconds:.0f} "
        f"seconds; check {check} and the network"
    )


def _explain_web(error: Exception, *, address: str, what: str, seconds: float) -> OSError:
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{address}: not there")
    if is_refused(error):
        return StoreError(
            f"{address}: {what} was refused ({status_of(error)}); the web server does not give it "
            "to everyone, or the signature in its address has expired. When it does, "
            "--retry-failed tries it again"
        )
    return StoreError(
        f"{address}: {what} failed for {seconds:.0f} seconds: {describe(error)}. When the web "
        "server gives it, --retry-failed tries it again"
    )


def _text(error: Exception) -> str:
    return str(error).partition("\n\nDebug source")[0]


def may_pass(error: Exception, place: "Place") -> bool:
    """Tell whether an error may be over in a while."""
    from obstore.exceptions import GenericError

    if place.credentials is not None and place.credentials.error is not None:
        return False
    if not isinstance(error, GenericError) or is_refused(error):
        return False
    text = _text(error)
    if _METADATA_SERVER in text or "redirect" in text or "Content-Length Header" in text:
        return False
    status = status_of(error)
    return status is None or status >= 500 or status in (408, 429) or "RequestTimeout" in text
