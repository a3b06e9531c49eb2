"""The places where replicas can run, behind one protocol."""
