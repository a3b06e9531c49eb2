"""What failures of S3 mean: gone, changed, not now, or not without a person."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from cortex_core.errors import Changed, CortexError, NotFound, StorageRefused, StorageUnavailable
from cortex_core.names import printable
from cortex_core.storage.deadline import DeadlinePassed

FAILURES = (boto.BotoCoreError, boto.ClientError, ResponseParserError, HTTPError, DeadlinePassed)
"""What boto3 and a deadline raise; urllib3's errors come through boto3 when the body of an error breaks off."""

_THROTTLED = {
    "429", "BandwidthLimitExceeded", "EC2ThrottledException", "RequestLimitExceeded", "RequestThrottled", "SlowDown",
    "Throttling", "ThrottlingException", "TooManyRequests", "TooManyRequestsException",
}  # fmt: skip
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_DENIED = {"403", "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "Forbidden"}
_WRONG_CREDENTIALS = {"InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
_WRONG_REGION = {
    "301", "307", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect",
    "TemporaryRedirect",
}  # fmt: skip
_NO_KEY = {"404", "NoSuchKey", "NotFound"}
_CHANGED = {"412", "PreconditionFailed", "416", "InvalidRange"}

_CREDENTIALS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


def translated(error: Exception, *, operation: str, bucket: str, key: str, seconds: float) -> CortexError:
    """A failure in our words; they name the operation, the bucket and the key, and never a credential.

    Args:
        error: one of `FAILURES`.
        operation: as S3 calls it, such as `GetObject`.
        key: the whole key, or the prefix of a listing.
        seconds: how long the operation was allowed to take.
    """
    place = f"{operation} s3://{bucket}/{printable(key)}"
    if isinstance(error, boto.ClientError):
        return _of_answer(error, place=place, bucket=bucket)
    if isinstance(error, DeadlinePassed):
        return StorageUnavailable(f"{place}: not done within {seconds:.0f} seconds")
    if isinstance(error, ResponseParserError):
        return StorageUnavailable(f"{place}: the answer is cut off or is not S3's")
    if isinstance(error, HTTPError):
        return StorageUnavailable(f"{place}: the connection to the storage broke")
    if isinstance(error, (boto.CredentialRetrievalError, boto.MetadataRetrievalError)):
        return StorageUnavailable(f"{place}: the credentials could not be fetched ({type(error).__name__})")
    if isinstance(error, (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError)):
        return StorageUnavailable(f"{place}: {_of_connection(error)}")
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return StorageRefused(f"{place}: there are no credentials, or not all", hint=_CREDENTIALS_HINT)
    return StorageRefused(f"{place}: boto3 cannot send this: {type(error).__name__}")


def _of_answer(error: boto.ClientError, *, place: str, bucket: str) -> CortexError:
    answer: dict[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return StorageRefused(f"{place}: there is no bucket '{bucket}'", hint="check its name, or make it")
    if code in _NO_KEY:
        return NotFound(f"{place}: there is no such object")
    if code in _CHANGED:
        return Changed(f"{place}: the object is not what it was any more")
    if code in _EXPIRED:
        return StorageUnavailable(f"{place}: the credentials have expired ({code})", hint="renew them")
    if code in _THROTTLED:
        return StorageUnavailable(f"{place}: the storage asks for fewer requests ({code})")
    if code in _DENIED:
        return StorageRefused(
            f"{place}: access denied ({code})", hint=f"grant {place.split()[0]} on this bucket"
        )
    if code in _WRONG_CREDENTIALS:
        return StorageRefused(f"{place}: the credentials are not valid ({code})", hint=_CREDENTIALS_HINT)
    if code in _WRONG_REGION:
        return StorageRefused(
            f"{place}: the bucket is in another region ({code})", hint="set AWS_REGION to the bucket's"
        )
    if status >= 500 or code == "RequestTimeout":
        return StorageUnavailable(f"{place}: the storage failed ({code or 'no code'}, status {status})")
    return StorageRefused(f"{place}: the storage refuses this ({code or 'no code'}, status {status})")


def _of_connection(error: boto.BotoCoreError) -> str:
    url = urlsplit(str(error.kwargs.get("endpoint_url") or ""))
    host = url.netloc.rpartition("@")[2] or "the storage"
    if isinstance(error, (boto.ConnectTimeoutError, boto.ReadTimeoutError)):
        return f"{host} does not answer"
    if isinstance(error, boto.EndpointConnectionError):
        return f"{host} cannot be reached"
    if isinstance(error, boto.SSLError):
        return f"no encrypted connection to {host} can be made"
    if isinstance(error, boto.ProxyConnectionError):
        return "the proxy cannot be reached"
    return f"the connection to {host} broke"
