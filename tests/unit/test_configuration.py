"""Settings from a file, the environment and options: what is read, what is refused and how, what is never shown."""

import json
import os
import tomllib
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from callreel import cli
from callreel.actions import StartRecording
from callreel.addresses import RefusedAddressError
from callreel.delivery.s3_settings import S3Settings
from callreel.dialects.chime import Chime
from callreel.dialects.sinch_signing import authenticate
from callreel.errors import UsageError
from callreel.events import VendorMessage
from callreel.notify import Notification
from callreel.notify.references import FromEnvironment, FromFile
from callreel.notify.signatures import verify
from callreel.recorder import Recorder, Settings
from callreel.recorder.configuration import Configuration
from callreel.recorder.settable import KEYS, PREFIX, TABLES, as_toml
from callreel.recorder.ways import Bearer, Signed, SinchSigned, Ways
from callreel.spool import Limits, Retention, Space
from http_server import authority, plain, serving
from recording_host import Clock, ended, feed
from secret_watch import may_hold, secret, secret_base64

HUSH = secret("0123456789")
WHSEC = f"whsec_{secret_base64(32)}"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Only the variables that a test sets; one has a secret."""
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HUSH", HUSH)
    monkeypatch.setenv("WHSEC", WHSEC)
    return monkeypatch


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = may_hold(tmp_path / "callreel.toml")
        path.write_text(text)
        return path

    return write


def read(path=None, **options):
    return Configuration(path, options={"spool.folder": ("--spool", "spool"), **options}).settings()


def problems(path=None, **options):
    with pytest.raises(UsageError) as caught:
        read(path, **options)
    return str(caught.value).splitlines()


def rows(path=None):
    return {f"{row.table}.{row.name}": row for row in Configuration(path).rows()}


# ---- everything can be set, everywhere ----

ODD = {
    "s3.endpoint_url": "https://s3.example:9000",
    "s3.sts_endpoint_url": "https://sts.example",
    "encryption.kms_endpoint_url": "https://kms.example",
    "s3.sse_kms_key_id": "key-1",
    "notify.chime.allowed_networks": ["10.0.0.0/8"],
}
"""Values that must be of a certain form."""
PLAIN = [key for key in KEYS.values() if not key.is_secret and not key.table.startswith("notify.")]


def other_value(key):
    """A value, as TOML has it, that is not the default."""
    if key.full_name in ODD:
        return ODD[key.full_name]
    if get_origin(key.type) is Literal:
        return next(one for one in get_args(key.type) if one != key.default)
    if key.name in ("part_bytes", "accept_above_bytes"):
        return 6 << 30 if key.name == "accept_above_bytes" else 6 << 20
    if key.name == "accept_above_percent":
        return 50.0
    return {
        bool: not key.default,
        int: 7,
        float: 1.5,
        str: f"a-{key.name}",
        Path: "a-path",
        datetime: datetime(2027, 1, 31, 12, tzinfo=UTC),
    }.get(key.type, {"team": "x", "cost": "y z"})


def as_text(value):
    match value:
        case bool():
            return str(value).lower()
        case datetime():
            return value.isoformat()
        case dict():
            return ",".join(f"{name}={one}" for name, one in value.items())
        case list():
            return ",".join(str(one) for one in value)
    return str(value)


COMPANIONS = {
    "s3.sse_kms_key_id": {"s3.sse": "aws:kms"},
    "s3.object_lock_mode": {"s3.object_lock_until": datetime(2027, 1, 31, 12, tzinfo=UTC)},
    "s3.object_lock_until": {"s3.object_lock_mode": "GOVERNANCE"},
}


def value_in(settings, key):
    """What the settings have for a key."""
    holder = settings if key.table in ("spool", "delivery", "encryption") else getattr(settings, key.table)
    name = next((one.name for one in fields(holder) if one.metadata.get("key") == key.name), key.name)
    return getattr(holder, name)


@pytest.mark.parametrize("how", ["file", "environment"])
@pytest.mark.parametrize("key", PLAIN, ids=lambda key: key.full_name)
def test_every_field_can_be_set_in_the_file_and_in_the_environment(key, how, write, environment, tmp_path):
    given = {key.full_name: other_value(key), **COMPANIONS.get(key.full_name, {})}
    if key.full_name == "encryption.key_file":
        (tmp_path / "a-path").write_bytes(bytes(32))
        (tmp_path / "a-path").chmod(0o600)
        environment.chdir(tmp_path)
    given.setdefault("spool.folder", "a-spool")
    path = None
    if how == "file":
        tables: dict[str, list[str]] = {}
        for name, value in given.items():
            table, _, bare = name.partition(".")
            tables.setdefault(f"[{table}]", []).append(f"{bare} = {as_toml(value)}")
        path = write("\n".join(f"{table}\n" + "\n".join(rest) for table, rest in tables.items()))
    else:
        for name, value in given.items():
            environment.setenv(PREFIX + name.replace(".", "_").upper(), as_text(value))
    got = value_in(Configuration(path).settings(), key)
    wanted = given[key.full_name]
    if isinstance(wanted, str) and (
        key.type is Path or key.full_name in ("delivery.destination", "s3.ca_bundle")
    ):
        assert str(got) == (str(tmp_path / wanted) if how == "file" else wanted)
    else:
        assert got == wanted
    if key.default is not MISSING:
        assert got != key.default


def test_no_field_of_the_settings_is_without_a_key():
    for cls, table in ((S3Settings, "s3"), (Limits, "limits"), (Space, "space"), (Retention, "retention")):
        names = {one.name for one in fields(cls)} - {"bucket", "credentials"}
        assert names <= {key.name for key in KEYS.values() if key.table == table}
    for one in fields(Settings):
        is_table = one.name in ("s3", "limits", "space", "retention", "notify")
        assert is_table or one.metadata.get("table") in TABLES, f"Settings.{one.name}: which table is it in?"
    for one in fields(Ways):
        assert f"notify.{one.name}" in TABLES


def test_what_nobody_sets_is_as_in_python(environment):
    assert read() == Settings(Path("spool"))


# ---- which counts ----


def test_an_option_counts_before_the_environment_that_before_the_file_and_that_before_the_default(
    write, environment
):
    path = write('[spool]\nfolder = "x"\n[s3]\nregion = "file"\n')
    assert read(path).s3.region == "file"
    environment.setenv("CALLREEL_S3_REGION", "variable")
    assert read(path).s3.region == "variable"
    assert read(path, **{"s3.region": ("--region", "option")}).s3.region == "option"
    assert read(path, **{"s3.region": ("--region", None)}).s3.region == "variable"


def test_where_each_setting_is_from_is_said(write, environment):
    path = write(
        '[spool]\nfolder = "x"\nfsync = "none"\n[s3]\nsecret_key_env = "HUSH"\naccess_key_env = "HUSH"'
    )
    environment.setenv("CALLREEL_SPOOL_FSYNC", "always")
    environment.setenv("HUSH_FILE", "x")
    there = rows(path)
    assert there["spool.folder"].source == str(path)
    assert (there["spool.fsync"].value, there["spool.fsync"].source) == ("always", "CALLREEL_SPOOL_FSYNC")
    assert there["s3.secret_key_env"].value == "HUSH"
    assert there["delivery.makers"].source == "default"


def test_an_empty_variable_is_none(environment):
    environment.setenv("CALLREEL_S3_REGION", "")
    environment.setenv("CALLREEL_DELIVERY_MAKERS", "")
    assert read().s3 is None


def test_none_unsets_what_has_a_default_or_is_set_elsewhere(write, environment):
    path = write(
        '[retention]\ndelivered_s = "none"\n[s3]\nchecksum = "none"\nregion = "x"\n[delivery]\ndestination = "s3://b"'
    )
    environment.setenv("CALLREEL_S3_REGION", "none")
    environment.setenv("CALLREEL_DELIVERY_DESTINATION", "none")
    settings = read(path)
    assert settings.retention.delivered_s is None
    assert settings.s3.checksum is None
    assert settings.s3.region is None
    assert settings.destination is None


def test_paths_of_the_file_are_relative_to_its_folder_and_others_to_where_we_are(
    write, environment, tmp_path
):
    path = write('[spool]\nfolder = "sp"\n[delivery]\ndestination = "out"\n[s3]\nca_bundle = "ca.pem"')
    settings = Configuration(path).settings()
    assert settings.spool == tmp_path / "sp"
    assert settings.destination == str(tmp_path / "out")
    assert settings.s3.ca_bundle == str(tmp_path / "ca.pem")
    environment.setenv("CALLREEL_SPOOL_FOLDER", "here")
    assert Configuration(path).settings().spool == Path("here")
    assert (
        Configuration(write('[spool]\nfolder = "x"\n[delivery]\ndestination = "s3://b/p"'))
        .settings()
        .destination
        == "s3://b/p"
    )


def test_a_store_of_ones_own_has_its_buckets_in_the_path_unless_it_is_said(write):
    assert read(write('[s3]\nendpoint_url = "http://s3.example"')).s3.path_style is True
    assert read(write('[s3]\nendpoint_url = "http://s3.example"\npath_style = false')).s3.path_style is False
    assert read(write('[s3]\nregion = "x"')).s3.path_style is None


# ---- what is refused, and how ----


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[spool]\nfsync = 'allways'",
            '[spool] fsync is "allways"; allowed: "none", "interval", "always"; did you mean "always"?',
        ),
        ("[delivery]\nmakers = 0", "[delivery] makers is 0; allowed: a whole number of at least 1"),
        ("[delivery]\nmakers = 2.0", "[delivery] makers is 2.0; allowed: a whole number of at least 1"),
        ("[delivery]\nmakers = true", "[delivery] makers is true; allowed: a whole number of at least 1"),
        ("[delivery]\nmakers = '2'", '[delivery] makers is "2"; allowed: a whole number of at least 1'),
        ("[spool]\nfsync_interval_s = 0", "[spool] fsync_interval_s is 0; allowed: a number above 0"),
        (
            "[spool]\nfsync_interval_s = inf",
            "[spool] fsync_interval_s is Infinity; allowed: a number above 0",
        ),
        ("[spool]\nfsync_interval_s = nan", "[spool] fsync_interval_s is NaN; allowed: a number above 0"),
        ("[s3]\nregion = ''", '[s3] region is ""; allowed: text that is not empty, or "none"'),
        (
            "[space]\nrefuse_below_percent = 101",
            "[space] refuse_below_percent is 101; allowed: a number from 0 to 100",
        ),
        (
            "[retention]\ndelivered_s = -1",
            '[retention] delivered_s is -1; allowed: a number of at least 0, or "none"',
        ),
        ("[s3]\npart_bytes = 5", "[s3] part_bytes is 5; allowed: a whole number from 5242880 to 5368709120"),
        ("[s3]\nlegal_hold = 'yes'", '[s3] legal_hold is "yes"; allowed: true or false'),
        (
            "[s3]\ntags = 3",
            "[s3] tags is 3; allowed: names with texts: a table, or in a variable name=text,name=text",
        ),
        (
            "[s3]\ntags = {a = 1}",
            '[s3] tags is {"a" = 1}; allowed: names with texts: a table, or in a variable name=text,name=text',
        ),
        (
            "[s3]\nobject_lock_until = 2027-01-01T00:00:00",
            "[s3] object_lock_until is 2027-01-01T00:00:00; allowed: a date and time with its time zone, such as "
            '2027-01-31T12:00:00Z, or "none"',
        ),
        (
            "[notify.chime]\nports = [0]",
            "[notify.chime] ports is [0]; allowed: a list, each a whole number from 1 to 65535",
        ),
        ("[delivery]\nmaker = 2", "[delivery] maker: there is no such setting; did you mean makers?"),
        ("[spool]\nmakers = 2", "[spool] makers: there is no such setting; did you mean [delivery] makers?"),
        ("[retention]\nqqq = 2", "[retention] qqq: there is no such setting; there are delivered_s"),
        ("[delivry]\nmakers = 2", "there is no table [delivry]; did you mean [delivery]?"),
        ("[notify.chim]\nurl = 'x'", "there is no table [notify.chim]; did you mean [notify.chime]?"),
        ("makers = 2", "there is no makers outside of a table; did you mean [delivery] makers?"),
        ("spool = 'x'", "spool is text; allowed: a table"),
        ("[notify]\nchime = 3", "notify.chime is a number; allowed: a table"),
        (
            "[s3]\nbucket = 'b'",
            '[s3] bucket is not set here: the destination names it: [delivery] destination = "s3://bucket/prefix"',
        ),
        (
            "[space]\naccept_above_bytes = 5",
            "[space]: takes are accepted again above the threshold below which they are refused",
        ),
        ("[s3]\nsse_kms_key_id = 'k'", "[s3]: sse_kms_key_id goes with sse aws:kms"),
        ("[s3]\nendpoint_url = 'ftp://x'", "[s3]: an endpoint is http(s)://host[:port], without credentials"),
        (
            "[delivery]\ndestination = 's3://'",
            "[delivery]: not a bucket: s3://bucket or s3://bucket/prefix is one, without credentials",
        ),
        (
            "[delivery]\ndestination = 's4://b'",
            "[delivery]: a destination is s3://bucket, s3://bucket/prefix, or a folder",
        ),
        (
            "[encryption]\nkey_file = 'k'\nkms_key_id = 'i'",
            "recordings are encrypted by key_file or by kms_key_id, not by both",
        ),
        ("[notify.events]\nca_file = 'x'", "[notify.events]: needs either a function or a url"),
        (
            "[notify.chime]\nfunction = 'f'\nurl = 'https://h.example'",
            "[notify.chime]: needs either a function or a url",
        ),
        (
            "[notify.chime]\nurl = 'https://h.example'",
            "[notify.chime]: needs a secret that its requests are signed with",
        ),
        (
            "[notify.chime]\nurl = 'https://h.example'\nsecret_env = 'HUSH'",
            "[notify.chime]: a secret is whsec_ and Base64",
        ),
        (
            "[notify.chime]\nfunction = 'f'\nsecret_env = 'WHSEC'",
            "[notify.chime]: secret and second_secret go with a url, not with a function",
        ),
        (
            "[notify.chime]\nurl = 'https://h.example'\nsecret_env = 'WHSEC'\nregion = 'x'",
            "[notify.chime]: qualifier, region and endpoint_url go with a function, not with a url",
        ),
        (
            "[notify.sinch]\nurl = 'https://h.example'\nsecret_env = 'HUSH'",
            "[notify.sinch]: needs application_key and secret",
        ),
        ("[notify.graph]\nurl = 'https://h.example'", "[notify.graph]: needs a token"),
        ("[notify.graph]\ntoken_env = 'HUSH'", "[notify.graph]: needs a url"),
        (
            "[notify.graph]\nurl = 'http://h.example'\ntoken_env = 'HUSH'",
            "[notify.graph]: the URL must begin with https://",
        ),
        (
            "[notify.graph]\nurl = 'https://h.example'\ntoken_env = 'HUSH'\nallowed_networks = ['10.0.0.1/8']",
            "[notify.graph]: allowed_networks: 10.0.0.1/8 has host bits set",
        ),
        (
            "[notify.graph]\nurl = 'https://10.0.0.5/x'\ntoken_env = 'HUSH'",
            "[notify.graph]: https://10.0.0.5:443 is not to be connected to: its address is private; allowed_networks "
            "opens it",
        ),
        (
            "[s3]\nsecret_key_env = 'HUSH'",
            "[s3]: access_key and secret_key go together, session_token with both of them",
        ),
        (
            "[s3]\nsecret_key_env = 'HUSH'\nsecret_key_file = 'x'",
            "[s3] secret_key_file: it does not go together with secret_key_env",
        ),
        ("[s3]\nsecret_key_env = 3", "[s3] secret_key_env is a number; allowed: text"),
        ("[s3]\nproxy = 3", '[s3] proxy is a number; allowed: text that is not empty, or "none"'),
        ("[s3\n", "this is no TOML: "),
        ("[s3]\nregion = 'a'\nregion = 'b'\n", "this is no TOML: "),
    ],
)
def test_what_is_wrong_is_said_with_file_table_key_what_is_there_and_what_is_allowed(write, text, words):
    path = write(text)
    lines = problems(path)
    assert any(line.removeprefix(f"{path}: ").startswith(words) for line in lines), lines


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        (
            "CALLREEL_DELIVERY_MAKERS",
            "two",
            'CALLREEL_DELIVERY_MAKERS is "two"; allowed: a whole number of at least 1',
        ),
        (
            "CALLREEL_SPACE_REFUSE_BELOW_PERCENT",
            "nan",
            'CALLREEL_SPACE_REFUSE_BELOW_PERCENT is "nan"; allowed: a number from 0 to 100',
        ),
        ("CALLREEL_S3_LEGAL_HOLD", "1", 'CALLREEL_S3_LEGAL_HOLD is "1"; allowed: true or false'),
        ("CALLREEL_S3_TAGS", "a", 'CALLREEL_S3_TAGS is "a"; allowed: names with texts'),
        (
            "CALLREEL_S3_OBJECT_LOCK_UNTIL",
            "soon",
            'CALLREEL_S3_OBJECT_LOCK_UNTIL is "soon"; allowed: a date and time',
        ),
        (
            "CALLREEL_S3_REGIN",
            "x",
            "CALLREEL_S3_REGIN: there is no such setting; did you mean CALLREEL_S3_REGION?",
        ),
        ("CALLREEL_S3_QQQQQQQQQQQQQQQQ", "x", "CALLREEL_S3_QQQQQQQQQQQQQQQQ: there is no such setting"),
        (
            "CALLREEL_DELIVRY_MAKERS",
            "x",
            "CALLREEL_DELIVRY_MAKERS: there is no such setting; did you mean CALLREEL_DELIVERY_MAKERS?",
        ),
    ],
)
def test_what_is_wrong_in_the_environment_is_said_too(environment, variable, text, words):
    environment.setenv(variable, text)
    (line,) = problems()
    assert line.startswith(f"environment: {words}")


def test_what_is_wrong_in_an_option_is_said_with_its_name():
    (line,) = problems(**{"delivery.destination": ("--destination", "s3://a:b@c")})
    assert line == "--destination holds a user or a password, which a URL here must not"


def test_variables_of_other_things_are_let_alone(environment, write):
    environment.setenv("CALLREEL_ISA", "scalar")
    environment.setenv("CALLREEL_TEST_DATA", "x")
    environment.setenv("CALLREEL_S3_SIGNING", HUSH)  # it is what the file refers to
    path = write("[s3]\nsecret_key_env = 'CALLREEL_S3_SIGNING'\naccess_key_env = 'HUSH'")
    assert read(path).s3.credentials.secret_key == HUSH


def test_all_that_is_wrong_is_told_at_once(write, environment):
    environment.setenv("CALLREEL_S3_REGIN", "x")
    path = write("[spool]\nfsync = 'x'\n[delivery]\nmakers = 0\nmaker = 1\n[nothing]\n")
    assert len(problems(path)) == 5
    path = write(
        "[notify.chime]\nca_file = 'x'\n[notify.graph]\nurl = 'https://h.example'\n[space]\naccept_above_bytes = 1"
    )
    environment.delenv("CALLREEL_S3_REGIN")
    assert len(problems(path)) == 3


def test_a_folder_for_the_spool_is_needed(write):
    with pytest.raises(
        UsageError, match=r"^\[spool\] folder is not set: neither in a file nor as CALLREEL_SPOOL_FOLDER$"
    ):
        Configuration().settings()


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.toml: No such file"):
        Configuration(tmp_path / "nowhere.toml")


# ---- secrets ----

SECRETS = [key for key in KEYS.values() if key.is_secret]


def test_the_secrets_are_these():
    assert {key.full_name for key in SECRETS} == {
        "s3.proxy",
        "s3.access_key",
        "s3.secret_key",
        "s3.session_token",
        "s3.role_external_id",
        "notify.chime.url",
        "notify.chime.secret",
        "notify.chime.second_secret",
        "notify.sinch.url",
        "notify.sinch.secret",
        "notify.graph.url",
        "notify.graph.token",
        "notify.events.url",
        "notify.events.secret",
        "notify.events.second_secret",
    }


@pytest.mark.parametrize("key", SECRETS, ids=lambda key: key.full_name)
@pytest.mark.parametrize("ending", ["", "_env", "_file"])
def test_a_secret_that_is_written_in_clear_is_refused_and_not_shown(key, ending, write, environment, capsys):
    in_clear = f"https://user:{HUSH}@host.example" if key.name in ("url", "proxy") else HUSH
    path = write(f"[{key.table}]\n{key.name}{ending} = '{in_clear}'\n[spool]\nfolder = 'x'")
    assert cli.main(["config", "--config", str(path)]) == 2
    variable = PREFIX + f"{key.table}_{key.name}{ending}".replace(".", "_").upper()
    environment.setenv(variable, in_clear)
    assert cli.main(["config"]) == 2
    out, err = capsys.readouterr()
    assert HUSH not in out + err
    assert f"[{key.table}] {key.name}{ending}" in err
    assert variable in err


def test_secrets_are_read_from_variables_and_files_and_shown_nowhere(write, environment, tmp_path, capsys):
    may_hold(tmp_path / "hush").write_text(f"{HUSH}\n")
    may_hold(tmp_path / "proxy").write_text(f"http://user:{HUSH}@proxy.example:3128\n")
    may_hold(tmp_path / "whsec").write_text(WHSEC)
    environment.setenv("WHERE", f"https://customer.example/{HUSH}")
    path = write(
        f"""
        [spool]
        folder = "sp"
        [s3]
        access_key_env = "HUSH"
        secret_key_file = "hush"
        session_token_env = "HUSH"
        proxy_file = "proxy"
        role_arn = "arn:aws:iam::1:role/r"
        role_external_id_file = "hush"
        [notify.chime]
        url = "https://customer.example/calls?token={HUSH}"
        secret_file = "whsec"
        second_secret_env = "WHSEC"
        [notify.graph]
        url_env = "WHERE"
        token_file = "hush"
        """
    )
    settings = Configuration(path).settings()
    assert settings.s3.credentials.access_key == HUSH
    assert settings.s3.credentials.secret_key == HUSH
    assert settings.s3.credentials.session_token == HUSH
    assert settings.s3.proxy == f"http://user:{HUSH}@proxy.example:3128"
    assert settings.s3.role_external_id == HUSH
    assert settings.notify.chime.secret == FromFile(tmp_path / "whsec")
    assert settings.notify.chime.second_secret == FromEnvironment("WHSEC")
    assert settings.notify.graph.url == f"https://customer.example/{HUSH}"
    assert cli.main(["config", "--config", str(path)]) == 0
    assert cli.main(["config", "--config", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f'secret_key_file = "{tmp_path / "hush"}"' in out
    assert '# url = "https://customer.example/..."' in out
    for text in (out, repr(settings), str(settings), repr(settings.notify.notifiers())):
        assert HUSH not in text
        assert WHSEC not in text


def test_a_proxy_without_a_password_may_be_written_in_clear(write):
    assert read(write("[s3]\nproxy = 'http://proxy.example:3128'")).s3.proxy == "http://proxy.example:3128"


def test_a_secret_that_is_not_there_is_an_error_at_once(write, tmp_path):
    assert problems(write("[s3]\nsecret_key_env = 'NO_SUCH'"))[0].endswith(
        "[s3] secret_key_env names a variable that is not set"
    )
    (line,) = problems(write("[notify.graph]\nurl = 'https://h.example'\ntoken_file = 'no-such'"))
    assert line.endswith(
        "[notify.graph] token_file names a file that cannot be read: No such file or directory"
    )
    (tmp_path / "empty").write_text("")
    (line,) = problems(write("[notify.graph]\nurl = 'https://h.example'\ntoken_file = 'empty'"))
    assert line.endswith("token_file leads to what is no secret; allowed: printable ASCII without spaces")


# ---- ways to customers ----


def message(dialect="chime", kind="notification"):
    return Notification("n:1", "c-1", dialect, kind, {"hello": 1}, datetime.now(UTC))


@pytest.fixture
def customer(tmp_path, write):
    """A customer's HTTPS server, and the settings for it."""

    def customer(table, *lines, answer=None):
        ca = authority(tmp_path)
        context = serving(answer or plain(200, b"{}"), tls=ca.certify("127.0.0.1"))
        return context, lambda server: write(
            "\n".join(
                [
                    "[spool]",
                    "folder = 'sp'",
                    "[delivery]",
                    "destination = 'out'",
                    f"[{table}]",
                    f"url = 'https://127.0.0.1:{server.port}/calls'",
                    f"ports = [{server.port}]",
                    "allowed_networks = ['127.0.0.1/32']",
                    "ca_file = 'ca.pem'",
                    *lines,
                ]
            )
        )

    return customer


