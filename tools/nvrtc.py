"""Any release of NVRTC, by its version, from PyPI: `python tools/nvrtc.py 12.4.99` prints its path.

Each is downloaded once and lies unpacked in build/nvrtc/VERSION.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "build" / "nvrtc"


def library(version: str) -> Path:
    """Raises CalledProcessError with pip's words where it cannot be had."""
    folder = FOLDER / version
    if not folder.is_dir():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
            _download(version, Path(temporary))
            unpacked = Path(temporary) / version
            unpacked.mkdir()
            (wheel,) = Path(temporary).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if ".so" in name:
                        (unpacked / Path(name).name).write_bytes(archive.read(name))
            unpacked.rename(folder)
    return next(folder.glob("libnvrtc.so.*"))


def _download(version: str, folder: Path) -> None:
    package = "nvidia-cuda-nvrtc" + ("-cu12" if version.startswith("12.") else "")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(folder), f"{package}=={version}"], check=True)


if __name__ == "__main__":
    print(library(sys.argv[1]))
