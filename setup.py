"""Builds native/*.pyx into callreel.kernels; everything static lives in pyproject.toml."""

import os
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# One word per compiled module: native/<word>.pyx becomes callreel.kernels.<word>.
KERNELS = [
    "cpu",
    "g711",
    "pcm",
    "tone",
    "dtmf",
    "wav",
    "mp3",
    "rtp",
    "pcap",
    "crc",
    "udp",
    "udp_load",
    "disk",
]

DEBUG = os.environ.get("CALLREEL_DEBUG") == "1"  # checks on, optimiser off
SANITIZE = os.environ.get("CALLREEL_SANITIZE", "")  # for example "address,undefined"
# A build with checks stands apart: nothing of it may end up in an ordinary one.
BUILD = "/".join(filter(None, ["build", "debug" if DEBUG else "", SANITIZE.replace(",", "-")]))
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")  # abi3 has no free-threaded form

MSVC = sys.platform == "win32"
if MSVC:
    compile_args = ["/std:c11", "/O2"]
    link_args = []
else:
    compile_args = ["-std=c11", *(["-O0", "-g3"] if DEBUG else ["-O3", "-g0"]), "-fvisibility=hidden"]
    # Every version of a kernel gives the same bits: no multiplication is fused with an addition behind our back.
    compile_args += ["-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
    link_args = []
    if SANITIZE:
        compile_args += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-fno-sanitize-recover"]
        link_args += [f"-fsanitize={SANITIZE}"]

extensions = [
    Extension(
        f"callreel.kernels.{name}",
        [f"native/{name}.pyx"],
        include_dirs=["native/include"],
        depends=[str(header) for header in sorted(Path("native/include/callreel").glob("*.h"))],
        define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE_ABI else [],
        py_limited_api=STABLE_ABI,
        libraries=[] if MSVC else ["m"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for name in KERNELS
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["native"],
        build_dir=f"{BUILD}/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "embedsignature": True,
            "freethreading_compatible": True,
        },
    ),
    options={
        "build": {"build_base": BUILD},
        **({"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {}),
    },
)
