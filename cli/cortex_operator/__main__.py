"""`python -m cortex_operator`: the local operator of the home that the environment names."""

import sys

from cortex_operator.main import main

if __name__ == "__main__":
    sys.exit(main())
