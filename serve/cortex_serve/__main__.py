"""`python -m cortex_serve` is `cortex-serve`."""

from cortex_serve.main import run

if __name__ == "__main__":
    run()
