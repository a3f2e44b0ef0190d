"""What a generator's adapters know: exact match on held-out documents."""
