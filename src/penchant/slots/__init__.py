"""What a method is made of: one folder per factor of the equation, and compose, which fits them together."""
