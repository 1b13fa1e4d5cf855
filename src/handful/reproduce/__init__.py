"""Published tables and experiments, run again: `handful reproduce`."""
