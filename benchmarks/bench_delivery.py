"""Takes of 1 MB to a local S3 server, everything confirmed, beside a bare loop of boto3's `put_object`.

Both run on as many threads, with clients that are set alike, and in turn, so that what else the machine does meets
both. The bare loop confirms nothing: no checksum is compared, no size, no metadata.
"""

import hashlib
import os
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from callreel.delivery import Parcel
from callreel.delivery.s3 import S3
from callreel.delivery.s3_settings import make_client
from s3_server import running

TAKES = int(os.environ.get("CALLREEL_BENCH_TAKES", "1000"))
AT_A_TIME = 50
TAKE_BYTES = 1_000_000
THREADS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("takes")
    parcels = []
    for number in range(AT_A_TIME):
        content = random.Random(number).randbytes(TAKE_BYTES)
        path = folder / f"{number}.wav"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        metadata = {"transaction-id": f"t-{number}", "call-id": f"c-{number}"}
        parcels.append(Parcel(path, f"calls/{number}.wav", TAKE_BYTES, digest, "audio/wav", metadata))
    return parcels


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_takes_to_s3(benchmark, server, takes, tls):
    benchmark.group = f"{AT_A_TIME} takes of 1 MB to S3, {THREADS} threads, {'https' if tls else 'http'}"
    bucket = server.bucket()
    settings = server.settings(bucket, tls=tls, max_connections=THREADS)
    store = S3(settings)
    client = make_client(settings)

    def bare(parcel):
        with parcel.path.open("rb") as file:
            client.put_object(
                Bucket=bucket,
                Key=parcel.key,
                Body=file.read(),
                ContentType=parcel.media_type,
                Metadata=dict(parcel.metadata),
            )

    def seconds(deliver):
        began = time.perf_counter()
        list(pool.map(deliver, takes))
        took = time.perf_counter() - began
        listed = server.client().list_objects_v2(Bucket=bucket)["Contents"]
        assert [one["Size"] for one in listed] == [TAKE_BYTES] * AT_A_TIME
        for one in listed:
            server.client().delete_object(Bucket=bucket, Key=one["Key"])
        return took

    ratios, rates = [], []
    with ThreadPoolExecutor(THREADS) as pool:
        seconds(store.deliver)
        seconds(bare)
        for turn in range(max(1, TAKES // AT_A_TIME)):
            first, second = (store.deliver, bare) if turn % 2 else (bare, store.deliver)
            took = {first: seconds(first), second: seconds(second)}
            ratios.append(took[bare] / took[store.deliver])
            rates.append(AT_A_TIME / took[store.deliver])
        ratio = statistics.median(ratios)
        benchmark.extra_info |= {
            "of_bare_boto3": round(ratio, 3),
            "takes_per_s": round(statistics.median(rates)),
        }
        print(
            f"\n{benchmark.group}: {statistics.median(rates):.0f} takes/s, {ratio:.0%} of bare boto3, "
            f"{len(ratios)} turns, {min(ratios):.0%} to {max(ratios):.0%}"
        )
        benchmark.pedantic(seconds, args=(store.deliver,), rounds=1)
