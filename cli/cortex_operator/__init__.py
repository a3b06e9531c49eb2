"""The control plane: desired state, reconciler, backends and gateway behind one HTTP API."""
