"""S3, and what speaks like it: a file is there whole, with the right checksum, or not at all.

A small file is one put, a large one goes in parts, part 1 (which holds the header) last. Nothing appears under the key
before all of it is there: S3 shows neither half a put nor a part. `If-None-Match: *` keeps what others put there; but
whether a file is ours is never concluded from a refusal. After an answer that was lost, or that says "something is
there", we look: a file of the same size, checksum and transaction id is ours, and its delivery has gone well.

    put ──200──> compare what is stored ──equal──> receipt
     │ lost, 412, 500                └─different──> remove it, raise
     └──> look ──nothing there──> raise: try again
            ├──ours──> receipt
            └──other──> DeliveryConflictError
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from callreel.delivery import GrowingUpload, Parcel, Receipt
from callreel.delivery.local import changed, unreadable
from callreel.delivery.s3_errors import delivery_error, store_said
from callreel.delivery.s3_settings import S3Credentials, S3Settings, make_client
from callreel.delivery.s3_sums import READ_BYTES, Digests, Expected, Sum, digests_of
from callreel.delivery.s3_upload import Upload
from callreel.errors import (
    DeliveryConflictError,
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DestinationMissingError,
)
from callreel.quiet import keep_boto3_quiet

__all__ = ["S3", "S3Credentials", "S3Settings", "Upload", "as_sent"]

Put = Callable[[Mapping[str, str]], Mapping[str, Any]]
"""A request that makes the object appear, given its condition; it gives the answer."""

MAX_PARTS = 10_000
TRANSACTION_ID = "transaction-id"
TRUSTED_FOR_S = 300.0
"""So long after a look that found everything as sent, a SHA-256 in the answer of a put is enough."""

DENIED_FOR_S = 900.0
"""So long nothing is asked for again that only serves to be sure, and is not allowed."""

PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


class S3:
    """A bucket that takes recordings. It may be used by several threads at a time."""

    def __init__(self, settings: S3Settings, client: Any = None) -> None:
        """Use the bucket of `settings`, through the embedding program's boto3 `client` or one of our own making.

        Ours is made with the first request.
        """
        self.settings = settings
        keep_boto3_quiet()
        self.sum = None if settings.checksum is None else Sum(settings.checksum)
        self._client = client
        self._lock = threading.Lock()
        self._conditional = settings.conditional_put
        self._looks_again_at = 0.0
        self._lists_again_at = 0.0
        self._trusted_until = 0.0
        self._keys: dict[str, tuple[threading.Lock, int]] = {}
        """Keys that are delivered in parts right now, and how many threads want to."""
        self._left: dict[str, str] = {}
        """Uploads that could not be aborted when they were given up: their keys, by their ids."""

    @property
    def lane(self) -> str:
        """What fails together: the bucket at its endpoint."""
        endpoint = self.settings.endpoint_url
        where = "" if endpoint is None else f"@{urlsplit(endpoint).netloc}"
        return f"s3://{self.settings.bucket}{where}"

    def location(self, key: str) -> str:
        """Where a file of that key is."""
        return f"s3://{self.settings.bucket}/{key}"

    # -- access ------------------------------------------------------------------------------------------

    def check(self, key: str) -> None:
        """Say now whether a file of that key could be delivered, by beginning an upload and giving it up.

        It asks for what the delivery will ask for (ACL, encryption, tags, storage class, lock), needs no right to read,
        and leaves nothing that anybody sees. Where uploads in parts are unknown, it looks for the bucket only.
        """
        try:
            answer = self.call(
                "create_multipart_upload", key, "begin an upload of", **self._how(), **self._sum_kind()
            )
        except DeliveryDeniedError as error:
            if store_said(error)[1] not in (405, 501):
                raise
            self._look_for_bucket(key)
            return
        except DeliveryInterruptedError:
            self._give_up_others(key)  # it may have begun, and only the answer was lost
            raise
        self.give_up(key, answer["UploadId"])

    def _look_for_bucket(self, key: str) -> None:
        try:
            self.call("head_bucket", None, "reach the bucket for")
        except DestinationMissingError:
            raise
        except DeliveryDeniedError:
            return  # to look is more than to put

    # -- delivery ----------------------------------------------------------------------------------------

    @property
    def part_bytes(self) -> int:
        """How large the parts of a file that grows are."""
        return self.settings.part_bytes

    def deliver(self, parcel: Parcel, begun: GrowingUpload | None = None) -> Receipt:
        """Deliver the file whole, or raise a `DeliveryError` and leave nothing of it.

        `begun`: an upload of this key by `begin` or `resume`. Parts that are not as the file is now are sent again.
        """
        self._give_up_what_was_left()
        assert begun is None or isinstance(begun, Upload)
        try:
            size_bytes = parcel.path.stat().st_size
            if size_bytes != parcel.size_bytes:
                raise changed(parcel)
            if size_bytes >= self.settings.multipart_from_bytes or begun is not None:
                with self._alone_with(parcel.key):
                    return self._deliver_in_parts(parcel, begun)
            return self._put(parcel, parcel.path.read_bytes())
        except DeliveryError:
            raise
        except OSError as error:
            raise unreadable(parcel, error) from error

    def _put(self, parcel: Parcel, data: bytes) -> Receipt:
        if hashlib.sha256(data).hexdigest() != parcel.sha256:
            raise changed(parcel)
        expected = _expected(parcel, self.settings.part_bytes)
        request: dict[str, Any] = {
            "Body": data,
            "Metadata": expected.metadata,
            "ContentType": parcel.media_type,
        }
        if self.sum is not None:
            digest = self.sum.of(data) if self.sum.name != "SHA256" else bytes.fromhex(parcel.sha256)
            request[self.sum.field] = self.sum.text(digest)
            expected.sums = {self.sum.text(digest), self.sum.of_parts([digest])}
        request |= self._how()

        def put(condition: Mapping[str, str]) -> Any:
            return self.call("put_object", parcel.key, "store", **request, **condition)

        return self.settle(put, expected, overwrite=parcel.overwrite)

    def _deliver_in_parts(self, parcel: Parcel, begun: Upload | None) -> Receipt:
        part_bytes = max(self.settings.part_bytes, -(-parcel.size_bytes // MAX_PARTS))
        if begun is not None and part_bytes != self.settings.part_bytes:  # it became too long for its parts
            begun.abort()
            begun = None
        if begun is not None:
            return self._finish(begun, parcel, part_bytes)
        digests = digests_of(parcel.path, part_bytes, self.sum)
        if (digests.size_bytes, digests.sha256) != (parcel.size_bytes, parcel.sha256):
            raise changed(parcel)
        self._give_up_others(parcel.key)
        may_look = time.monotonic() >= self._looks_again_at
        if may_look and not (parcel.overwrite or self.settings.overwrite):
            expected = _expected(parcel, part_bytes)
            if self.sum is not None:
                expected.sums = {self.sum.of_parts(digests.parts)}
            with contextlib.suppress(DeliveryDeniedError):  # to look is more than to put
                if (receipt := self._receipt_of_what_is_there(expected)) is not None:
                    return receipt  # it was delivered before: many bytes need not go again
        try:
            upload = self.begin(
                parcel.key, media_type=parcel.media_type, metadata=parcel.metadata, overwrite=parcel.overwrite
            )
        except DeliveryInterruptedError:
            self._give_up_others(parcel.key)  # it may have begun, and only the answer was lost
            raise
        return self._send(upload, parcel, digests, part_bytes)

    def _finish(self, upload: Upload, parcel: Parcel, part_bytes: int) -> Receipt:
        """Send what is missing of an upload, and what has changed."""
        try:
            digests = digests_of(parcel.path, part_bytes, self.sum)
            if (digests.size_bytes, digests.sha256) != (parcel.size_bytes, parcel.sha256):
                raise changed(parcel)
        except BaseException:
            upload.abort()
            raise
        return self._send(upload, parcel, digests, part_bytes)

    def _send(self, upload: Upload, parcel: Parcel, digests: Digests, part_bytes: int) -> Receipt:
        upload.drop_after(len(digests.parts))
        try:
            with parcel.path.open("rb") as file:
                for number in [*range(2, len(digests.parts) + 1), 1]:
                    if not upload.has(number, digests.parts[number - 1]):
                        file.seek((number - 1) * part_bytes)
                        upload.part(number, file.read(part_bytes))
            return upload.complete(size_bytes=parcel.size_bytes, sha256=parcel.sha256)
        except BaseException:
            upload.abort()
            raise

    @contextlib.contextmanager
    def _alone_with(self, key: str) -> Iterator[None]:
        """Let threads of this process deliver one after the other: each takes another upload for a dead one's."""
        with self._lock:
            lock, users = self._keys.get(key, (threading.Lock(), 0))
            self._keys[key] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                users = self._keys[key][1] - 1
                if users:
                    self._keys[key] = lock, users
                else:
                    del self._keys[key]

    # -- uploads -----------------------------------------------------------------------------------------

    def begin(
        self, key: str, *, media_type: str, metadata: Mapping[str, str], overwrite: bool = False
    ) -> Upload:
        """Begin a file whose parts come one by one, for instance while it still grows.

        What is stored beside it is said now: S3 cannot change it later.
        """
        answer = self.call(
            "create_multipart_upload",
            key,
            "begin an upload of",
            Metadata=as_sent(metadata),
            ContentType=media_type,
            **self._how(),
            **self._sum_kind(),
        )
        return Upload(self, key, answer["UploadId"], as_sent(metadata), overwrite=overwrite)

    def resume(
        self, key: str, upload_id: str, *, metadata: Mapping[str, str], overwrite: bool = False
    ) -> Upload:
        """Go on with an upload that was begun before, for instance by a process that is dead.

        Hand in every part again: those that are there already are recognised and not sent. A `DeliveryInterruptedError`
        says that the upload is no more: begin another one.
        """
        upload = Upload(self, key, upload_id, as_sent(metadata), overwrite=overwrite)
        upload.ask_what_is_there()
        return upload

    def give_up(self, key: str, upload_id: str) -> bool:
        """Abort an upload; if that fails now (False), it is tried again with the next delivery."""
        try:
            self.call("abort_multipart_upload", key, "give up the upload of", UploadId=upload_id)
        except DeliveryError as error:
            # Who may begin uploads, but not abort them, leaves it to the bucket's lifecycle rule.
            if error.retryable and store_said(error)[0] != "NoSuchUpload":
                with self._lock:
                    self._left[upload_id] = key
                return False
        return True

    def _give_up_what_was_left(self) -> None:
        with self._lock:
            left, self._left = self._left, {}
        while left:
            upload_id, key = left.popitem()
            if not self.give_up(key, upload_id):
                with self._lock:  # a store that cannot be told of one need not be asked of all
                    self._left |= left
                return

    def _give_up_others(self, key: str) -> None:
        """Abort what a process that died has left under this key, if we may see it."""
        if time.monotonic() < self._lists_again_at:
            return
        try:
            answer = self.call("list_multipart_uploads", None, "look for uploads of", about=key, Prefix=key)
        except DeliveryDeniedError:
            self._lists_again_at = time.monotonic() + DENIED_FOR_S
            return
        for one in answer.get("Uploads", ()):
            if one["Key"] == key:
                self.give_up(key, one["UploadId"])

    # -- whether it is there -----------------------------------------------------------------------------

    def settle(self, put: Put, expected: Expected, *, overwrite: bool) -> Receipt:
        """Let `put` make the object appear, and find out what came of it."""
        overwrite = overwrite or self.settings.overwrite
        condition: dict[str, str] = {}
        if not overwrite and self._conditional:
            condition = {"IfNoneMatch": "*"}
        elif not overwrite and (receipt := self._receipt_of_what_is_there(expected)) is not None:
            return receipt
        try:
            answer = put(condition)
        except (DeliveryConflictError, DeliveryInterruptedError) as error:
            return self._find_out(expected, error, overwrite=overwrite)
        except DeliveryDeniedError as error:
            if not condition or store_said(error)[1] != 501:
                raise
            # It may be the condition that the store does not know. Without it another reason is told again.
            if (receipt := self._receipt_of_what_is_there(expected)) is not None:
                return receipt
            try:
                answer = put({})
            except (DeliveryConflictError, DeliveryInterruptedError) as again:
                return self._find_out(expected, again, overwrite=overwrite)
            self._conditional = False
        return self._confirm(expected, answer)

    def _receipt_of_what_is_there(self, expected: Expected) -> Receipt | None:
        """Look before a put that could replace something: None when nothing is there."""
        stored = self._look(expected.key)
        if stored is None:
            return None
        if self._is_ours(expected, stored):
            return self._receipt_of(expected, stored)
        raise DeliveryConflictError(f"something else is stored as {expected.key}", key=expected.key)

    def _find_out(self, expected: Expected, error: DeliveryError, *, overwrite: bool) -> Receipt:
        """Look what is there after an answer that was lost, or that says that something is."""
        is_conflict = isinstance(error, DeliveryConflictError)
        try:
            stored = self._look(expected.key)
        except DeliveryDeniedError:
            if is_conflict:
                raise DeliveryConflictError(
                    f"{expected.key} exists, and without s3:GetObject nobody can tell whether it is this recording",
                    key=expected.key,
                ) from None
            raise error from None
        except DeliveryError as again:
            raise (again if is_conflict else error) from None
        if stored is not None and self._is_ours(expected, stored):
            return self._receipt_of(expected, stored)
        if stored is None or (overwrite and not is_conflict):
            if is_conflict:  # it was there, and is gone
                raise DeliveryInterruptedError(str(error), key=expected.key, retryable=True) from None
            raise error
        raise DeliveryConflictError(f"something else is stored as {expected.key}", key=expected.key) from None

    def _confirm(self, expected: Expected, answer: Mapping[str, Any]) -> Receipt:
        """Compare what a put has stored with what was to be stored; a difference is removed and raised."""
        if self._is_confirmed_by(answer, expected):
            return self._receipt(expected)
        stored = answer
        if time.monotonic() >= self._looks_again_at:
            try:
                found = self._look(expected.key)
            except DeliveryDeniedError:
                # A right to put is enough; the answer itself has to confirm then.
                self._looks_again_at = time.monotonic() + DENIED_FOR_S
            else:
                if found is None:
                    raise DeliveryInterruptedError(
                        f"{expected.key} was stored, and is not there", key=expected.key, retryable=True
                    )
                stored = found
        same_sum = expected.checksum(stored, self.sum)
        if same_sum is None:
            same_sum = expected.checksum(answer, self.sum)
        if same_sum is None:
            same_sum = self._read_back(expected)
        problem: tuple[type[DeliveryError], str] | None = None
        if stored.get("ContentLength", expected.size_bytes) != expected.size_bytes:
            problem = (
                DeliveryInterruptedError,
                f"{stored['ContentLength']} bytes of {expected.size_bytes} are stored",
            )
        elif same_sum is False:
            problem = DeliveryInterruptedError, "what is stored has another checksum"
        elif same_sum is None:
            raise DeliveryDeniedError(
                f"the store confirms no checksum of {expected.key}, and without s3:GetObject nobody else can",
                key=expected.key,
            )
        elif not self._is_encrypted(stored):
            problem = DeliveryDeniedError, f"the store did not encrypt it ({self.settings.sse})"
        elif "Metadata" in stored and not _holds(stored["Metadata"], expected.metadata):
            problem = DeliveryDeniedError, "the store does not keep its metadata"
        if problem is None:
            if stored is not answer:
                self._trusted_until = time.monotonic() + TRUSTED_FOR_S
            return self._receipt(expected)
        kind, what = problem
        if stored.get("ETag") == answer.get("ETag"):  # it is what we have just put there
            with contextlib.suppress(DeliveryError):
                self.call("delete_object", expected.key, "remove")
        raise kind(
            f"cannot store {expected.key}: {what}",
            key=expected.key,
            retryable=kind is DeliveryInterruptedError,
        )

    def _is_confirmed_by(self, answer: Mapping[str, Any], expected: Expected) -> bool:
        """Tell whether a look can be spared: the store keeps what it is given, and has told the SHA-256 of this."""
        return (
            not self.settings.always_look
            and time.monotonic() < self._trusted_until
            and self.sum is not None
            and self.sum.name == "SHA256"
            and answer.get(self.sum.field) in expected.sums
            and self._is_encrypted(answer)
        )

    def _is_ours(self, expected: Expected, stored: Mapping[str, Any]) -> bool:
        if stored.get("ContentLength") != expected.size_bytes:
            return False
        ours = {name: text for name, text in expected.metadata.items() if name.lower() == TRANSACTION_ID}
        if not _holds(stored.get("Metadata", {}), ours):
            return False
        same_sum = expected.checksum(stored, self.sum)
        return bool(self._read_back(expected) if same_sum is None else same_sum)

    def _look(self, key: str) -> Mapping[str, Any] | None:
        """HEAD: what is stored under the key, None when nothing is."""
        more = {} if self.sum is None else {"ChecksumMode": "ENABLED"}
        try:
            found: Mapping[str, Any] = self.call("head_object", key, "look at", **more)
        except DestinationMissingError:
            return None
        return found

    def _read_back(self, expected: Expected) -> bool | None:
        """Read the object and compare its content, for stores that keep nothing to compare; None if we may not."""
        try:
            body = self.call("get_object", expected.key, "read back")["Body"]
            digest = hashlib.sha256()
            with self.translated(expected.key, "read back"), contextlib.closing(body):
                for data in body.iter_chunks(READ_BYTES):
                    digest.update(data)
        except DeliveryDeniedError:
            return None
        return digest.hexdigest() == expected.sha256

    def _is_encrypted(self, stored: Mapping[str, Any]) -> bool:
        """Tell whether it is encrypted as asked for."""
        return self.settings.sse in (None, stored.get("ServerSideEncryption"))

    def _receipt_of(self, expected: Expected, stored: Mapping[str, Any]) -> Receipt:
        """Confirm what was found there."""
        if not self._is_encrypted(stored):
            raise DeliveryDeniedError(
                f"{expected.key} is there, but not encrypted ({self.settings.sse})", key=expected.key
            )
        return self._receipt(expected)

    def _receipt(self, expected: Expected) -> Receipt:
        return Receipt(self.location(expected.key), expected.size_bytes, f"sha256:{expected.sha256}")

    # -- requests ----------------------------------------------------------------------------------------

    def call(
        self, operation: str, key: str | None, what: str, *, about: str | None = None, **arguments: Any
    ) -> Any:
        """Make one request about `key`; what goes wrong is ours."""
        if key is not None:
            arguments["Key"] = key
        if self.settings.expected_bucket_owner is not None:
            arguments["ExpectedBucketOwner"] = self.settings.expected_bucket_owner
        with self.translated(key or about or self.settings.bucket, what):
            with self._lock:
                if self._client is None:
                    self._client = make_client(self.settings)
            return getattr(self._client, operation)(Bucket=self.settings.bucket, **arguments)

    @contextlib.contextmanager
    def translated(self, key: str, what: str) -> Iterator[None]:
        """Turn what boto3 raises into a `DeliveryError`."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error) as error:
            own = self.settings.credentials
            raise delivery_error(error, what, key, own.redacted if own is not None else str) from None

    def _how(self) -> dict[str, Any]:
        """How files are stored, the same for a put and for the beginning of an upload."""
        settings = self.settings
        lock_until: datetime | None = settings.object_lock_until
        given = {
            "ACL": settings.acl,
            "ServerSideEncryption": settings.sse,
            "SSEKMSKeyId": settings.sse_kms_key_id,
            "StorageClass": settings.storage_class,
            "Tagging": urlencode(settings.tags) or None,
            "ObjectLockMode": settings.object_lock_mode,
            "ObjectLockRetainUntilDate": lock_until,
            "ObjectLockLegalHoldStatus": "ON" if settings.legal_hold else None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def _sum_kind(self) -> dict[str, str]:
        return {} if self.sum is None else {"ChecksumAlgorithm": self.sum.name, "ChecksumType": "COMPOSITE"}


def as_sent(metadata: Mapping[str, str]) -> dict[str, str]:
    """Make metadata fit for HTTP headers: names in lower case, and what is no printable ASCII as %XX of its UTF-8."""
    return {name.lower(): quote(text.strip(), safe=PRINTABLE) for name, text in metadata.items()}


def _holds(stored: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Tell whether all of `wanted` is there; some stores change the case of names."""
    there = {name.lower(): text for name, text in stored.items()}
    return all(there.get(name.lower()) == text for name, text in wanted.items())


def _expected(parcel: Parcel, part_bytes: int) -> Expected:
    metadata = as_sent(parcel.metadata)
    return Expected(parcel.key, parcel.size_bytes, parcel.sha256, metadata, set(), parcel.path, part_bytes)
