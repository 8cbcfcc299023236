"""Three small bots for ``multibot demo``, one per launch form. Read them, copy them."""
