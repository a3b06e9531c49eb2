"""`python -m cortex_serve` is `cortex-serve`."""

import sys

from cortex_serve.main import main

if __name__ == "__main__":
    sys.exit(main())
