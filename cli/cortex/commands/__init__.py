"""One module a command: it parses options, calls one function and prints what that returns."""
