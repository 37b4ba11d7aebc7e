"""Makes the environment's Python see python/ of this source tree, and gives it `liger-jit`.

An installed copy would have to be made anew after each change; this one is always what is here.
"""

import sys
import sysconfig
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "python"
COMMAND = f"""#!{sys.executable}
import sys
from liger_jit.cli import main
sys.exit(main())
"""


def write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


write(Path(sysconfig.get_path("purelib")) / "liger_jit_in_place.pth", f"{SOURCES}\n")
command = Path(sysconfig.get_path("scripts")) / "liger-jit"
write(command, COMMAND)
command.chmod(0o755)