@pytest.mark.parametrize("table", ["chime", "events"])
def test_a_webhook_of_chime_or_for_terminal_events_is_signed_with_an_hmac(customer, table):
    context, path_for = customer(f"notify.{table}", "secret_env = 'WHSEC'")
    with context as server:
        notifier = Configuration(path_for(server)).settings().notify.notifiers()[table]
        notifier.tell(message())
    (request,) = server.requests
    assert verify(request.headers, request.body, [WHSEC], now=datetime.now(UTC)) == "n:1"


def test_a_webhook_of_sinch_is_signed_as_sinch_signs(customer, environment):
    sinch = secret_base64(16)
    environment.setenv("SINCH", sinch)
    context, path_for = customer("notify.sinch", "application_key = 'acme'", "secret_env = 'SINCH'")
    with context as server:
        Configuration(path_for(server)).settings().notify.notifiers()["sinch"].tell(message("sinch"))
    (request,) = server.requests
    given = {"body": request.body, "secrets": {"acme": sinch}, "now": datetime.now(UTC)}
    assert authenticate(request.headers, "POST", "/calls", **given) == "acme"


def test_a_webhook_of_graph_has_a_bearer_token(customer):
    context, path_for = customer("notify.graph", "token_env = 'HUSH'")
    with context as server:
        Configuration(path_for(server)).settings().notify.notifiers()["graph"].tell(message("graph"))
    assert server.requests[0].headers["authorization"] == f"Bearer {HUSH}"


