"""An upload in parts: nothing is there before `complete`, nothing stays after `abort`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from callreel.delivery import Receipt
from callreel.delivery.s3_errors import store_said
from callreel.delivery.s3_sums import Expected, Sum, etag_of_parts, md5
from callreel.errors import DeliveryDeniedError, DeliveryInterruptedError, DeliveryThrottledError, UsageError

if TYPE_CHECKING:
    from callreel.delivery.s3 import S3

__all__ = ["Part", "Upload"]

T = TypeVar("T")

TRIES = 3
"""Of one part, and of completing, before the upload is given up: a part that is sent twice replaces itself."""

FIRST_WAIT_S = 0.1
"""Before the second try of a part; before the third it is four times that."""

LONGEST_WAIT_S = 5.0
"""What a part waits for; who is asked for more patience comes again later."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part that the store has."""

    size_bytes: int
    etag: str
    checksum: str | None
    """As the store gave it; None when it keeps none, and for a part of before that was not handed in again."""
    is_confirmed: bool
    """Whether the store has told a checksum or an ETag that only this part can have."""


class Upload:
    """A file that is sent part by part, in any order; part 1, which has the header, had better come last.

    It belongs to one thread at a time.
    """

    def __init__(
        self, store: S3, key: str, upload_id: str, metadata: Mapping[str, str], *, overwrite: bool
    ) -> None:
        """Go on with the upload `upload_id`; `S3.begin` and `S3.resume` make these."""
        self.key = key
        self.upload_id = upload_id
        self.parts: dict[int, Part] = {}
        self._store = store
        self._metadata = metadata
        self._overwrite = overwrite
        self._sums: dict[int, bytes] = {}
        self._found: dict[int, Part] = {}

    def part(self, number: int, data: bytes) -> None:
        """Send a part, the first one is 1; all but the last have 5 MiB or more. Sent again it replaces itself."""
        sum_ = self._store.sum
        digest = (sum_ or Sum("SHA256")).of(data)
        self._sums[number] = digest
        found = self._found.pop(number, None)
        if found is not None and found.size_bytes == len(data):
            text = Sum.text(digest)
            if found.checksum == text or found.etag.strip('"') == md5(data).hex():
                self.parts[number] = Part(len(data), found.etag, text if sum_ else None, True)
                return
        request: dict[str, Any] = {"Body": data, "PartNumber": number, "UploadId": self.upload_id}
        if sum_ is not None:
            request[sum_.field] = Sum.text(digest)

        def send() -> Mapping[str, Any]:
            answer: Mapping[str, Any] = self._store.call(
                "upload_part", self.key, f"send part {number} of", **request
            )
            return answer

        answer = _patiently(send)
        stored = answer.get(sum_.field) if sum_ is not None else None
        if stored is not None and stored != Sum.text(digest):
            raise DeliveryInterruptedError(
                f"part {number} of {self.key} arrived as something else", key=self.key, retryable=True
            )
        is_confirmed = stored is not None or answer["ETag"].strip('"') == md5(data).hex()
        self.parts[number] = Part(len(data), answer["ETag"], Sum.text(digest) if sum_ else None, is_confirmed)

    def has(self, number: int, digest: bytes) -> bool:
        """Tell whether this part was sent with this checksum, one of the store's `Sum`, SHA-256 where it has none."""
        return number in self.parts and self._sums.get(number) == digest

    def drop_after(self, number: int) -> None:
        """Leave out the parts behind that one: the file became shorter."""
        for later in [one for one in self.parts if one > number]:
            del self.parts[later]

    def complete(self, *, size_bytes: int, sha256: str) -> Receipt:
        """Make the file appear; `sha256` is that of the file, whose parts are all there by now."""
        numbers = sorted(self.parts)
        if numbers != list(range(1, len(numbers) + 1)) or not numbers:
            raise UsageError(f"the parts of {self.key} are {numbers}: there must be no gap")
        if sum(part.size_bytes for part in self.parts.values()) != size_bytes:
            raise UsageError(f"the parts of {self.key} are not {size_bytes} bytes together")
        sum_ = self._store.sum
        parts = []
        for number in numbers:
            part = self.parts[number]
            one: dict[str, Any] = {"PartNumber": number, "ETag": part.etag}
            if sum_ is not None and part.checksum is not None:
                one[sum_.field] = part.checksum
            parts.append(one)
        expected = Expected(self.key, size_bytes, sha256, self._metadata, set())
        if sum_ is not None:
            expected.sums = {sum_.of_parts(self._sums[number] for number in numbers)}
            if len(numbers) == 1:
                expected.sums.add(Sum.text(self._sums[1]))
        if all(self.parts[number].is_confirmed for number in numbers):
            etags = [self.parts[number].etag.strip('"') for number in numbers]
            if all(_is_md5(etag) for etag in etags):
                expected.etags = {etag_of_parts(bytes.fromhex(etag) for etag in etags)}

        is_completed = False

        def put(condition: Mapping[str, str]) -> Mapping[str, Any]:
            nonlocal is_completed
            answer: Mapping[str, Any] = self._store.call(
                "complete_multipart_upload",
                self.key,
                "complete the upload of",
                UploadId=self.upload_id,
                MultipartUpload={"Parts": parts},
                **condition,
            )
            is_completed = True
            return answer

        receipt = _patiently(lambda: self._store.settle(put, expected, overwrite=self._overwrite))
        if not is_completed:  # the file is there, but perhaps by an earlier upload
            self.abort()
        return receipt

    def abort(self) -> None:
        """Leave nothing of it. What the store does not hear now it is told again with the next delivery."""
        self._store.give_up(self.key, self.upload_id)

    def ask_what_is_there(self) -> None:
        """Learn which parts of before the store has; without the right to ask, all are sent again."""
        marker: dict[str, Any] = {}
        sum_ = self._store.sum
        while True:
            try:
                answer = self._store.call(
                    "list_parts", self.key, "look at the upload of", UploadId=self.upload_id, **marker
                )
            except DeliveryDeniedError:
                return
            for one in answer.get("Parts", ()):
                checksum = one.get(sum_.field) if sum_ is not None else None
                self._found[one["PartNumber"]] = Part(one["Size"], one["ETag"], checksum, False)
            if not answer.get("IsTruncated"):
                return
            marker = {"PartNumberMarker": answer["NextPartNumberMarker"]}

    @property
    def found(self) -> Mapping[int, Part]:
        """Parts of before that were not handed in again yet."""
        return self._found


def _patiently(do: Callable[[], T]) -> T:
    """Do what may be done again, up to three times, with a little patience in between."""
    for attempt in range(1, TRIES):
        try:
            return do()
        except (DeliveryInterruptedError, DeliveryThrottledError) as error:
            wait_s = FIRST_WAIT_S * 4 ** (attempt - 1) if error.retry_after_s is None else error.retry_after_s
            if wait_s > LONGEST_WAIT_S or store_said(error)[0] == "NoSuchUpload":
                raise
            time.sleep(wait_s)
    return do()


def _is_md5(etag: str) -> bool:
    return len(etag) == 32 and all(letter in "0123456789abcdef" for letter in etag)
