"""The store in SQL: tables, the thread that writes, and what is done in it, by subject.

The functions of `slots`, `records` and `due` run in that thread, inside its transaction, and while they do nobody
else writes, in this process or another.
"""
