"""A bot's process. Standard library only until the bot's own code is loaded; Python 3.10 or later."""
