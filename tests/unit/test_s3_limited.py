"""Stores that lack something, and the truth about ACLs: juicefs and swift, where they are installed."""

import hashlib
import random

import pytest

from callreel.delivery.s3 import S3
from callreel.errors import DeliveryConflictError, DeliveryDeniedError, DestinationMissingError
from delivery_benches import parcel
from fault_proxy import FaultProxy, LoseAnswer
from limited_stores import OWNER, STRANGER, juicefs, swift
from s3_server import ADMIN

KEY = "calls/2026/one.wav"
CONTENT = random.Random(1).randbytes(20_000)
LONG = random.Random(2).randbytes((5 << 20) + 1000)
IN_PARTS = {"multipart_from_bytes": 5 << 20, "part_bytes": 5 << 20}


@pytest.fixture(scope="module")
def juice(tmp_path_factory):
    with juicefs(tmp_path_factory.mktemp("juicefs")) as server:
        server.make_bucket("recordings", ADMIN)
        yield server


@pytest.fixture(scope="module")
def open_stack(tmp_path_factory):
    with swift(tmp_path_factory.mktemp("swift")) as server:
        server.make_bucket("recordings", OWNER)
        yield server


@pytest.mark.parametrize("content", [CONTENT, LONG], ids=["put", "parts"])
def test_a_store_that_keeps_no_checksums_confirms_by_its_etag(juice, tmp_path, content):
    store = S3(juice.settings("recordings", ADMIN, **IN_PARTS))
    one = parcel(tmp_path, content, f"{len(content)}.wav")
    store.check(one.key)
    receipt = store.deliver(one)
    assert store.deliver(one) == receipt
    stored = juice.client(ADMIN).get_object(Bucket="recordings", Key=one.key)
    assert hashlib.sha256(stored["Body"].read()).hexdigest() == one.sha256
    assert stored["Metadata"] == dict(one.metadata)
    assert "ChecksumSHA256" not in stored


def test_a_store_that_ignores_if_none_match_keeps_what_others_put_there_when_told_so(juice, tmp_path):
    store = S3(juice.settings("recordings", ADMIN, conditional_put=False))
    store.deliver(parcel(tmp_path, b"another's", "taken.wav", metadata={"transaction-id": "t-2"}))
    with pytest.raises(DeliveryConflictError):
        store.deliver(parcel(tmp_path, CONTENT, "taken.wav"))
    assert store.deliver(parcel(tmp_path, CONTENT, "free.wav")).size_bytes == len(CONTENT)


@pytest.mark.parametrize("conditional_put", [True, False])
def test_a_store_that_ignores_if_none_match_has_a_file_once_after_a_lost_answer(
    juice, tmp_path, conditional_put
):
    proxy = FaultProxy(juice.port)
    store = S3(
        juice.settings("recordings", ADMIN, conditional_put=conditional_put, endpoint_url=proxy.endpoint)
    )
    at = 0 if conditional_put else 1
    proxy.reset({at: LoseAnswer()})
    one = parcel(tmp_path, CONTENT, f"lost-{conditional_put}.wav")
    assert store.deliver(one).checksum == f"sha256:{one.sha256}"
    assert [method for method, _ in proxy.seen[at : at + 2]] == ["PUT", "HEAD"]
    assert [method for method, _ in proxy.seen].count("PUT") == 1
    proxy.close()


def test_a_store_that_cannot_encrypt_refuses_for_good(juice, tmp_path):
    store = S3(juice.settings("recordings", ADMIN, sse="AES256"))
    with pytest.raises(DeliveryDeniedError, match="does not offer") as caught:
        store.deliver(parcel(tmp_path, CONTENT))
    assert not caught.value.retryable


def test_a_missing_bucket_is_missing_there_too(juice, open_stack, tmp_path):
    for settings in (
        juice.settings("no-such-bucket", ADMIN),
        open_stack.settings("no-such-bucket", OWNER),
    ):
        with pytest.raises(DestinationMissingError):
            S3(settings).check(KEY)
        with pytest.raises(DestinationMissingError):
            S3(settings).deliver(parcel(tmp_path, CONTENT))


def test_the_owner_of_a_bucket_reads_what_a_stranger_put_there_only_with_the_acl_for_it(open_stack, tmp_path):
    from botocore.exceptions import ClientError

    owner = open_stack.client(OWNER)
    owner.create_bucket(Bucket="shared")
    with pytest.raises(DeliveryDeniedError):
        S3(open_stack.settings("shared", STRANGER)).check(KEY)
    owner.put_bucket_acl(Bucket="shared", GrantWrite='id="test:low"')
    for acl, may_read in ((None, False), ("bucket-owner-full-control", True)):
        store = S3(open_stack.settings("shared", STRANGER, acl=acl, **IN_PARTS))
        for content in (CONTENT, LONG):
            one = parcel(tmp_path, content, f"{acl}/{len(content)}.wav")
            store.check(one.key)
            receipt = store.deliver(one)
            assert store.deliver(one) == receipt
            if may_read:
                assert owner.get_object(Bucket="shared", Key=one.key)["Body"].read() == content
            else:
                with pytest.raises(ClientError, match="AccessDenied"):
                    owner.get_object(Bucket="shared", Key=one.key)
