"""What the figures of a run depend on, printed above and stored with them."""

import platform
from pathlib import Path

from callreel import kernels


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor() or platform.machine()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def pytest_report_header():
    return f"kernels: {kernels.isa()} of {', '.join(kernels.ISAS)}, on {_processor()}"


def pytest_benchmark_update_machine_info(machine_info):
    machine_info["callreel_isa"] = kernels.isa()
