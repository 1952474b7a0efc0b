"""How a student learns from an external teacher: one small module per method."""
