"""What the tests of the vendors' APIs share: a service with the customers ACME and OTHER of their module."""

import pytest

from service_host import listening
from vendor_customers import service_in


@pytest.fixture(scope="module")
def service(request, tmp_path_factory):
    return service_in(tmp_path_factory.mktemp("service"), request.module.ACME, request.module.OTHER)


@pytest.fixture(scope="module")
def running(service):
    with listening(service) as one:
        yield one
