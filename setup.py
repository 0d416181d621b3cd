"""Compiled modules of slotwise; everything else is declared in pyproject.toml.

SLOTWISE_BUILD chooses the build: ``release`` (default), ``debug`` (assertions, bounds
checks, no optimisation), ``trace`` (line tracing for coverage) or ``asan``
(AddressSanitizer and UBSan; run with ``LD_PRELOAD=libasan.so``). Each has a folder of its
own under ``build``, so that none picks up what another has left.
"""

import os
import sys
from glob import glob
from pathlib import Path

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

# What they declare to one another; a change there makes all of them stale.
DECLARATIONS = sorted([*glob("ext/slotwise/*.pxd"), *glob("ext/slotwise/*.h")])

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"slotwise.{Path(source).stem}",
                [source],
                depends=DECLARATIONS,
                include_dirs=["ext/slotwise"],
                extra_compile_args=COMPILE,
                extra_link_args=LINK,
            )
            for source in sorted(glob("ext/slotwise/*.pyx"))
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
