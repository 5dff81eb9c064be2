"""The bucket policy that lets recordings in, and the lifecycle rule that clears away what was left half sent.

The pages of Amazon Chime SDK ("RecordAudio", "StartCallRecording", section "Granting Amazon S3 bucket permissions")
print a policy for Amazon's own service. Ours is that one, without its mistakes: the first page names the bucket where
its objects are meant, so that it allows nothing, and asks for the right to read, which no recording needs.
"""

from __future__ import annotations

import re
from typing import Any

from callreel.errors import UsageError

__all__ = ["CHIME_SERVICE", "bucket_policy", "lifecycle_rule"]

CHIME_SERVICE = "voiceconnector.chime.amazonaws.com"

PUT = ("s3:PutObject", "s3:PutObjectAcl")
GIVE_UP = ("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
READ_BACK = ("s3:GetObject",)

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PRINCIPAL = re.compile(r"arn:aws[a-z-]*:(iam|sts)::\d{12}:.+|\d{12}")
_ACCOUNT = re.compile(r"\d{12}")


def bucket_policy(
    bucket: str,
    *,
    principal: str | None = None,
    prefix: str = "",
    account: str | None = None,
    source_arn: str | None = None,
    read_back: bool = False,
    partition: str = "aws",
) -> dict[str, Any]:
    """Compose the policy of `bucket`: who may put recordings below `prefix`.

    Without a `principal` (an ARN of IAM, or an account) it is Amazon Chime's own service, on behalf of `account` and of
    the SIP media application `source_arn` where they are given. A principal may give up its uploads too. `read_back`
    adds the right by which a delivery whose answer was lost is recognised.
    """
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"not the name of a bucket: {bucket!r}")
    if principal is not None and not _PRINCIPAL.fullmatch(principal):
        raise UsageError(f"not an ARN of IAM, nor an account: {principal!r}")
    if account is not None and not _ACCOUNT.fullmatch(account):
        raise UsageError(f"not an account: {account!r}")
    if principal is not None and (account is not None or source_arn is not None):
        raise UsageError("account and source_arn go with Amazon Chime's service, not with a principal")
    prefix = prefix.strip("/")
    statement: dict[str, Any] = {
        "Sid": "CallRecordings",
        "Effect": "Allow",
        "Principal": {"Service": CHIME_SERVICE} if principal is None else {"AWS": principal},
        "Action": [*PUT, *(GIVE_UP if principal is not None else ()), *(READ_BACK if read_back else ())],
        "Resource": f"arn:{partition}:s3:::{bucket}/{prefix + '/' if prefix else ''}*",
    }
    condition: dict[str, Any] = {}
    if account is not None:
        condition["StringEquals"] = {"aws:SourceAccount": account}
    if source_arn is not None:
        condition["ArnLike"] = {"aws:SourceArn": source_arn}
    if condition:
        statement["Condition"] = condition
    return {"Version": "2012-10-17", "Statement": [statement]}


def lifecycle_rule(prefix: str = "", *, days: int = 7) -> dict[str, Any]:
    """Compose the bucket's lifecycle configuration that removes uploads nobody has gone on with for `days`."""
    return {
        "Rules": [
            {
                "ID": "AbortIncompleteCallRecordings",
                "Status": "Enabled",
                "Filter": {"Prefix": prefix},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
            }
        ]
    }