def test_a_function_is_invoked_at_the_endpoint_that_is_set(write, environment):
    environment.setenv("AWS_ACCESS_KEY_ID", "a")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with serving(plain(200, b'{"Actions": []}')) as server:
        path = write(
            f"[notify.chime]\nfunction = 'record-calls'\nregion = 'eu-central-1'\nqualifier = 'live'\n"
            f"endpoint_url = 'http://127.0.0.1:{server.port}'"
        )
        answer = read(path).notify.notifiers()["chime"].tell(message(kind="invocation"))
    assert answer.document == {"Actions": []}
    assert "/functions/record-calls/invocations?Qualifier=live" in server.requests[0].target


def test_a_recorder_tells_customers_and_terminal_events_as_its_settings_say(customer, tmp_path):
    def answer(request):
        body = json.loads(request.body)
        return plain(
            200, b'{"SchemaVersion": "1.0", "Actions": []}' if "InvocationEventType" in body else b""
        )

    context, path_for = customer("notify.chime", "secret_env = 'WHSEC'", answer=answer)
    with context as server:
        text = path_for(server).read_text()
        path = tmp_path / "both.toml"
        path.write_text(
            text + text[text.index("[notify.chime]") :].replace("[notify.chime]", "\n[notify.events]")
        )
        clock = Clock(10)
        with Recorder(Configuration(path).settings(), clock=clock) as recorder:
            call = recorder.add_call("c-1", dialect=Chime())
            call.add_leg(call_id="c-1", status="offered")
            call.answered("LEG-A")
            call.start_recording(StartRecording())
            feed(call, clock, 0.5)
            call.end()
            (event,) = ended(recorder)
            assert recorder.drain(10)
    bodies = [json.loads(request.body) for request in server.requests]
    assert "NEW_INBOUND_CALL" in [body.get("InvocationEventType") for body in bodies]
    assert [body["take_id"] for body in bodies if body.get("event") == "take_ended"] == [event.take_id]


