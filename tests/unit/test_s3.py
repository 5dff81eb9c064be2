"""S3 against a real server (SeaweedFS), over http and https, with users of few rights, and through a faulty network."""

import base64
import datetime
import functools
import hashlib
import json
import pickle
import random
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from callreel.delivery import Parcel
from callreel.delivery.s3 import S3, S3Credentials, S3Settings
from callreel.delivery.s3_errors import BY_NAME, BY_STATUS, delivery_error
from callreel.delivery.s3_policy import bucket_policy
from callreel.errors import (
    DeliveryConflictError,
    DeliveryDeniedError,
    DeliveryError,
    DeliveryInterruptedError,
    DeliveryThrottledError,
    DestinationMissingError,
    UsageError,
)
from delivery_benches import parcel
from fault_proxy import Answer, ByteProxy, Cut, FaultProxy, LoseAnswer, Slow
from s3_server import ADMIN, allow, running
from secret_watch import MARK, may_hold, secret

MIB = 1 << 20
KEY = "calls/2026/one.wav"
CONTENT = random.Random(1).randbytes(20_000)
LONG = random.Random(2).randbytes(5 * MIB + 1000)
PUT_ONLY = ("s3:PutObject",)


@pytest.fixture
def bucket(s3_server):
    return s3_server.bucket()


