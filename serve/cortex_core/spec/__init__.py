"""API files: YAML text → document with positions → schema problems → rule problems → typed spec.

Only `types` and `units` may be imported by a worker; everything else loads YAML and JSON Schema.
"""
