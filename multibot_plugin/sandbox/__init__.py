"""A local Telegram Bot API server: any number of bots, real long polling, exact failures, faults on demand.

model, methods, updates, faults, state    what it knows and decides, without sockets
api                                       the Bot API's methods on that state
botapi, control, server, process          HTTP (aiohttp), the control routes, the process
client                                    playing the users from outside (standard library only)

Nothing here is needed to run a bot: the runner imports none of it.
"""