@pytest.fixture
def proxy(s3_server):
    proxy = FaultProxy(s3_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def store(s3_server, bucket):
    """Make an S3 of that bucket with these settings."""

    def make(**changes):
        return S3(s3_server.settings(bucket, **changes))

    return make


@pytest.fixture(params=["http", "https"])
def either(request, store):
    """The same over http and over https, where boto3 sends other bytes."""
    return functools.partial(store, tls=request.param == "https")


def head(s3_server, bucket, key=KEY):
    return s3_server.client().head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")


def in_parts(**changes):
    return {"multipart_from_bytes": 5 * MIB, "part_bytes": 5 * MIB} | changes


# ---- what is stored --------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("content", [CONTENT, LONG], ids=["put", "parts"])
@pytest.mark.parametrize("checksum", ["SHA256", "CRC32C"])
def test_the_object_has_its_four_metadata_entries_its_type_and_the_checksum_that_was_sent(
    s3_server, bucket, store, tmp_path, tls, content, checksum
):
    one = parcel(tmp_path, content)
    store(tls=tls, checksum=checksum, **in_parts()).deliver(one)
    stored = head(s3_server, bucket)
    assert stored["Metadata"] == dict(one.metadata)
    assert len(stored["Metadata"]) == 4
    assert stored["ContentType"] == "audio/wav"
    assert stored["ContentLength"] == len(content)
    assert stored[f"Checksum{checksum}"].endswith("-2") == (content is LONG)
    if checksum == "SHA256" and content is CONTENT:
        assert stored["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert s3_server.objects(bucket) == {KEY: content}


@pytest.mark.parametrize("calculation", ["when_supported", "when_required"])
@pytest.mark.parametrize("checksum", [None, "SHA256"])
def test_every_setting_of_checksums_delivers_over_https(store, tmp_path, calculation, checksum):
    for content in (CONTENT, LONG):
        one = parcel(tmp_path, content, f"{len(content)}.wav")
        settings = in_parts(checksum=checksum, request_checksum_calculation=calculation, tls=True)
        assert store(**settings).deliver(one).size_bytes == len(content)


def test_a_put_has_a_length_and_no_chunks_over_https_too(s3_server, bucket, store, tmp_path):
    store(tls=True).deliver(parcel(tmp_path, CONTENT))
    assert (
        head(s3_server, bucket).get("ContentEncoding", "") == ""
    )  # "aws-chunked" is what older stores refuse


def test_storage_class_tags_and_encryption_by_the_store_are_as_set(s3_server, bucket, store, tmp_path):
    settings = {"storage_class": "STANDARD_IA", "tags": {"team": "front desk", "a": "b&c"}, "sse": "AES256"}
    for key, content in (("put", CONTENT), ("parts", LONG)):
        store(**in_parts(**settings)).deliver(parcel(tmp_path, content, key))
        stored = head(s3_server, bucket, key)
        assert stored["StorageClass"] == "STANDARD_IA"
        assert stored["ServerSideEncryption"] == "AES256"
        tags = s3_server.client().get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == settings["tags"]


def test_metadata_that_is_no_ascii_goes_as_percent_escapes_and_is_recognised_again(
    s3_server, bucket, store, tmp_path
):
    one = parcel(tmp_path, CONTENT, metadata={"Transaction-Id": " Grüße\r\nx-evil: 1 "})
    receipt = store().deliver(one)
    assert head(s3_server, bucket)["Metadata"] == {"transaction-id": "Gr%C3%BC%C3%9Fe%0D%0Ax-evil: 1"}
    assert store().deliver(one) == receipt


def test_the_same_bytes_of_another_transaction_are_somebody_elses(store, tmp_path):
    store().deliver(parcel(tmp_path, CONTENT))
    with pytest.raises(DeliveryConflictError):
        store().deliver(parcel(tmp_path, CONTENT, metadata={"transaction-id": "t-2"}))


def test_the_first_part_which_holds_the_header_goes_last(s3_server, bucket, proxy, store, tmp_path):
    store(endpoint_url=proxy.endpoint, **in_parts()).deliver(parcel(tmp_path, LONG))
    sent = [target for method, target in proxy.seen if method == "PUT"]
    assert [target.partition("partNumber=")[2].partition("&")[0] for target in sent] == ["2", "1"]


def test_a_file_of_8_mib_goes_in_parts_and_one_byte_less_goes_as_a_whole(store, proxy, tmp_path):
    assert S3Settings("b").multipart_from_bytes == S3Settings("b").part_bytes == 8 * MIB
    mine = store(endpoint_url=proxy.endpoint)
    for size_bytes, methods in (
        (8 * MIB - 1, ["PUT", "HEAD"]),
        (8 * MIB, ["GET", "HEAD", "POST", "PUT", "POST"]),
    ):
        proxy.reset()
        mine.deliver(parcel(tmp_path, bytes(size_bytes), f"{size_bytes}.wav"))
        assert [method for method, _ in proxy.seen] == methods


def test_a_file_has_at_most_10_000_parts(s3_server, tmp_path, monkeypatch):
    monkeypatch.setattr("callreel.delivery.s3.MAX_PARTS", 1)
    bucket = s3_server.bucket()
    S3(s3_server.settings(bucket, **in_parts())).deliver(parcel(tmp_path, LONG))
    assert head(s3_server, bucket)["ChecksumSHA256"].endswith("-1")


def test_the_embedding_programs_own_client_is_used(s3_server, bucket, tmp_path):
    store = S3(S3Settings(bucket), client=s3_server.client())
    store.deliver(parcel(tmp_path, CONTENT))
    assert s3_server.objects(bucket) == {KEY: CONTENT}


# ---- a file that still grows -----------------------------------------------------------------------


def test_parts_are_sent_while_the_file_grows_and_it_appears_when_complete(s3_server, bucket, store):
    upload = store().begin(KEY, media_type="audio/wav", metadata={"transaction-id": "t"})
    upload.part(1, bytes(5 * MIB))
    upload.part(2, LONG[5 * MIB :])
    upload.part(1, LONG[: 5 * MIB])  # the header is known now
    assert s3_server.objects(bucket) == {}
    receipt = upload.complete(size_bytes=len(LONG), sha256=hashlib.sha256(LONG).hexdigest())
    assert receipt == (f"s3://{bucket}/{KEY}", len(LONG), f"sha256:{hashlib.sha256(LONG).hexdigest()}")
    assert s3_server.objects(bucket) == {KEY: LONG}
    assert head(s3_server, bucket)["Metadata"] == {"transaction-id": "t"}


def test_an_aborted_upload_leaves_nothing_and_may_be_aborted_again(s3_server, bucket, store):
    upload = store().begin(KEY, media_type="audio/wav", metadata={})
    upload.part(2, b"x")
    upload.abort()
    upload.abort()
    assert s3_server.objects(bucket) == {}
    assert s3_server.unfinished(bucket) == []


def test_an_upload_goes_on_in_another_process_and_sends_only_what_is_missing(s3_server, bucket, proxy, store):
    longer = LONG + bytes(5 * MIB)
    parts = [longer[: 5 * MIB], longer[5 * MIB : 10 * MIB], longer[10 * MIB :]]
    upload = store().begin(KEY, media_type="audio/wav", metadata={"transaction-id": "t"})
    upload.part(2, parts[1])
    upload.part(3, b"was another one then")
    again = store(endpoint_url=proxy.endpoint).resume(KEY, upload.upload_id, metadata={"transaction-id": "t"})
    assert sorted(again.found) == [2, 3]
    proxy.reset()
    for number, data in ((2, parts[1]), (3, parts[2]), (1, parts[0])):
        again.part(number, data)
    assert [target.partition("partNumber=")[2][:1] for _, target in proxy.seen] == ["3", "1"]
    again.complete(size_bytes=len(longer), sha256=hashlib.sha256(longer).hexdigest())
    assert s3_server.objects(bucket) == {KEY: longer}


def test_an_upload_that_is_no_more_cannot_go_on(store):
    upload = store().begin(KEY, media_type="audio/wav", metadata={})
    upload.abort()
    with pytest.raises(DeliveryInterruptedError):
        store().resume(KEY, upload.upload_id, metadata={})


def test_a_part_of_an_upload_that_is_no_more_is_sent_once(proxy, store):
    upload = store(endpoint_url=proxy.endpoint).begin(KEY, media_type="audio/wav", metadata={})
    upload.abort()
    proxy.reset()
    with pytest.raises(DeliveryInterruptedError, match="NoSuchUpload"):
        upload.part(1, b"x")
    assert len(proxy.seen) == 1


def test_an_upload_with_a_gap_or_another_size_is_not_completed(store):
    upload = store().begin(KEY, media_type="audio/wav", metadata={})
    with pytest.raises(UsageError, match="gap"):
        upload.complete(size_bytes=0, sha256="")
    upload.part(2, b"x")
    with pytest.raises(UsageError, match="gap"):
        upload.complete(size_bytes=1, sha256="")
    upload.part(1, b"y")
    with pytest.raises(UsageError, match="3 bytes"):
        upload.complete(size_bytes=3, sha256="")
    upload.abort()


def test_a_delivery_clears_away_what_a_dead_process_left_under_its_key(s3_server, bucket, store, tmp_path):
    left = store().begin(KEY, media_type="audio/wav", metadata={})
    left.part(2, b"half")
    store().begin("calls/2026/one.wav.other", media_type="audio/wav", metadata={})
    store(**in_parts()).deliver(parcel(tmp_path, LONG))
    assert s3_server.unfinished(bucket) == ["calls/2026/one.wav.other"]


# ---- who may -------------------------------------------------------------------------------------


def test_a_user_who_may_only_put_passes_the_check_and_delivers(s3_server, bucket, either, tmp_path):
    user = s3_server.user(allow(*PUT_ONLY, bucket=bucket))
    mine = either(credentials=user, **in_parts())
    mine.check(KEY)
    assert s3_server.objects(bucket) == {}
    assert s3_server.unfinished(bucket) == []
    assert mine.deliver(parcel(tmp_path, CONTENT, "small")).size_bytes == len(CONTENT)
    assert mine.deliver(parcel(tmp_path, LONG, "large")).size_bytes == len(LONG)
    assert s3_server.objects(bucket) == {"small": CONTENT, "large": LONG}


def test_who_may_only_put_is_not_told_that_what_nobody_can_look_at_is_theirs(
    s3_server, bucket, either, tmp_path
):
    mine = either(credentials=s3_server.user(allow(*PUT_ONLY, bucket=bucket)))
    mine.deliver(parcel(tmp_path, CONTENT))
    with pytest.raises(DeliveryConflictError, match="s3:GetObject"):
        mine.deliver(parcel(tmp_path, CONTENT))
    assert mine.deliver(parcel(tmp_path, CONTENT, overwrite=True)).size_bytes == len(CONTENT)


def test_a_put_only_user_does_not_ask_again_and_again_what_is_not_allowed(
    s3_server, bucket, proxy, store, tmp_path
):
    user = s3_server.user(allow(*PUT_ONLY, bucket=bucket))
    mine = store(credentials=user, endpoint_url=proxy.endpoint)
    for n in range(3):
        mine.deliver(parcel(tmp_path, CONTENT, f"{n}"))
    assert [method for method, _ in proxy.seen] == ["PUT", "HEAD", "PUT", "PUT"]


def test_the_right_to_read_makes_a_repeated_delivery_recognised(s3_server, bucket, store, tmp_path):
    mine = store(credentials=s3_server.user(allow("s3:PutObject", "s3:GetObject", bucket=bucket)))
    receipt = mine.deliver(parcel(tmp_path, CONTENT))
    assert mine.deliver(parcel(tmp_path, CONTENT)) == receipt


def test_rights_below_another_prefix_are_no_rights(s3_server, bucket, either, tmp_path):
    mine = either(credentials=s3_server.user(allow(*PUT_ONLY, bucket=bucket, keys="ok/*")))
    mine.check("ok/one.wav")
    for attempt in (lambda: mine.check(KEY), lambda: mine.deliver(parcel(tmp_path, CONTENT))):
        with pytest.raises(DeliveryDeniedError) as caught:
            attempt()
        assert not caught.value.retryable
    mine.deliver(parcel(tmp_path, CONTENT, "ok/one.wav"))


def test_an_acl_that_the_buckets_policy_denies_is_found_by_the_check(s3_server, bucket, either, tmp_path):
    acl = {"StringEquals": {"s3:x-amz-acl": "public-read"}}
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
        "Condition": acl,
    }
    policy = {"Version": "2012-10-17", "Statement": [deny]}
    s3_server.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    user = s3_server.user(allow(*PUT_ONLY, bucket=bucket))
    either(credentials=user, acl="bucket-owner-full-control").check(KEY)
    denied = either(credentials=user, acl="public-read")
    for attempt in (lambda: denied.check(KEY), lambda: denied.deliver(parcel(tmp_path, CONTENT))):
        with pytest.raises(DeliveryDeniedError):
            attempt()


@pytest.mark.parametrize(
    ("credentials", "code"),
    [
        (S3Credentials(ADMIN.access_key, secret("wrong")), "SignatureDoesNotMatch"),
        (S3Credentials("AKIDNOBODY000000", secret("wrong")), "InvalidAccessKeyId"),
    ],
    ids=["wrong secret", "unknown key"],
)
def test_wrong_credentials_are_denied_for_good_and_never_told(either, tmp_path, credentials, code):
    mine = either(credentials=credentials)
    for attempt in (lambda: mine.check(KEY), lambda: mine.deliver(parcel(tmp_path, CONTENT))):
        with pytest.raises(DeliveryDeniedError, match=code) as caught:
            attempt()
        assert not caught.value.retryable
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert MARK not in told
        assert credentials.access_key not in told


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_bucket_that_is_not_there_is_missing_or_denied_but_never_tried_again(
    s3_server, bucket, tmp_path, tls
):
    nowhere = s3_server.settings("no-such-bucket", tls=tls)
    for attempt in (S3(nowhere).check, lambda _: S3(nowhere).deliver(parcel(tmp_path, CONTENT))):
        with pytest.raises(DestinationMissingError) as caught:
            attempt(KEY)
        assert not caught.value.retryable
    # Who may not know which buckets there are is told something else.
    user = s3_server.user(allow(*PUT_ONLY, bucket=bucket))
    with pytest.raises(DeliveryDeniedError) as denied:
        S3(s3_server.settings("no-such-bucket", tls=tls, credentials=user)).deliver(parcel(tmp_path, CONTENT))
    assert not denied.value.retryable


def test_a_clock_that_is_two_hours_off_is_denied_and_worth_another_try(either, tmp_path, monkeypatch):
    import botocore.auth

    now = botocore.auth.get_current_datetime

    def late(*arguments, **more):
        return now(*arguments, **more) + datetime.timedelta(hours=2)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", late)
    with pytest.raises(DeliveryDeniedError, match=r"RequestTimeTooSkewed.*clock") as caught:
        either().deliver(parcel(tmp_path, CONTENT))
    assert caught.value.retryable


def test_a_certificate_that_nobody_vouches_for_is_refused(store, tmp_path):
    with pytest.raises(DeliveryDeniedError, match="ca_bundle"):
        store(tls=True, ca_bundle=None).deliver(parcel(tmp_path, CONTENT))


def test_the_printed_policy_is_enough_for_a_delivery_that_was_told_twice(s3_server, bucket, either, tmp_path):
    policy = bucket_policy(bucket, principal="arn:aws:iam::000000000000:user/x", read_back=True)
    (rights,) = (
        {name: one[name] for name in ("Effect", "Action", "Resource")} for one in policy["Statement"]
    )
    rights["Action"].remove("s3:ListMultipartUploadParts")  # a right that this server does not know
    mine = either(credentials=s3_server.user(rights), acl="bucket-owner-full-control", **in_parts())
    for key, content in (("small", CONTENT), ("large", LONG)):
        mine.check(key)
        receipt = mine.deliver(parcel(tmp_path, content, key))
        assert mine.deliver(parcel(tmp_path, content, key)) == receipt


# ---- faults --------------------------------------------------------------------------------------


def test_a_server_that_is_killed_in_the_middle_of_parts_gets_the_file_afterwards(tmp_path_factory, tmp_path):
    with running(tmp_path_factory.mktemp("killed")) as server:
        bucket = server.bucket()
        proxy = FaultProxy(server.port)
        store = S3(server.settings(bucket, endpoint_url=proxy.endpoint, **in_parts()))
        store.deliver(parcel(tmp_path, CONTENT, "before"))
        store_part = store.call

        def call(operation, *arguments, **more):
            if operation == "upload_part" and more["PartNumber"] == 1:
                server.kill()
            return store_part(operation, *arguments, **more)

        store.call = call
        with pytest.raises(DeliveryInterruptedError) as caught:
            store.deliver(parcel(tmp_path, LONG))
        assert caught.value.retryable
        store.call = store_part
        server.start()
        assert server.objects(bucket) == {"before": CONTENT}
        assert server.unfinished(bucket) == [KEY]  # it could not be told
        store.deliver(parcel(tmp_path, CONTENT, "after"))
        assert server.unfinished(bucket) == []
        store.deliver(parcel(tmp_path, LONG))
        assert server.objects(bucket) == {"before": CONTENT, "after": CONTENT, KEY: LONG}
        proxy.close()


def test_a_server_that_is_killed_in_the_middle_of_a_put_has_nothing_of_it_and_gets_the_file_afterwards(
    tmp_path_factory, tmp_path
):
    with running(tmp_path_factory.mktemp("killed")) as server:
        bucket = server.bucket()
        proxy = ByteProxy(server.port)
        store = S3(server.settings(bucket, endpoint_url=f"http://127.0.0.1:{proxy.port}"))
        store.deliver(parcel(tmp_path, CONTENT, "before"))
        proxy.cut_after(3 * MIB)
        proxy.on_cut = server.kill
        with pytest.raises(DeliveryInterruptedError) as caught:
            store.deliver(parcel(tmp_path, LONG))
        assert (caught.value.retryable, proxy.cuts) == (True, 1)
        server.start()
        assert server.objects(bucket) == {"before": CONTENT}
        store.deliver(parcel(tmp_path, LONG))
        assert server.objects(bucket) == {"before": CONTENT, KEY: LONG}
        proxy.close()


def test_a_server_that_is_killed_twice_under_many_deliveries_has_each_file_once_and_whole(
    tmp_path_factory, tmp_path
):
    with running(tmp_path_factory.mktemp("killed")) as server:
        bucket = server.bucket()
        contents = {f"{n}": random.Random(n).randbytes(200_000 + n) for n in range(60)}
        parcels = [parcel(tmp_path, content, key) for key, content in contents.items()]
        quick = {"connect_timeout_s": 1.0, "read_timeout_s": 5.0, **in_parts(multipart_from_bytes=200_030)}
        stores = [S3(server.settings(bucket, tls=tls, **quick)) for tls in (False, True)]
        failures = []

        def deliver(number):
            one, store = parcels[number], stores[number % 2]
            while True:
                try:
                    return store.deliver(one).checksum == f"sha256:{one.sha256}"
                except DeliveryError as error:
                    failures.append(error)
                    if not error.retryable:
                        raise
                    time.sleep(0.1)

        with ThreadPoolExecutor(8) as pool:
            deliveries = [pool.submit(deliver, number) for number in range(len(parcels))]
            for so_many in (10, 30):
                while sum(one.done() for one in deliveries) < so_many:
                    time.sleep(0.005)
                server.kill()
                server.start()
            assert all(one.result(60) for one in deliveries)
        assert failures
        assert server.objects(bucket) == contents
        for one in parcels:
            stores[0].deliver(one)  # what was left of uploads is cleared away
        assert server.unfinished(bucket) == []
        assert server.objects(bucket) == contents


def test_an_upload_survives_the_death_of_its_server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("killed")) as server:
        bucket = server.bucket()
        store = S3(server.settings(bucket))
        upload = store.begin(KEY, media_type="audio/wav", metadata={})
        upload.part(2, LONG[5 * MIB :])
        server.kill()
        with pytest.raises(DeliveryInterruptedError):
            upload.part(1, LONG[: 5 * MIB])
        server.start()
        upload.part(1, LONG[: 5 * MIB])
        upload.complete(size_bytes=len(LONG), sha256=hashlib.sha256(LONG).hexdigest())
        assert server.objects(bucket) == {KEY: LONG}


