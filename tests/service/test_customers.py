"""Whose call it is, and who is told: applications of tenants, also after a restart."""

import threading
import time

import pytest

from callreel.errors import DeliveryError, UsageError
from callreel.events import LegStatus, VendorMessage
from callreel.notify.functions import PythonFunction
from callreel.service.customers import KEPT_S, Customers, Routes
from callreel.service.host import LegWish
from callreel.service.permits import Permits
from callreel.service.vendors import SinchApplication, SinchSettings, VendorSettings
from service_host import listening
from vendor_customers import Backend, begun, service_in, tenant_called, vendors_of

ACME, OTHER = tenant_called("acme"), tenant_called("other")


@pytest.fixture
def made(tmp_path):
    """Makes the customers of settings."""
    routes = Routes(tmp_path / "routes.sqlite")
    permits = Permits(tmp_path / "permits.sqlite", now_s=0.0)
    yield lambda settings, **given: Customers(settings, routes, permits=permits, **{"public_url": ""} | given)
    routes.close()
    permits.close()


@pytest.fixture
def customers(made, tmp_path):
    return made(vendors_of(tmp_path, [ACME, OTHER]), public_url="https://calls.example/")


def application_of(customers, dialect, tenant="acme", **options):
    return customers.customer(dialect, options, tenant=tenant, call_id="call-1").application


@pytest.mark.parametrize(
    ("dialect", "name", "application"),
    [
        ("chime", "sip_media_application_id", "sip_media_application"),
        ("sinch", "application_key", "sinch_key"),
        ("graph", "application_id", "graph_application"),
    ],
)
def test_a_call_is_of_the_tenants_application(customers, dialect, name, application):
    ours, theirs = getattr(ACME, application), getattr(OTHER, application)
    assert application_of(customers, dialect) == ours
    assert application_of(customers, dialect, **{name: ours}) == ours
    assert application_of(customers, dialect, **{name: "of nobody"}) == ""
    assert application_of(customers, dialect, tenant="somebody") == ""
    with pytest.raises(UsageError, match="there is no application"):
        application_of(customers, dialect, **{name: theirs})
    with pytest.raises(UsageError, match="is text"):
        application_of(customers, dialect, **{name: ["of nobody"]})


def test_of_several_applications_one_must_be_named(made):
    settings = SinchSettings({key: SinchApplication("acme", lambda: "") for key in ("one", "two")})
    customers = made(VendorSettings(sinch=settings))
    assert application_of(customers, "sinch") == ""
    assert application_of(customers, "sinch", application_key="two") == "two"


def test_options_that_a_session_does_not_have_are_refused(customers):
    for options in ({"drive": "other"}, {"checks_access": False}, {"record_audio_format": "ogg"}):
        with pytest.raises(UsageError):
            application_of(customers, "chime", **options)


def test_what_a_call_says_reaches_its_own_customer_only(customers):
    customers.begun("call-1", ACME.sinch_key)
    message = VendorMessage("call-1", "sinch", "notification", {})
    assert customers.notifier_for(message).lane == "python:acme.sinch"
    assert customers.notifier_for(message._replace(dialect="chime")) is None
    assert customers.notifier_for(message._replace(call_id="call-2")) is None


def test_what_a_call_of_no_application_says_reaches_whom_the_recorder_is_set_up_with(made, tmp_path):
    other = PythonFunction(Backend(), name="other")
    customers = made(vendors_of(tmp_path, [ACME]), others={"chime": other})
    message = VendorMessage("call-1", "chime", "notification", {})
    assert customers.notifier_for(message) is other
    assert customers.notifier_for(message._replace(dialect="sinch")) is None
    customers.begun("call-1", ACME.sip_media_application)
    assert customers.notifier_for(message).lane == "python:acme.chime"


def test_an_id_that_was_another_customers_is_taken(customers):
    customers.begun("call-1", ACME.sinch_key)
    assert application_of(customers, "sinch") == ACME.sinch_key
    with pytest.raises(UsageError, match="there is a call"):
        application_of(customers, "sinch", tenant="other")


