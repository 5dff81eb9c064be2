"""Who may do what: operators, the token for metrics, cookies and the tokens of forms."""

import pytest

from callreel.errors import UsageError
from callreel.recorder import Settings
from callreel.service.access import SESSION_S, Access
from callreel.service.settings import ServiceSettings

TOKENS = {"acme": lambda: "a" * 20, "form": lambda: "f" * 20, "short": lambda: "s" * 8}
METRICS = "m" * 20


@pytest.fixture
def access():
    return Access(TOKENS, operators={"acme"}, metrics_token=lambda: METRICS)


def test_an_operator_is_who_is_named_or_who_is_alone(access):
    assert access.is_operator("acme")
    assert not access.is_operator("form")
    assert Access({"acme": TOKENS["acme"]}).is_operator("acme")
    assert not Access(TOKENS).is_operator("acme")
    assert Access({}, is_open=True).is_operator("local")


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", f"Basic {METRICS}", METRICS, f"Bearer {METRICS}x", "Bearer " + "a" * 20],
)
def test_only_its_own_token_reads_the_metrics(access, header):
    assert access.may_measure(f"Bearer {METRICS}")
    assert access.may_measure(f"bearer  {METRICS} ")
    assert not access.may_measure(header)
    assert access.tenant_of(f"Bearer {METRICS}", now_s=0.0) is None


def test_a_token_that_is_too_short_is_nobodys():
    access = Access(TOKENS, metrics_token=lambda: "short")
    assert access.tenant_of_token("s" * 8) is None
    assert not access.may_measure("Bearer short")
    assert not Access(TOKENS).may_measure("Bearer ")


def test_a_token_of_any_text_is_compared(access):
    for text in ("é", "\ud800", "a" * 100_000, ""):
        assert access.tenant_of_token(text) is None


def test_a_cookie_is_good_until_its_end_and_only_where_it_was_made(access):
    cookie = access.cookie_for("acme", now_s=1000.0)
    assert access.tenant_of(None, cookie, now_s=1000.0 + SESSION_S - 1) == "acme"
    assert access.tenant_of(None, cookie, now_s=1000.0 + SESSION_S) is None
    assert Access(TOKENS).tenant_of(None, cookie, now_s=1000.0) is None
    gone = Access({"form": TOKENS["form"]})
    gone._key = access._key
    assert gone.tenant_of(None, cookie, now_s=1000.0) is None


def test_a_token_of_a_form_is_bound_to_its_browser_and_is_no_cookie(access):
    cookie = access.cookie_for("acme", now_s=0.0)
    token = access.form_token(cookie)
    assert access.is_form_token(token, cookie)
    assert not access.is_form_token(token, access.cookie_for("form", now_s=0.0))
    assert not access.is_form_token("\ud800", cookie)
    # A browser chooses the cookie that its form is bound to: that must not make it anybody.
    for chosen in ("99999999999", "form.99999999999", "session\0form.99999999999"):
        forged = f"form.99999999999.{access.form_token(chosen)}"
        assert access.tenant_of(None, forged, now_s=0.0) is None


def test_no_repr_tells_a_token(access):
    assert repr(access) == "Access(['acme', 'form', 'short'])"


def test_an_operator_is_a_tenant(tmp_path):
    with pytest.raises(UsageError, match="the operator nobody is no tenant"):
        ServiceSettings(Settings(tmp_path), tokens=TOKENS, operators=frozenset({"nobody"}))