def test_a_connection_that_breaks_within_a_part_costs_only_that_part(
    s3_server, bucket, proxy, store, tmp_path
):
    mine = store(endpoint_url=proxy.endpoint, **in_parts())
    proxy.reset({4: Cut(2 * MIB)})  # after list, look, begin and part 2
    mine.deliver(parcel(tmp_path, LONG))
    assert sum(method == "PUT" for method, _ in proxy.seen) == 3
    assert s3_server.objects(bucket) == {KEY: LONG}


def test_over_tls_a_connection_that_breaks_within_a_part_costs_only_that_part(s3_server, bucket, store):
    proxy = ByteProxy(s3_server.tls_port)
    upload = store(tls=True, endpoint_url=f"https://127.0.0.1:{proxy.port}").begin(
        KEY, media_type="audio/wav", metadata={}
    )
    upload.part(2, LONG[5 * MIB :])
    proxy.cut_after(2 * MIB)
    before = proxy.passed_bytes
    upload.part(1, LONG[: 5 * MIB])
    assert proxy.cuts == 1
    assert 7 * MIB < proxy.passed_bytes - before < 8 * MIB
    upload.complete(size_bytes=len(LONG), sha256=hashlib.sha256(LONG).hexdigest())
    assert s3_server.objects(bucket) == {KEY: LONG}
    proxy.close()


