"""The compiled build: with GATEWAY_COMPILED=1 mypyc makes machine code of the modules that pyproject.toml lists.

And the C compiler of media/convolution.c, media/rows.c and gateway/lean/sysio.c, which media/resample.py,
media/row_memory.py and gateway/lean/rounds.py take where they are there.

What a package is stands in pyproject.toml; without the variable this file adds nothing. docs/performance.md has the
command, and what it gains.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
import tomllib
from importlib.util import find_spec
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

COMPILER = "mypy>=2.4,<3"
COMPILED = os.environ.get("GATEWAY_COMPILED", "0") not in ("", "0")


def check() -> None:
    """SetupError, with the remedy: something that the compiled build needs is not there."""
    if find_spec("mypyc") is None:
        raise SetupError(f"GATEWAY_COMPILED needs mypyc: pip install '{COMPILER}', or build without it")
    if sys.platform == "win32":
        return  # setuptools finds Microsoft's compiler by itself, and says so where there is none
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(command) is None:
        raise SetupError(
            f"GATEWAY_COMPILED needs a C compiler, and there is no {command}: install gcc, or build without"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise SetupError(f"GATEWAY_COMPILED needs {header}: install python3-dev (or python3-devel), or build without")


class Compile(build_ext):
    """With mypyc's modules."""

    def finalize_options(self) -> None:
        check()
        from mypyc.build import mypycify

        modules = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["gateway"]["compiled"]
        # Types of libraries that are not installed where it is built are anything: then they are looked at as it runs.
        arguments = ["--config-file=", "--follow-imports=silent", "--ignore-missing-imports", *modules]
        self.distribution.ext_modules = mypycify(arguments, opt_level="3", group_name="gateway")
        for module in self.distribution.ext_modules:
            module.extra_compile_args.append("-Wno-error")  # warnings of compilers to come
        fast = [] if sys.platform == "win32" else ["-O3"]
        # Where sums are rounded, to numpy's bits: no product may be added without having been rounded itself.
        as_numpy = [*fast, "-ffp-contract=off"] if fast else []
        self.distribution.ext_modules += [
            Extension("media.convolution", ["media/convolution.c"], extra_compile_args=fast),
            Extension("media.rows", ["media/rows.c"], extra_compile_args=as_numpy),
        ]
        if sys.platform == "linux":
            self.distribution.ext_modules.append(
                Extension("gateway.lean.sysio", ["gateway/lean/sysio.c"], extra_compile_args=fast)
            )
        super().finalize_options()

    def run(self) -> None:
        if self.editable_mode:
            raise SetupError("GATEWAY_COMPILED makes no editable install: it would go on running what was compiled")
        super().run()


class Compiled(Distribution):
    """Has extension modules, though they are not known yet: the wheel is of this platform."""

    def has_ext_modules(self) -> bool:
        return True


if not COMPILED:
    setup()
elif {"egg_info", "dist_info"} & set(sys.argv):
    # pip asks what the package is, and what it shall fetch for the build into an environment of its own.
    setup(distclass=Compiled, setup_requires=[] if find_spec("mypyc") else [COMPILER])
else:
    setup(distclass=Compiled, cmdclass={"build_ext": Compile})
