"""docs/recorder.md says what is so: names and defaults are those of the code, its file is read, its code runs."""

import asyncio
import re
import threading
from dataclasses import MISSING, fields

from callreel import cli
from callreel.call import Call
from callreel.delivery.s3_settings import S3Settings
from callreel.recorder import RecordedCall, Recorder, Settings, TakeEnded, TakeReplayed
from callreel.recorder.configuration import Configuration
from callreel.recorder.settable import KEYS, TABLES, as_toml
from callreel.recorder.ways import Ways
from markdown_text import code_spans, fenced, section, table
from project import ROOT
from recording_host import packet

TEXT = (ROOT / "docs" / "recorder.md").read_text("utf-8")
HOST, ASYNC_HOST = fenced(TEXT, "python")
(FILE,) = fenced(TEXT, "toml")
SPOOL_TABLES = [name for name in TABLES if name != "s3" and not name.startswith("notify.")]


def verbs(cls):
    return {name for name in vars(cls) if not name.startswith("_")}


def test_every_setting_is_in_the_table_with_its_default():
    listed = {}
    for cells in table(section(TEXT, "## Settings"), "table"):
        (place,), (key,), default = code_spans(cells[0]), code_spans(cells[1]), cells[2]
        listed[f"{place}.{key}"] = code_spans(default)[0] if "`" in default else default
    there = {}
    for name, key in KEYS.items():
        if key.table in SPOOL_TABLES:
            there[name] = "needed" if key.default is MISSING else as_toml(key.default)
    assert listed == there


def test_every_field_of_the_settings_is_a_setting_of_the_table_or_a_table_itself():
    for one in fields(Settings):
        place, name = one.metadata.get("table"), one.metadata.get("key", one.name)
        assert f"{place}.{name}" in KEYS or any(name == where.partition(".")[0] for where in TABLES), one.name


def test_every_setting_of_s3_is_in_its_document():
    rows = table((ROOT / "docs" / "s3.md").read_text("utf-8"), "setting")
    listed = {name for row in rows for name in code_spans(row[0])}
    assert listed == {one.name for one in fields(S3Settings)}
    there = {key.name for key in KEYS.values() if key.table == "s3"}
    assert there == listed - {"bucket", "credentials"} | {"access_key", "secret_key", "session_token"}


def test_every_setting_of_who_is_told_is_in_the_table():
    rows = table(section(TEXT, "### Who is told"), "key")
    ways = [f"notify.{one.name}" for one in fields(Ways)]
    listed = {
        f"{way}.{code_spans(row[0])[0]}"
        for row in rows
        for way, cell in zip(ways, row[1:5], strict=True)
        if cell == "yes"
    }
    assert listed == {name for name, key in KEYS.items() if key.table.startswith("notify.")}


def test_the_terminal_event_has_the_members_that_are_listed():
    listed = [name for row in table(TEXT, "`TakeEnded`") for name in code_spans(row[0])]
    assert listed == list(TakeEnded._fields)


def test_the_event_of_a_replay_has_the_members_that_are_listed():
    (sentence,) = re.findall(r"`TakeReplayed` with(.*?)\.", TEXT, re.DOTALL)
    assert code_spans(sentence) == list(TakeReplayed._fields)


def test_the_verbs_are_those_of_the_code():
    listed = [name.partition("(")[0] for row in table(TEXT, "verb") for name in code_spans(row[0])]
    assert set(listed) == verbs(Recorder) | {"Recorder"}
    (sentence,) = re.findall(r"has the verbs of `callreel.Call`:(.*?)\.", TEXT, re.DOTALL)
    assert set(code_spans(sentence)) <= verbs(RecordedCall) & verbs(Call)
    internal = {"step", "stored", "awaits", "answer", "is_over", "is_safe", "let_go", "participants"} | {
        "packets",
        "levels",
        "forsake",
    }
    own = {one.partition("(")[0] for one in code_spans(TEXT) if one.endswith("(source)")}
    assert verbs(RecordedCall) - set(code_spans(sentence)) == internal | own


def test_the_file_of_the_example_is_one_that_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("RECORDINGS_SECRET", "whsec_" + "A" * 40)
    path = tmp_path / "callreel.toml"
    path.write_text(FILE)
    assert set(Configuration(path).settings().notify.notifiers()) == {"chime", "events"}
    assert cli.main(["config", "--check", "--config", str(path)]) == 0


def test_the_host_of_the_page_records(tmp_path, monkeypatch, capsys):
    (tmp_path / "callreel.toml").write_text('[spool]\nfolder = "spool"\n[delivery]\ndestination = "out"\n')
    monkeypatch.chdir(tmp_path)
    exec(HOST, {"media": map(packet, range(50))})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("file://")
    assert line.endswith(".wav")


def test_the_asyncio_host_of_the_page_records(tmp_path):
    there = {}
    exec(ASYNC_HOST, there)

    async def packets():
        for number in range(50):
            yield packet(number)

    settings = Settings(tmp_path / "spool", destination=str(tmp_path / "out"))
    event = asyncio.run(there["record"](settings, packets()))
    assert event.error is None
    assert event.manifest["tracks"][0]["packets"]["received"] == 50


def test_the_threads_do_not_depend_on_the_number_of_calls(tmp_path):
    def names():
        return sorted(one.name for one in threading.enumerate() if one.name.startswith("callreel"))

    with Recorder(Settings(tmp_path / "spool", destination=str(tmp_path / "out"))) as recorder:
        before = names()
        for number in range(100):
            recorder.add_call(f"c-{number}").add_leg()
        assert names() == before
        assert {"callreel-move", "callreel-office"} <= set(before)


def test_every_file_it_names_is_there():
    named = [one for one in code_spans(TEXT) if re.fullmatch(r"(src|tests|docs)/[\w./]+", one)]
    assert len(named) > 5
    assert [one for one in named if not (ROOT / one).exists()] == []