@pytest.mark.parametrize("at", [4, 5], ids=["part", "complete"])
def test_a_store_that_is_busy_for_a_moment_costs_no_part_that_it_has(
    s3_server, bucket, proxy, store, tmp_path, at
):
    mine = store(endpoint_url=proxy.endpoint, **in_parts())
    proxy.reset({at: Answer(503, (("Retry-After", "0"),))})
    mine.deliver(parcel(tmp_path, LONG))
    assert sum(method == "PUT" for method, _ in proxy.seen) == (3 if at == 4 else 2)
    assert s3_server.objects(bucket) == {KEY: LONG}


def test_a_store_that_cannot_be_told_of_one_upload_is_not_asked_of_all(s3_server, bucket, proxy, store):
    mine = store(endpoint_url=proxy.endpoint)
    uploads = [mine.begin(f"{n}", media_type="audio/wav", metadata={}) for n in range(3)]
    proxy.reset(always=Cut())
    for upload in uploads:
        upload.abort()
    proxy.reset({0: Cut()})
    missing = parcel_of_nothing()
    for requests in (1, 4):
        with pytest.raises(DeliveryError, match="cannot read"):
            mine.deliver(missing)
        assert len(proxy.seen) == requests
    assert s3_server.unfinished(bucket) == []


def parcel_of_nothing():
    return Parcel(Path("no such file"), KEY, 1, "", "audio/wav", {})


