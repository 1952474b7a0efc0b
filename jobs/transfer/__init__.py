"""How much of a teacher's gain reaches a student, measured on a simulated world: experiment E7."""
