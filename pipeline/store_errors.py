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
_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")


def status_of(error: Exception) -> int | None:
    """Return the HTTP status behind an error of obstore, None if there was no answer."""
    found = _STATUS.search(_text(error))
    return None if found is None else int(found[1])


def is_refused(error: Exception) -> bool:
    """Tell whether a store did not accept the credentials."""
    return status_of(error) in (401, 403) or _REFUSED.search(_text(error)) is not None


def describe(error: Exception) -> str:
    """Return an error of obstore in one line, without queries, which may hold signatures."""
    text = re.sub(r"\?[^\s,)]*", "", _text(error))
    return " ".join(text.split())[:400]


def explain(error: Exception, *, place: "Place", what: str, seconds: float) -> OSError:
    """Return what an error of obstore means for the person who waits.

    Args:
        error: The error.
        place: Where it happened.
        what: What was tried.
        seconds: For how long.
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
            else "the credentials are wrong, have expired, or do not allow it. What is finished is "
            "kept: run the same command again with good ones"
        )
        return StoreError(
            f"{address}: {what} was refused ({code[1] if code else status_of(error)}); {why}"
        )
    if "redirect" in text:
        return StoreError(f"{address}: {what} was sent elsewhere; name the bucket's region")
    return StoreError(
        f"{address}: {what} failed for {seconds:.0f} seconds: {describe(error)}. What is finished "
        "is kept: run the same command again when the store answers"
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