def test_a_lost_answer_is_settled_by_looking_and_nothing_is_sent_twice(
    s3_server, bucket, proxy, store, tmp_path
):
    mine = store(endpoint_url=proxy.endpoint)
    mine.check(KEY)
    proxy.reset({0: LoseAnswer()})
    mine.deliver(parcel(tmp_path, CONTENT))
    assert [method for method, _ in proxy.seen] == ["PUT", "HEAD"]


def test_a_lost_answer_to_an_overwriting_put_is_settled_too(s3_server, bucket, proxy, store, tmp_path):
    store().deliver(parcel(tmp_path, b"older"))
    proxy.reset({0: LoseAnswer()})
    store(endpoint_url=proxy.endpoint, overwrite=True).deliver(parcel(tmp_path, CONTENT))
    assert [method for method, _ in proxy.seen] == ["PUT", "HEAD"]
    assert s3_server.objects(bucket) == {KEY: CONTENT}


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ((), None),
        ((("Retry-After", "7"),), 7),
        ((("Retry-After", "Fri, 20 Nov 2026 12:00:30 GMT"), ("Date", "Fri, 20 Nov 2026 12:00:00 GMT")), 30),
        ((("Retry-After", "soon"),), None),
    ],
)
def test_a_busy_store_says_how_long_to_wait(proxy, store, tmp_path, headers, wait_s):
    proxy.reset(always=Answer(503, headers))
    with pytest.raises(DeliveryThrottledError) as caught:
        store(endpoint_url=proxy.endpoint).deliver(parcel(tmp_path, CONTENT))
    assert caught.value.retryable
    assert caught.value.retry_after_s == wait_s


def test_an_answer_that_takes_too_long_is_an_interruption(proxy, store, tmp_path):
    proxy.reset(always=Slow(1.0))
    with pytest.raises(DeliveryInterruptedError, match="ReadTimeoutError"):
        store(endpoint_url=proxy.endpoint, read_timeout_s=0.2).deliver(parcel(tmp_path, CONTENT))


def test_a_slow_answer_is_waited_for(proxy, store, tmp_path):
    proxy.reset({0: Slow(0.3)})
    began = time.monotonic()
    store(endpoint_url=proxy.endpoint).deliver(parcel(tmp_path, CONTENT))
    assert time.monotonic() - began >= 0.3


def test_nobody_there_is_an_interruption(store, tmp_path):
    for attempt in (lambda one: one.check(KEY), lambda one: one.deliver(parcel(tmp_path, CONTENT))):
        with pytest.raises(DeliveryInterruptedError) as caught:
            attempt(store(endpoint_url="http://127.0.0.1:1"))
        assert caught.value.retryable


def test_a_store_without_conditional_put_gets_a_look_before(s3_server, bucket, proxy, store, tmp_path):
    said = Answer(501, body=b"<Error><Code>NotImplemented</Code></Error>")
    mine = store(endpoint_url=proxy.endpoint)
    proxy.reset({0: said})
    mine.deliver(parcel(tmp_path, CONTENT))
    assert [method for method, _ in proxy.seen] == ["PUT", "HEAD", "PUT", "HEAD"]
    proxy.reset()
    with pytest.raises(DeliveryConflictError):
        mine.deliver(parcel(tmp_path, b"another", metadata={"transaction-id": "t-2"}))
    assert [method for method, _ in proxy.seen] == ["HEAD"]
    assert s3_server.objects(bucket) == {KEY: CONTENT}


def test_a_store_that_offers_something_else_not_is_told_once(proxy, store, tmp_path):
    proxy.reset(always=Answer(501, body=b"<Error><Code>NotImplemented</Code></Error>"))
    with pytest.raises(DeliveryDeniedError, match="does not offer") as caught:
        store(endpoint_url=proxy.endpoint, conditional_put=False, overwrite=True).deliver(
            parcel(tmp_path, CONTENT)
        )
    assert not caught.value.retryable


def test_a_store_that_wants_a_length_says_which_setting_gives_it(proxy, store, tmp_path):
    proxy.reset(always=Answer(411, body=b"<Error><Code>MissingContentLength</Code></Error>"))
    with pytest.raises(DeliveryDeniedError, match="request_checksum_calculation"):
        store(endpoint_url=proxy.endpoint).deliver(parcel(tmp_path, CONTENT))


def test_the_check_looks_for_the_bucket_where_uploads_in_parts_are_unknown(proxy, store):
    proxy.reset({0: Answer(501, body=b"<Error><Code>NotImplemented</Code></Error>")})
    store(endpoint_url=proxy.endpoint).check(KEY)
    assert [method for method, _ in proxy.seen] == ["POST", "HEAD"]


