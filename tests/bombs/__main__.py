"""Make bombs, and have them read: ``python -m tests.bombs``, from the root of the repository.

libarchive is among the readers where libarchive-c is installed (and libarchive, which it loads).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bombs.kinds import BASE, BOMBS  # noqa: E402
from bombs.readers import READERS  # noqa: E402
from bombs.server import Server  # noqa: E402


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bombs", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="BOMB", help="only these")
    parser.add_argument("--small", action="store_true", help="as large as in the suite")
    parser.add_argument("--seconds", type=int, default=120, help="of the processor, that a reader may take")
    parser.add_argument("--memory", type=int, default=8, help="GiB that a reader may take")
    arguments = parser.parse_args()
    servers = {
        name: Server(name, ROOT) for name in READERS if name != "libarchive" or find_spec("libarchive") is not None
    }
    print(f"{'bomb':22} {'reader':16} {'file':>13} {'seconds':>8} {'peak MiB':>9}  what it says")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or BOMBS:
            one = BOMBS[name]
            n = one.small if arguments.small else one.full
            path = Path(folder, f"{name}.{one.suffix}")
            made = servers["ours"].ask("make", name, path, n, 600, 12 << 30)
            if made.kind != "read":
                print(f"{name:22} could not be made: {made}", flush=True)
                continue
            size = path.stat().st_size
            print(f"{name}: {n:,}: {one.says}", flush=True)
            for reader, server in servers.items():
                if one.suffix not in READERS[reader][1] or (reader != "ours" and one.action not in ("list", "test")):
                    continue
                found = server.ask("read", name, path, n, arguments.seconds, arguments.memory << 30)
                bound = BASE + one.factor * size
                bad = reader == "ours" and (found.kind not in ("read", "refused") or found.peak > bound)
                wrong += bad and not one.fault
                note = f"  <-- {one.fault or 'WRONG'}" if bad else ""
                print(
                    f"{'':22} {reader:16} {size:13,} {found.seconds:8.2f} {found.peak / (1 << 20):9,.1f}  "
                    f"{found.kind}: {found.says}{note}",
                    flush=True,
                )
            for file in Path(folder).iterdir():
                file.unlink()
    for server in servers.values():
        server.close()
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
