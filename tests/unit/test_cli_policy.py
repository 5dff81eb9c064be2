"""`callreel policy`: the seeds' policy, corrected, as JSON that a bucket takes."""

import json

import pytest

from callreel import cli
from callreel.delivery.s3_policy import bucket_policy, lifecycle_rule
from callreel.errors import UsageError

ROLE = "arn:aws:iam::123456789012:role/recorder"


def printed(capsys, *arguments):
    assert cli.main(["policy", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_policy_of_the_pages_names_the_objects_of_the_bucket_and_no_right_to_read(capsys):
    assert printed(capsys, "--bucket", "acme-calls") == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "CallRecordings",
                "Effect": "Allow",
                "Principal": {"Service": "voiceconnector.chime.amazonaws.com"},
                "Action": ["s3:PutObject", "s3:PutObjectAcl"],
                "Resource": "arn:aws:s3:::acme-calls/*",
            }
        ],
    }


def test_a_role_may_also_give_up_uploads_and_below_a_prefix_only(capsys):
    policy = printed(
        capsys, "--bucket", "acme-calls", "--principal", ROLE, "--prefix", "/support/", "--read-back"
    )
    (statement,) = policy["Statement"]
    assert statement["Principal"] == {"AWS": ROLE}
    assert statement["Resource"] == "arn:aws:s3:::acme-calls/support/*"
    assert statement["Action"] == [
        "s3:PutObject",
        "s3:PutObjectAcl",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
        "s3:GetObject",
    ]


def test_the_service_may_be_held_to_an_account_and_an_application(capsys):
    source = "arn:aws:chime:us-east-1:123456789012:sma/x"
    policy = printed(capsys, "--bucket", "acme-calls", "--account", "123456789012", "--source-arn", source)
    assert policy["Statement"][0]["Condition"] == {
        "StringEquals": {"aws:SourceAccount": "123456789012"},
        "ArnLike": {"aws:SourceArn": source},
    }


def test_another_partition_has_other_arns(capsys):
    policy = printed(capsys, "--bucket", "acme-calls", "--partition", "aws-cn")
    assert policy["Statement"][0]["Resource"] == "arn:aws-cn:s3:::acme-calls/*"


def test_the_lifecycle_rule_clears_away_what_was_left_half_sent(capsys):
    assert printed(capsys, "--bucket", "acme-calls", "--lifecycle", "--prefix", "x/") == lifecycle_rule("x/")
    assert lifecycle_rule()["Rules"][0]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bucket", "No_Such"],
        ["--bucket", "a/b"],
        ["--bucket", "acme-calls", "--principal", "me"],
        ["--bucket", "acme-calls", "--account", "12"],
        ["--bucket", "acme-calls", "--principal", ROLE, "--account", "123456789012"],
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(arguments, capsys):
    assert cli.main(["policy", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("callreel policy: ")


def test_an_account_may_be_the_principal():
    assert bucket_policy("acme-calls", principal="123456789012")["Statement"][0]["Principal"] == {
        "AWS": "123456789012"
    }
    with pytest.raises(UsageError):
        bucket_policy("acme-calls", principal="*")