class _Lying(BaseHTTPRequestHandler):
    """A store that takes everything and answers what the test says."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls.append("PUT")
        self._answer(200, self.server.put)

    def do_HEAD(self):
        self.server.calls.append("HEAD")
        self._answer(200 if self.server.head else 404, self.server.head)

    def do_GET(self):
        self.server.calls.append("GET")
        self._answer(200, {"ETag": '"x"'}, self.server.content)

    def do_DELETE(self):
        self.server.calls.append("DELETE")
        self._answer(204, {})

    def _answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def lying():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Lying)
    server.calls = []
    server.content = b""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def store(put, head, **changes):
        server.put, server.head = put, head
        return S3(
            S3Settings(
                "bucket",
                endpoint_url=f"http://127.0.0.1:{server.server_port}",
                region="us-east-1",
                path_style=True,
                credentials=ADMIN,
                **changes,
            )
        )

    store.server = server
    yield store
    server.shutdown()
    thread.join()
    server.server_close()


def good_head(one, **changes):
    digest = base64.b64encode(bytes.fromhex(one.sha256)).decode()
    facts = {"Content-Length": str(one.size_bytes), "ETag": '"x"', "x-amz-checksum-sha256": digest}
    return facts | {f"X-Amz-Meta-{name.title()}": text for name, text in one.metadata.items()} | changes


@pytest.mark.parametrize(
    ("changes", "requests"),
    [
        ({}, ["PUT", "HEAD", "PUT", "PUT"]),
        ({"always_look": True}, ["PUT", "HEAD"] * 3),
        ({"checksum": "CRC32C"}, ["PUT", "HEAD"] * 3),
        ({"checksum": None}, ["PUT", "HEAD"] * 3),
    ],
    ids=["SHA256", "always", "CRC32C", "none"],
)
def test_a_store_that_was_found_to_keep_what_it_gets_confirms_a_put_by_its_sha_256_alone(
    proxy, store, tmp_path, changes, requests
):
    mine = store(endpoint_url=proxy.endpoint, **changes)
    for n in range(3):
        mine.deliver(parcel(tmp_path, CONTENT, f"{n}"))
    assert [method for method, _ in proxy.seen] == requests


def test_a_wrong_sha_256_in_the_answer_of_a_trusted_store_is_looked_into(lying, tmp_path):
    one = parcel(tmp_path, CONTENT)
    right = {"ETag": '"x"', "x-amz-checksum-sha256": good_head(one)["x-amz-checksum-sha256"]}
    store = lying(right, good_head(one))
    store.deliver(one)
    store.deliver(one)
    assert lying.server.calls == ["PUT", "HEAD", "PUT"]
    lying.server.put = {"ETag": '"x"', "x-amz-checksum-sha256": "AAAA"}
    lying.server.head = good_head(one, **{"x-amz-checksum-sha256": "AAAA"})
    with pytest.raises(DeliveryInterruptedError, match="another checksum"):
        store.deliver(one)


def test_metadata_names_are_compared_without_their_case(lying, tmp_path):
    one = parcel(tmp_path, CONTENT)
    assert lying({"ETag": '"x"'}, good_head(one)).deliver(one).size_bytes == len(CONTENT)
    assert lying.server.calls == ["PUT", "HEAD"]


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        ({"Content-Length": "7"}, DeliveryInterruptedError, "7 bytes of 20000"),
        ({"x-amz-checksum-sha256": "AAAA"}, DeliveryInterruptedError, "another checksum"),
        ({"X-Amz-Meta-Call-Id": "c-2"}, DeliveryDeniedError, "metadata"),
    ],
    ids=["size", "checksum", "metadata"],
)
def test_what_is_stored_otherwise_than_sent_is_removed_and_not_reported(lying, tmp_path, change, error, what):
    one = parcel(tmp_path, CONTENT)
    with pytest.raises(error, match=what) as caught:
        lying({"ETag": '"x"'}, good_head(one, **change)).deliver(one)
    assert caught.value.retryable == (error is DeliveryInterruptedError)
    assert lying.server.calls == ["PUT", "HEAD", "DELETE"]


def test_a_difference_that_somebody_else_put_there_is_not_removed(lying, tmp_path):
    one = parcel(tmp_path, CONTENT)
    with pytest.raises(DeliveryInterruptedError):
        lying({"ETag": '"x"'}, good_head(one, ETag='"y"', **{"Content-Length": "7"})).deliver(one)
    assert lying.server.calls == ["PUT", "HEAD"]


@pytest.mark.parametrize("sse", ["AES256", "aws:kms"])
def test_a_store_that_drops_the_encryption_asked_for_is_found_out(lying, tmp_path, sse):
    one = parcel(tmp_path, CONTENT)
    with pytest.raises(DeliveryDeniedError, match="did not encrypt"):
        lying({"ETag": '"x"'}, good_head(one), sse=sse).deliver(one)
    assert lying.server.calls == ["PUT", "HEAD", "DELETE"]


def test_what_is_found_there_after_a_lost_answer_must_be_encrypted_too(lying, tmp_path):
    one = parcel(tmp_path, CONTENT)
    store = lying({"ETag": '"x"'}, good_head(one), sse="AES256", conditional_put=False)
    with pytest.raises(DeliveryDeniedError, match="not encrypted"):
        store.deliver(one)
    assert lying.server.calls == ["HEAD"]


def test_a_content_encoding_is_not_compared(lying, tmp_path):
    one = parcel(tmp_path, CONTENT)
    lying({"ETag": '"x"'}, good_head(one, **{"Content-Encoding": "aws-chunked"})).deliver(one)


def test_without_a_checksum_an_md5_etag_confirms_and_without_that_the_file_is_read_back(lying, tmp_path):
    one = parcel(tmp_path, CONTENT)
    facts = good_head(one)
    del facts["x-amz-checksum-sha256"]
    md5 = f'"{hashlib.md5(CONTENT).hexdigest()}"'
    lying({"ETag": md5}, facts | {"ETag": md5}).deliver(one)
    assert lying.server.calls == ["PUT", "HEAD"]
    lying.server.calls.clear()
    lying.server.content = CONTENT
    lying({"ETag": '"x"'}, facts).deliver(one)
    assert lying.server.calls == ["PUT", "HEAD", "GET"]
    lying.server.calls.clear()
    lying.server.content = CONTENT[::-1]
    with pytest.raises(DeliveryInterruptedError, match="another checksum"):
        lying({"ETag": '"x"'}, facts).deliver(one)
    assert lying.server.calls == ["PUT", "HEAD", "GET", "DELETE"]


def test_what_is_said_to_be_stored_and_is_not_there_is_tried_again(lying, tmp_path):
    with pytest.raises(DeliveryInterruptedError, match="not there") as caught:
        lying({"ETag": '"x"'}, {}).deliver(parcel(tmp_path, CONTENT))
    assert caught.value.retryable


# ---- settings and secrets ------------------------------------------------------------------------


def test_sinchs_credentials_come_apart_and_say_nothing_of_themselves():
    credentials, region = S3Credentials.parse(f"AKID:{MARK}/+=:eu-west-1")
    assert (credentials.access_key, credentials.secret_key, region) == ("AKID", f"{MARK}/+=", "eu-west-1")
    settings = S3Settings("b", credentials=credentials, region=region, proxy=f"http://me:{MARK}@proxy:1")
    told = repr(credentials) + str(credentials) + repr(settings) + repr(S3(settings))
    for hidden in ("AKID", MARK):
        assert hidden not in told
    assert credentials == S3Credentials("AKID", f"{MARK}/+=")
    assert hash(credentials) == hash(S3Credentials("AKID", f"{MARK}/+="))


@pytest.mark.parametrize("text", ["", "a", "a:b", "a:b:", ":b:c", "a:b:c:d", "a::c"])
def test_credentials_of_another_form_are_refused_without_repeating_them(text):
    with pytest.raises(UsageError) as caught:
        S3Credentials.parse(text)
    assert "AwsAccessKey:AwsSecretKey:AwsRegion" in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bucket": ""},
        {"bucket": "a/b"},
        {"endpoint_url": "ftp://x"},
        {"endpoint_url": f"http://me:{MARK}@x"},
        {"endpoint_url": "http://"},
        {"sse_kms_key_id": "k"},
        {"sse": "AES256", "sse_kms_key_id": "k"},
        {"object_lock_mode": "GOVERNANCE"},
        {"object_lock_until": datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)},
        {"object_lock_mode": "GOVERNANCE", "object_lock_until": datetime.datetime(2030, 1, 1)},
        {"part_bytes": 5 * MIB - 1},
        {"multipart_from_bytes": 0},
    ],
)
def test_settings_that_cannot_be_meant_are_refused_without_repeating_a_secret(wrong):
    with pytest.raises(UsageError) as caught:
        S3Settings(**{"bucket": "b"} | wrong)
    assert MARK not in str(caught.value)


def test_settings_may_be_a_key_of_a_dict_and_go_to_another_process_unless_they_hold_credentials():
    settings = S3Settings("b", tags={"a": "b"})
    assert {settings: 1}[S3Settings("b", tags={"a": "b"})] == 1
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(UsageError, match="not pickled"):
        pickle.dumps(S3Settings("b", credentials=ADMIN))


@pytest.mark.parametrize("style", [None, True, False])
def test_path_style_region_proxy_and_timeouts_reach_the_client(style):
    from callreel.delivery.s3_settings import make_client

    settings = S3Settings(
        "b", path_style=style, region="eu-west-1", proxy="http://127.0.0.1:9", connect_timeout_s=3, read_timeout_s=4,
        credentials=ADMIN, request_checksum_calculation="when_required",
    )  # fmt: skip
    config = make_client(settings).meta.config
    assert config.s3["addressing_style"] == {None: "auto", True: "path", False: "virtual"}[style]
    assert (config.region_name, config.connect_timeout, config.read_timeout) == ("eu-west-1", 3, 4)
    assert config.proxies == {"http": "http://127.0.0.1:9", "https": "http://127.0.0.1:9"}
    assert config.request_checksum_calculation == "when_required"


def test_a_proxy_is_gone_through(s3_server, bucket, proxy, store, tmp_path):
    store(proxy=proxy.endpoint).deliver(parcel(tmp_path, CONTENT))
    assert proxy.seen
    assert s3_server.objects(bucket) == {KEY: CONTENT}


@pytest.mark.parametrize("source", ["environment", "file"])
def test_without_credentials_of_its_own_it_uses_those_that_boto3_finds(
    s3_server, bucket, store, tmp_path, monkeypatch, source
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "credentials"
    if source == "environment":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ADMIN.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ADMIN.secret_key)
    else:
        may_hold(file).write_text(
            f"[default]\naws_access_key_id = {ADMIN.access_key}\naws_secret_access_key = {ADMIN.secret_key}\n"
        )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    mine = store(credentials=None)
    mine.deliver(parcel(tmp_path, CONTENT))
    assert s3_server.objects(bucket) == {KEY: CONTENT}


def test_where_boto3_finds_no_credentials_somebody_has_to_give_some(store, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(DeliveryDeniedError, match=r"NoCredentialsError.*check the credentials") as caught:
        store(credentials=None).deliver(parcel(tmp_path, CONTENT))
    assert not caught.value.retryable


class _Sts(BaseHTTPRequestHandler):
    """Hands out the temporary credentials of a role."""

    def do_POST(self):
        self.server.asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        expires = f"{datetime.datetime.now(datetime.UTC).year + 1}-01-01T00:00:00Z"
        body = f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
            <Credentials><AccessKeyId>AKIDROLE00000001</AccessKeyId><SecretAccessKey>{secret("role")}</SecretAccessKey>
            <SessionToken>{secret("token")}</SessionToken><Expiration>{expires}</Expiration>
            </Credentials></AssumeRoleResult></AssumeRoleResponse>""".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_role_is_assumed_once_with_the_given_credentials_and_signs_the_requests(proxy, store, tmp_path):
    sts = ThreadingHTTPServer(("127.0.0.1", 0), _Sts)
    sts.asked = []
    thread = threading.Thread(target=sts.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        mine = store(
            role_arn="arn:aws:iam::123456789012:role/recorder",
            role_external_id="ext-1",
            sts_endpoint_url=f"http://127.0.0.1:{sts.server_port}",
        )
        for _ in range(2):  # the server does not know the role's key: what is told shows that it was used
            with pytest.raises(DeliveryDeniedError, match="InvalidAccessKeyId"):
                mine.deliver(parcel(tmp_path, CONTENT))
    finally:
        sts.shutdown()
        thread.join()
        sts.server_close()
    assert len(sts.asked) == 1
    for said in ("Action=AssumeRole", "recorder", "RoleSessionName=callreel", "ExternalId=ext-1"):
        assert said in sts.asked[0]


# ---- the table of errors -------------------------------------------------------------------------


def client_error(code, status, message="said"):
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "PutObject")


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_name_of_the_table_becomes_its_error_and_tells_it(name):
    fault = BY_NAME[name]
    error = delivery_error(client_error(name, 400), "store", KEY)
    assert type(error) is fault.error
    assert (error.retryable, error.key) == (fault.retryable, KEY)
    assert name in str(error)


