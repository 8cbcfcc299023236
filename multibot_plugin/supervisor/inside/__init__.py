"""What else runs inside supervisord: its weak spots that hurt bots, mended for every program that it has.

parts.py    the switches, and how everything is put into supervisord
turns.py    dead programs are noticed and started again at once; forks are quick
stops.py    programs of one priority stop side by side
ends.py     how each program ended and how often, which supervisord forgets
updates.py  single bots are read anew, without the whole configuration
care.py     a monitor that hangs is replaced
patches.py  what is replaced in supervisor's classes

and what the methods answer with:

rows.py     a bot as getBots tells of it
status.py   the monitor's file
requests.py what the monitor is asked to do
refusing.py calls that are refused, and a supervisor that is too old
words.py    words that both sides use

Imports supervisor, the standard library and multibot_runner.protocol only. Nothing here blocks or lets an exception
out: supervisord would end and orphan every bot. supervisor's ``options`` object is its seam for system calls (poll,
waitpid, fork, get_signal): what has to be told of those is put around them there. Each part is an option of
[rpcinterface:multibot] and can be switched off.
"""
