"""multibot: many Telegram bots on one supervisord."""

__version__ = "0.1.0"
