"""The gateway in front of all APIs: Envoy, driven by files."""
