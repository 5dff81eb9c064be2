"""`callreel policy`: the bucket policy that lets recordings in."""

from __future__ import annotations

import argparse
import json
import sys

from callreel.delivery.s3_policy import bucket_policy, lifecycle_rule
from callreel.errors import UsageError

__all__ = ["DESCRIPTION", "EPILOG", "add_policy_arguments", "run_policy"]

GOOD, USAGE = 0, 2

DESCRIPTION = """\
Print a bucket policy that lets recordings into a bucket, and nothing else: JSON, for you to put on it.

With --principal it is for callreel, running as that role or user. Without, it is for Amazon Chime's own service,
as its pages have it, with their mistakes corrected. Nothing is changed, and nobody is asked.
"""

EPILOG = """\
examples:
  callreel policy --bucket acme-calls --principal arn:aws:iam::123456789012:role/recorder > policy.json
  aws s3api put-bucket-policy --bucket acme-calls --policy file://policy.json
  callreel policy --bucket acme-calls --lifecycle > lifecycle.json
  aws s3api put-bucket-lifecycle-configuration --bucket acme-calls --lifecycle-configuration file://lifecycle.json

exit status: 0 it is printed, 2 wrong usage
"""


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `callreel policy` takes."""
    parser.add_argument("--bucket", metavar="B", required=True, help="the bucket that recordings go to")
    parser.add_argument("--prefix", default="", help="allow keys below this prefix only")
    parser.add_argument(
        "--principal",
        metavar="ARN",
        help="who delivers: the role or user callreel runs as, or an account (default: Amazon Chime's own service)",
    )
    parser.add_argument("--account", help="allow Amazon Chime on behalf of this account only")
    parser.add_argument(
        "--source-arn", metavar="ARN", help="allow Amazon Chime for this SIP media application only"
    )
    parser.add_argument(
        "--read-back",
        action="store_true",
        help="allow s3:GetObject too: a delivery whose answer was lost is then recognised",
    )
    parser.add_argument(
        "--partition", default="aws", choices=["aws", "aws-cn", "aws-us-gov"], help="of AWS (default: aws)"
    )
    parser.add_argument(
        "--lifecycle",
        action="store_true",
        help="print the lifecycle configuration that clears away unfinished uploads instead",
    )


def run_policy(args: argparse.Namespace) -> int:
    """Carry out `callreel policy`; returns the exit status."""
    try:
        document = bucket_policy(
            args.bucket,
            principal=args.principal,
            prefix=args.prefix,
            account=args.account,
            source_arn=args.source_arn,
            read_back=args.read_back,
            partition=args.partition,
        )
    except UsageError as error:
        print(f"callreel policy: {error}", file=sys.stderr)
        return USAGE
    if args.lifecycle:
        document = lifecycle_rule(args.prefix)
    print(json.dumps(document, indent=4))
    return GOOD
