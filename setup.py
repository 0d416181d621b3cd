"""Compiled modules of slotwise; everything else is declared in pyproject.toml.

SLOTWISE_BUILD chooses the build: ``release`` (default), ``debug`` (assertions, bounds
checks, no optimisation), ``trace`` (line tracing for coverage) or ``asan``
(AddressSanitizer and UBSan; run with ``LD_PRELOAD=libasan.so``). Each has a folder of its
own under ``build``, so that none picks up what another has left.
"""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

BUILD = os.environ.get("SLOTWISE_BUILD", "release")

if sys.platform == "win32":
    FLAGS = {"release": (["/O2"], [])}
else:
    _WARN = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
    _SAN = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    FLAGS = {
        # -g0: symbols that the interpreter's own flags ask for double the wheel.
        "release": (["-O2", "-g0", *_WARN], []),
        "debug": (["-O0", "-g", *_WARN], []),
        "trace": (["-O0", "-g", "-DCYTHON_TRACE=1", "-DCYTHON_TRACE_NOGIL=1"], []),
        "asan": (["-O1", "-g", *_SAN], _SAN),
    }

if BUILD not in FLAGS:
    sys.exit(f"SLOTWISE_BUILD={BUILD!r} is unknown; choose one of {', '.join(FLAGS)}")

COMPILE, LINK = FLAGS[BUILD]
CHECKED = BUILD in ("debug", "asan")
FOLDER = f"build/{BUILD}"

# module -> the files that make it stale, besides its own .pyx
MODULES = {
    "_slots": ["_crc16.h", "_slots.pxd"],
    "_encoder": ["_crc16.h", "_encoder.pxd", "_slots.pxd"],
    "_link": ["_net.h", "_crc16.h", "_encoder.pxd", "_link.pxd", "_slots.pxd"],
    "_aiolink": ["_net.h", "_crc16.h", "_aiolink.pxd", "_encoder.pxd", "_link.pxd", "_slots.pxd"],
    "_calls": ["_aiolink.pxd", "_calls.pxd", "_encoder.pxd", "_link.pxd", "_slots.pxd"],
}

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"slotwise.{name}",
                [f"ext/slotwise/{name}.pyx"],
                depends=[f"ext/slotwise/{d}" for d in depends],
                include_dirs=["ext/slotwise"],
                extra_compile_args=COMPILE,
                extra_link_args=LINK,
            )
            for name, depends in MODULES.items()
        ],
        # The .pxd files lie beside the sources in ext/, which is no Python package.
        include_path=["ext"],
        build_dir=FOLDER,
        compiler_directives={
            "language_level": "3",
            "boundscheck": CHECKED,
            "wraparound": CHECKED,
            "initializedcheck": CHECKED,
            "nonecheck": CHECKED,
            "cdivision": True,
            "embedsignature": True,
            "binding": True,
            "linetrace": BUILD == "trace",
        },
    ),
    options={"build": {"build_base": FOLDER, "parallel": os.cpu_count()}},
)