def test_a_host_that_has_ways_of_its_own_counts_before_the_settings(tmp_path):
    asked = []
    settings = Settings(tmp_path / "sp", notify=Ways(chime=Signed(function="f"), events=Signed(function="g")))
    with Recorder(settings, notifier_for=lambda one: asked.append(one)) as recorder:
        recorder.add_call("c-1", dialect=Chime()).add_leg(call_id="c-1", status="offered")
        assert any(isinstance(one, VendorMessage) for one in recorder.events(5))
    assert asked


def test_ways_show_no_secret():
    way = Signed(url=f"https://h.example/{HUSH}", secret=lambda: WHSEC)
    assert HUSH not in repr(way)
    for cls in (Signed, SinchSigned, Bearer):
        assert is_dataclass(cls)
        assert all(
            not one.repr for one in fields(cls) if "secret" in one.name or one.name in ("token", "url")
        )


@pytest.mark.parametrize(
    ("host", "networks", "why"),
    [
        ("[::ffff:10.0.0.5]", ("::/0",), "private; allowed_networks opens it"),
        ("169.254.169.254", ("0.0.0.0/0",), "a metadata service"),
        ("[fd00:ec2::254]", ("::/0",), "a metadata service"),
    ],
)
def test_a_setting_is_named_only_to_who_is_refused_what_it_opens(host, networks, why):
    with pytest.raises(RefusedAddressError) as error:
        Bearer(url=f"https://{host}/", token=lambda: HUSH, allowed_networks=networks)
    assert str(error.value).endswith(f"its address is {why}")


