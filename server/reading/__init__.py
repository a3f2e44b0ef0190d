"""Documents to text: what a caller uploads becomes what the generator reads."""
