"""What things cost on this machine: `make bench`.

A report, not a test: absolute figures belong to the machine they were taken on; ratios within one run hold.
"""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

import command_times
import listing_cost
import request_times
from support.installation import Installation


def main() -> None:
    print(
        f"Python {platform.python_version()} on {platform.machine()}, {platform.system()} {platform.release()}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        cortex = Installation(Path(folder))
        try:
            command_times.report(cortex, Path(folder))
            request_times.report(cortex, Path(folder))
            listing_cost.report(Path(folder))
        finally:
            cortex.down()


if __name__ == "__main__":
    main()
