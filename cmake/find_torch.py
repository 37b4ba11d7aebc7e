"""Prints the folder that holds the torch to build for: the one that the library will run with.

A build may run in isolation: pip hides the environment's packages from the build's Python but runs
the environment's own, and `python -m build` makes another environment beside the activated one.
What the library is compiled against must be what is installed, so these hidden places are looked
through as well, and torch is no requirement of the build, for which another would be fetched.
"""

import os
import site
import sys
import sysconfig
from pathlib import Path


def places() -> list[Path]:
    """Where a torch may lie, nearest first."""
    found = [*sys.path[1:], sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    found += site.getsitepackages()
    if sys.prefix == sys.base_prefix:  # a virtual environment does not see the user's own packages
        found.append(site.getusersitepackages())
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if prefix := os.environ.get(variable):
            version = f"python{sys.version_info.major}.{sys.version_info.minor}"
            found.append(f"{prefix}/lib/{version}/site-packages")
    return [Path(place) for place in dict.fromkeys(found) if place]


def main() -> int:
    looked_at = places()
    for place in looked_at:
        if (place / "torch" / "version.py").is_file() and (place / "torch" / "include").is_dir():
            print(place)
            return 0
    print(*(f"  {place}" for place in looked_at), sep="\n", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
