"""Model directories: a complete listing in, models with integer versions and problems out. Pure.

The same rules at deploy, in a replica and in tests. Workers load this package, so it imports next to nothing.
"""
