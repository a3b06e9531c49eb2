"""What the command line, the operator and the runtime must agree on."""