# ---- the command ----


def test_what_is_printed_may_be_used_as_a_file(write, capsys, environment):
    path = write(
        "[spool]\nfolder = 'x'\nfsync = 'always'\n[delivery]\ndestination = 's3://b/p'\nmakers = 3\n"
        "[s3]\ntags = {a = 'b c', d = 'e'}\nobject_lock_mode = 'GOVERNANCE'\nobject_lock_until = 2027-01-01T00:00:00Z\n"
        "secret_key_env = 'HUSH'\naccess_key_env = 'HUSH'\n[retention]\ndelivered_s = 60\n"
        "[notify.chime]\nfunction = 'f'\nallowed_networks = ['10.0.0.0/8']\n"
    )
    settings = Configuration(path).settings()
    assert cli.main(["config", "--config", str(path)]) == 0
    printed = capsys.readouterr().out
    assert tomllib.loads(printed)["delivery"]["makers"] == 3
    path.write_text(printed)
    assert Configuration(path).settings() == settings


def test_every_setting_is_printed_with_its_default_and_what_is_missing_is_said(capsys):
    assert cli.main(["config"]) == 2
    out, err = capsys.readouterr()
    for key in KEYS.values():
        if not key.table.startswith("notify."):
            assert f"\n{key.spellings[0]} = " in out or f"# {key.spellings[0]} = " in out
    assert "# folder = none                                   # not set" in out
    assert err == "callreel: [spool] folder is not set: neither in a file nor as CALLREEL_SPOOL_FOLDER\n"


def test_a_check_prints_only_what_is_wrong(write, capsys):
    assert cli.main(["config", "--check", "--config", str(write("[spool]\nfolder = 'x'"))]) == 0
    assert capsys.readouterr() == ("", "")
    path = write("[spool]\nfolder = 'x'\nfsync = 'q'")
    assert cli.main(["config", "--check", "--config", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f'callreel: {path}: [spool] fsync is "q"; allowed: "none", "interval", "always"\n'


def test_settings_can_be_printed_as_json(write, capsys):
    path = write(
        "[spool]\nfolder = 'x'\n[s3]\ntags = {a = 'b'}\n"
        "object_lock_mode = 'GOVERNANCE'\nobject_lock_until = 2027-01-01T00:00:00Z"
    )
    assert cli.main(["config", "--json", "--config", str(path)]) == 0
    found = {
        (one["table"], one["name"]): one for one in map(json.loads, capsys.readouterr().out.splitlines())
    }
    assert found["s3", "tags"]["value"] == {"a": "b"}
    assert found["s3", "object_lock_until"]["value"].startswith("2027-01-01")
    assert found["spool", "folder"]["source"] == str(path)
