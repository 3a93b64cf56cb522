"""Mixed load for minutes, from real clients, while versions switch: nothing may grow, fail or be lost."""
