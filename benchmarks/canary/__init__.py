"""How often the canary's judge errs, and how soon it sees what is wrong; beside the rules of others, on the same streams."""