@pytest.mark.parametrize("status", sorted(BY_STATUS))
def test_a_code_that_nobody_knows_goes_by_its_status(status):
    error = delivery_error(client_error("Whatever", status), "store", KEY)
    assert (type(error), error.retryable) == BY_STATUS[status][:2]


def test_of_what_nobody_knows_a_refusal_is_for_good_and_all_else_is_worth_another_try():
    assert not delivery_error(client_error("Whatever", 418), "store", KEY).retryable
    assert delivery_error(client_error("Whatever", 599), "store", KEY).retryable
    assert delivery_error(RuntimeError("whatever"), "store", KEY).retryable


def test_the_exceptions_named_in_the_table_are_botocores():
    import botocore.exceptions
    import botocore.parsers

    own = {
        name
        for name in BY_NAME
        if name.endswith(("Error", "Exception")) and hasattr(botocore.exceptions, name)
    }
    assert {"SSLError", "NoCredentialsError", "ReadTimeoutError", "EndpointConnectionError"} <= own
    assert hasattr(botocore.parsers, "ResponseParserError")


def test_a_secret_that_a_store_repeats_is_not_passed_on():
    own = S3Credentials("AKIDX", secret("key"), secret("token"))
    said = f"AKIDX {own.secret_key} {own.session_token}"
    error = delivery_error(client_error("X", 400, said), "store", KEY, own.redacted)
    assert "(*** *** ***)" in str(error)
    assert MARK not in str(error)


