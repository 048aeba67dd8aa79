"""Credentials of S3 that are made anew before they expire.

The object store asks a provider before each request whose credentials have less than five
minutes left. Ours always claim five minutes and know the real expiry themselves, so that they
are asked each time and new ones are made early enough for a request to be retried for long.
"""

import json
import shlex
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from gopstream.pipeline.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import S3Credential

WAYS_TO_CREDENTIALS: Final = (
    "give --profile (or set AWS_PROFILE), give --credentials-command, or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY"
)
"""What a message tells those who have none."""

_ASK_EACH_TIME: Final = timedelta(minutes=5)
_OWN_MARGIN: Final = timedelta(minutes=5)
_PAUSE: Final = timedelta(seconds=30)


class CommandCredentials:
    """Credentials that a command prints, as AWS's ``credential_process`` does.

    Source: AWS SDKs and Tools Reference Guide, "Process credential provider".
    """

    def __init__(self, command: str, *, patience_seconds: float) -> None:
        """Name the command.

        Args:
            command: Words as in a shell, which is not used.
            patience_seconds: How long one request may be retried with the same credentials.
        """
        self._command = command
        self._margin = timedelta(seconds=patience_seconds) + _OWN_MARGIN
        self._lock = threading.Lock()
        self._held: S3Credential | None = None
        self._expires_at: datetime | None = None
        self._renew_at: datetime | None = None
        self.error: StoreError | None = None
        """Why the last call failed; the object store would wrap it beyond recognition."""

    def __call__(self) -> "S3Credential":
        """Return credentials that stay valid for a while."""
        with self._lock:
            now = datetime.now(UTC)
            if self._held is None or (self._renew_at is not None and now >= self._renew_at):
                self._renew(now)
            assert self._held is not None
            return {**self._held, "expires_at": now + _ASK_EACH_TIME}

    def forget(self) -> None:
        """Make new ones next time, since the store refused these."""
        with self._lock:
            self._held = None

    def _renew(self, now: datetime) -> None:
        try:
            held, expires_at = self._run()
        except StoreError as error:
            if self._held is not None and self._expires_at is not None and now < self._expires_at:
                # The old ones are still good; what failed may work in a while.
                self._renew_at = now + _PAUSE
                return
            self.error = error
            raise
        self.error = None
        self._held, self._expires_at = held, expires_at
        # Short-lived ones are used for half their life, or they would be made for each request.
        self._renew_at = (
            None
            if expires_at is None
            else max(expires_at - self._margin, now + (expires_at - now) / 2)
        )

    def _run(self) -> "tuple[S3Credential, datetime | None]":
        try:
            done = subprocess.run(
                shlex.split(self._command), capture_output=True, text=True, check=False
            )
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the credentials command {self._command!r} cannot be started ({error})"
            ) from error
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise StoreError(
                f"the credentials command {self._command!r} ended with status "
                f"{done.returncode}: {last}"
            )
        try:
            content: dict[str, Any] = json.loads(done.stdout)
            held: S3Credential = {
                "access_key_id": content["AccessKeyId"],
                "secret_access_key": content["SecretAccessKey"],
                "token": content.get("SessionToken"),
                "expires_at": None,
            }
            return held, _parse_time(content.get("Expiration"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # Without the output itself, which holds secrets.
            raise StoreError(
                f"the credentials command {self._command!r} must print JSON with AccessKeyId, "
                "SecretAccessKey, SessionToken and Expiration, as AWS's credential_process does "
                f"({type(error).__name__} while reading it)"
            ) from None


class ProfileCredentials:
    """Credentials of a profile of AWS's configuration files: keys, SSO, assumed roles, processes.

    botocore makes new ones ten minutes before the old expire, when it is asked.
    """

    def __init__(self, profile: str) -> None:
        """Read the profile.

        Raises:
            StoreError: If botocore is not installed, or there is no such profile or nothing in it.
        """
        self._profile = profile
        self.error: StoreError | None = None
        """Why the last call failed; the object store would wrap it beyond recognition."""
        self._open()

    def _open(self) -> None:
        try:
            # It comes with boto3, and without types.
            import botocore.exceptions  # type: ignore[import-untyped]
            import botocore.session  # type: ignore[import-untyped]
        except ImportError as error:
            raise StoreError(
                f"the profile {self._profile!r} needs boto3: pip install boto3; or do without it: "
                "give --credentials-command, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "give --anonymous if the place is public"
            ) from error
        self._failure: type[Exception] = botocore.exceptions.BotoCoreError
        session = botocore.session.Session(profile=self._profile)
        try:
            self._credentials = session.get_credentials()
            self.region: str | None = session.get_config_variable("region")
        except self._failure as error:
            raise StoreError(
                f"the profile {self._profile!r} cannot be used: {error}; --profile or AWS_PROFILE "
                "names another"
            ) from error
        if self._credentials is None:
            raise StoreError(
                f"the profile {self._profile!r} holds no credentials; {WAYS_TO_CREDENTIALS}, or "
                "give --anonymous if the place is public"
            )

    def __call__(self) -> "S3Credential":
        """Return credentials that stay valid for a while."""
        self.error = None
        try:
            frozen = self._credentials.get_frozen_credentials()
        except (self._failure, RuntimeError) as error:
            # RuntimeError: the new ones have expired as well.
            self.error = StoreError(
                f"the credentials of the profile {self._profile!r} cannot be renewed: {error}"
            )
            raise self.error from error
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _ASK_EACH_TIME,
        }

    def forget(self) -> None:
        """Read the profile again, since the store refused its credentials."""
        self._open()


def _parse_time(text: str | None) -> datetime | None:
    """Return the time of an ISO 8601 string; without a zone it is UTC, as AWS prints it."""
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
