"""Sources, one folder or file each. A source uses only `tidewire.collect` and `tidewire.records`."""