def test_a_delivery_error_survives_a_process_boundary():
    error = delivery_error(client_error("SlowDown", 503), "store", KEY)
    assert isinstance(error, DeliveryError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# ---- what no local server offers -----------------------------------------------------------------


@pytest.fixture
def stubbed():
    """An S3 whose client's answers are written down: each entry is an operation, its parameters, its answer."""
    import boto3.session
    from botocore.stub import Stubber

    def make(*answers, **changes):
        client = boto3.session.Session().client(
            "s3", region_name="us-east-1", aws_access_key_id="AKIDX", aws_secret_access_key=secret("stub")
        )
        stub = Stubber(client)
        for operation, parameters, answer in answers:
            stub.add_response(operation, answer, parameters)
        stub.activate()
        return S3(S3Settings("b", **changes), client=client), stub

    return make


def digest_text(content):
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def test_with_a_stub_kms_object_lock_acl_and_bucket_owner_are_in_every_request(stubbed, tmp_path):
    until = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    one = parcel(tmp_path, CONTENT)
    how = {
        "ACL": "bucket-owner-full-control",
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "alias/recordings",
        "ObjectLockMode": "COMPLIANCE",
        "ObjectLockRetainUntilDate": until,
        "ObjectLockLegalHoldStatus": "ON",
    }
    where = {"Bucket": "b", "Key": KEY, "ExpectedBucketOwner": "123456789012"}
    kind = {"ChecksumAlgorithm": "SHA256", "ChecksumType": "COMPOSITE"}
    put = {"Body": CONTENT, "ContentType": "audio/wav", "Metadata": dict(one.metadata), "IfNoneMatch": "*"}
    put["ChecksumSHA256"] = digest_text(CONTENT)
    stored = {"ServerSideEncryption": "aws:kms", "ChecksumSHA256": digest_text(CONTENT), "ETag": '"x"'}
    store, stub = stubbed(
        ("create_multipart_upload", where | how | kind, {"UploadId": "u"}),
        ("abort_multipart_upload", where | {"UploadId": "u"}, {}),
        ("put_object", where | how | put, stored),
        (
            "head_object",
            where | {"ChecksumMode": "ENABLED"},
            stored | {"ContentLength": len(CONTENT), "Metadata": dict(one.metadata)},
        ),
        acl="bucket-owner-full-control",
        sse="aws:kms",
        sse_kms_key_id="alias/recordings",
        object_lock_mode="COMPLIANCE",
        object_lock_until=until,
        legal_hold=True,
        expected_bucket_owner="123456789012",
    )
    store.check(KEY)
    store.deliver(one)
    stub.assert_no_pending_responses()


def test_with_a_stub_a_bucket_with_acls_disabled_says_which_setting_to_leave_out(stubbed, tmp_path):
    store, stub = stubbed(acl="public-read")
    stub.add_client_error("put_object", "AccessControlListNotSupported", http_status_code=400)
    with pytest.raises(DeliveryDeniedError, match="leave `acl` out"):
        store.deliver(parcel(tmp_path, CONTENT))


def test_with_a_stub_a_put_whose_turn_was_taken_by_another_is_looked_at(stubbed, tmp_path):
    store, stub = stubbed()
    stub.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
    stub.add_client_error("head_object", "404", http_status_code=404)
    with pytest.raises(DeliveryInterruptedError) as caught:
        store.deliver(parcel(tmp_path, CONTENT))
    assert caught.value.retryable


def test_with_a_stub_the_receipt_of_a_kms_object_that_was_not_encrypted_is_refused(stubbed, tmp_path):
    one = parcel(tmp_path, CONTENT)
    stored = {"ChecksumSHA256": digest_text(CONTENT), "ETag": '"x"', "ServerSideEncryption": "AES256"}
    store, stub = stubbed(
        ("put_object", None, stored),
        ("head_object", None, stored | {"ContentLength": len(CONTENT), "Metadata": dict(one.metadata)}),
        ("delete_object", None, {}),
        sse="aws:kms",
    )
    with pytest.raises(DeliveryDeniedError, match="did not encrypt"):
        store.deliver(one)
    stub.assert_no_pending_responses()