def test_whose_a_call_was_is_forgotten_after_a_week(tmp_path, monkeypatch):
    routes, now = Routes(tmp_path / "routes.sqlite"), time.time()
    routes.keep("old", "app")
    monkeypatch.setattr(time, "time", lambda: now + KEPT_S + 60)
    routes.keep("new", "app")
    routes.sweep()
    assert (routes.application_of("old"), routes.application_of("new")) == (None, "app")
    routes.close()


def test_a_tenant_cannot_take_the_id_of_anothers_call_that_is_over(tmp_path):
    with listening(service_in(tmp_path, ACME, OTHER)) as running:
        mine = running.client()
        call_id = mine.post("/v1/calls", json={"legs": [{"media": "none"}]}).json()["call_id"]
        mine.delete(f"/v1/calls/{call_id}")
        body = {"call_id": call_id, "legs": [{"media": "none"}]}
        assert running.client("other").post("/v1/calls", json=body).status_code == 409
        end = time.monotonic() + 10
        while mine.post("/v1/calls", json=body).status_code != 201:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_what_was_not_told_is_told_after_a_restart(tmp_path):
    acme = tenant_called("acme")
    asked = threading.Event()

    def refuses(notification):
        asked.set()
        raise DeliveryError("not now", retryable=True)

    vendors = vendors_of(tmp_path, [acme])
    for key, one in vendors.chime.applications.items():
        object.__setattr__(one, "handler", PythonFunction(refuses, name="acme.chime"))
        assert key == acme.sip_media_application
    with listening(service_in(tmp_path, acme, vendors=vendors)) as running:
        call_id = begun(running.client(), "chime")
        running.client().delete(f"/v1/calls/{call_id}")
        assert asked.wait(10)
    again = Backend()
    vendors = vendors_of(tmp_path, [acme])
    for one in vendors.chime.applications.values():
        object.__setattr__(one, "handler", PythonFunction(again, name="acme.chime"))
    with listening(service_in(tmp_path, acme, vendors=vendors)):
        hangup = again.wait_for(lambda body: body["InvocationEventType"] == "HANGUP", timeout_s=40)
        assert hangup["CallDetails"]["TransactionId"] == call_id


def ended(running, call_id, timeout_s=15.0):
    """What the stream of events says of the legs of a call that has ended."""
    end = time.monotonic() + timeout_s
    while not running.service.host.call(call_id).recorded.is_over:
        assert time.monotonic() < end
        time.sleep(0.02)
    while True:
        told = running.service.host.stream.since(0).told
        events = [one.body for one in told if one.body["call_id"] == call_id]
        if events[-1]["event"] == "call_ended":
            return [one for one in events if one["event"] == "leg_changed"]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_call_whose_program_does_not_answer_ends_as_with_the_vendor(tmp_path):
    acme = tenant_called("acme")

    def fails(body):
        raise DeliveryError("not now", retryable=True)

    acme.chime.answer = acme.sinch.answer = fails
    with listening(service_in(tmp_path, acme)) as running:
        chime = begun(running.client(), "chime", leg={"status": "offered"})
        sinch = begun(running.client(), "sinch", leg={"status": "offered"})
        assert ended(running, chime)[-1]["sip_response_code"] == 480
        ended(running, sinch)
        assert acme.sinch.wait_for(lambda body: body["event"] == "dice")["reason"] == "CALLBACKERROR"


def test_a_call_of_sinchs_that_was_answered_goes_on_when_its_program_does_not(tmp_path):
    acme = tenant_called("acme")
    asked = threading.Event()

    def fails(body):
        asked.set()
        raise DeliveryError("not now")

    acme.sinch.answer = fails
    with listening(service_in(tmp_path, acme)) as running:
        host, customers = running.service.host, running.service.customers
        customer = customers.customer("sinch", {}, tenant="acme", call_id="call-1")
        leg = LegWish(inbound=False, status=LegStatus.DIALED)
        call = host.create(
            "call-1", tenant="acme", legs=[leg], dialect=customer.session, application=customer.application
        )
        call.recorded.answered("LEG-A")
        assert asked.wait(10)
        end = time.monotonic() + 10
        while not [one for one in host.stream.since(0).told if one.body.get("name") == "continue"]:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert not call.recorded.is_over
